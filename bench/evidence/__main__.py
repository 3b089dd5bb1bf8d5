"""Run the campaigns and write what they show to out/evidence, a JSON line a unit.

    python -m bench.evidence                      # every part; finished units are skipped
    python -m bench.evidence --part kills --n 50  # some units of one part
    python -m bench.evidence --part kills --unit 17  # one unit again, nothing written
    python -m bench.evidence --fast               # every part in its fast tier

The exit status is 1 if any unit has a fault.
"""

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from bench.evidence.part import Journal, Part

NAMES = (
    "search",
    "kills",
    "flips",
    "faults",
    "restore",
    "strangers",
    "users",
    "soak",
    "tap",
    "bugs",
    "law",
    "simulation",
    "machine",
    "overhead",
)
OUT = Path("out/evidence")


def load(name: str) -> Part:
    """The part of this name, whose module is imported only now."""
    part = importlib.import_module(f"bench.evidence.{name}").PART
    assert isinstance(part, Part)  # noqa: S101 - for the type checker
    return part


def work(part: Part, n: int, journal: Journal) -> None:
    """Run the units that are missing up to n, and write each down as it comes."""
    units = range(journal.next_unit, n)
    if not units:  # a part may start parties before its first unit
        return
    start = time.monotonic()
    for unit, finding in zip(units, part.run(units), strict=True):
        now = time.monotonic()
        journal.add(unit, finding, now - start)
        start = now
        for fault in finding.faults[:3]:
            print(f"{part.name} {unit}: FAULT {fault}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench.evidence")
    parser.add_argument("--part", action="append", choices=NAMES, help="all unless given")
    parser.add_argument("--fast", action="store_true", help="few units a part: minutes in all")
    parser.add_argument("--again", action="store_true", help="forget the units that are done")
    parser.add_argument("--n", type=int, help="how many units, instead of the part's own number")
    parser.add_argument("--unit", type=int, help="run this unit alone and write nothing down")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the findings")
    options = parser.parse_args(arguments)
    # The parties compute tiny networks, for which compiled loops only take time to load.
    os.environ.setdefault("GPUMPC_BACKEND", "numpy")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    failed = False
    for name in options.part or NAMES:
        part = load(name)
        if options.unit is not None:
            [finding] = part.run([options.unit])
            print(json.dumps({"part": name, **vars(finding)}))
            failed |= bool(finding.faults)
            continue
        tier = "fast-" if options.fast else ""
        journal = Journal(options.out / f"{tier}{name}.jsonl")
        if options.again:
            journal.clear()
        try:
            work(part, options.n or (part.fast if options.fast else part.full), journal)
        except Exception:  # the other parts run all the same
            traceback.print_exc()
            failed = True
        summary = journal.summary()
        print(json.dumps({"part": name, "unit": part.unit, **summary}), flush=True)
        failed |= bool(summary["n_faults"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
