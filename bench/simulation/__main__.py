"""`python -m bench.simulation --schedules 1000`: run schedules, and print the seeds that fail."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from bench.simulation.schedule import outcome
from gpumpc.deploy.keys import Identity, keygen, load_identity
from gpumpc.local.compile import Plan, compile
from gpumpc.nn.graph import Conv2d, Flatten, Graph, Input, Linear, ReLU
from gpumpc.params import Params

_REPORT_S = 10.0
_MOST_FAILURES = 20


def small_plan() -> Plan:
    """A network of 16 inputs and 3 outputs."""
    layers = (
        Input("x", (), (4, 4, 1), -1.0, 1.0),
        Conv2d("conv", ("x",), (3, 3), 2, padding=(1, 1, 1, 1)),
        ReLU("relu", ("conv",)),
        Flatten("flat", ("relu",)),
        Linear("fc", ("flat",), 3),
    )
    graph, rng = Graph(layers), np.random.default_rng(1)
    weights = {name: 0.3 * rng.normal(size=s) for name, s in graph.weight_shapes().items()}
    return compile((graph, weights), name="small", params=Params(ring_bits=32, frac_bits=8))


def a_user() -> Identity:
    """Keys of a user."""
    with tempfile.TemporaryDirectory() as folder:
        keygen(Path(folder) / "user", "user", "user")
        return load_identity(Path(folder) / "user")


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
