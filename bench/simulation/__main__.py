"""`python -m bench.simulation --schedules 1000`: run schedules, and print the seeds that fail."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter

from bench.simulation.plans import a_user, small_plan
from bench.simulation.schedule import outcome

_REPORT_S = 10.0
_MOST_FAILURES = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the schedules of seeds first .. first + schedules - 1; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args(arguments)
    plan, identity, start = small_plan(), a_user(), time.monotonic()
    totals, failed, reported = Counter[str](), list[int](), start
    for seed in range(options.first, options.first + options.schedules):
        counts, failure = outcome(seed, plan, identity)
        totals.update(counts)
        if failure is not None:
            failed.append(seed)
            print(f"seed {seed} failed:", file=sys.stderr)
            traceback.print_exception(failure)
            if len(failed) >= _MOST_FAILURES:
                break
        if time.monotonic() - reported > _REPORT_S:
            reported = time.monotonic()
            print(f"{dict(totals)}, failed {len(failed)}", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - start, 1)
    print(json.dumps({"part": "simulation", **totals, "failed": failed, "seconds": seconds}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
