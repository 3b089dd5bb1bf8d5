"""`python -m bench.gpu --part conformance|suite|sanitizer|kernels|networks [--emulated] [--out
FILE]`.

For the hour in which a GPU is there. Each part ends within nine minutes and writes a row to its
JSON file as it has it, with the device's name and versions, under bench/results/. It needs numpy,
cupy, pytest and cryptography, and says what it skips without which. The exit status is 1 if
anything failed.

  conformance  each inline-PTX wrapper against its model
  suite        all kernel and engine tests on the device
  sanitizer    compute-sanitizer: memcheck, racecheck, synccheck
  kernels      timings against ceilings measured in the same run, and against float64-limb products
  networks     whole networks, both servers and the dealer on the one device

`--emulated` runs a miniature of each through the emulator of tests/emulator: so that the command
works the day it is needed.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.gpu import bare, wrappers  # bare before anything of the package
from bench.gpu import timings as kernel_timings
from bench.gpu.parts import ROOT, missing, run, sanitize
from bench.gpu.results import Results
from gpumpc.ring.cupy_backend import CupyBackend
from gpumpc.ring.cupy_backend.device import CupyDevice

LIMIT_S = 520.0
Make = Callable[[], CupyBackend]


def emulated() -> CupyBackend:
    """A backend whose device is the emulator."""
    from tests.emulator.device import EmulatedDevice

    return CupyBackend(EmulatedDevice())


def conformance(make: Make, results: Results, small: bool) -> bool:
    """A row a wrapper."""
    backend = make()
    rows = [results.add(name, passed=agrees) for name, agrees in wrappers.check(backend)]
    return all(row["passed"] for row in rows)


def suite(make: Make, results: Results, small: bool) -> bool:
    """The tests on the device; in small, one file of them in the emulator."""
    if small:
        few, keyword = ["tests/kernels/test_three.py"], "ascending and truncation"
        return run(results, "emulated", LIMIT_S, few, keyword)
    return run(results, "cupy", LIMIT_S)


def sanitizer(make: Make, results: Results, small: bool) -> bool:
    """compute-sanitizer; there is nothing in small, and nothing where it is not installed."""
    passed = sanitize(results, "emulated" if small else "cupy", LIMIT_S)
    return passed or "skipped" in results.content["rows"][-1]


def kernels(make: Make, results: Results, small: bool) -> bool:
    """Timings; wrong words of a float64 route fail."""
    kernel_timings.run(make(), results, kernel_timings.SMALL if small else kernel_timings.FULL)
    return all(row.get("same_words", True) for row in results.rows())


def networks(make: Make, results: Results, small: bool) -> bool:
    """Whole networks; a tiny one in small."""
    from bench.gpu import whole_networks as whole
    from bench.gpu.graphs import tiny

    if small:
        whole.run(make, results, 0.5, {"tiny": tiny})
    else:
        whole.run(make, results)
    return True


PARTS: dict[str, Callable[[Make, Results, bool], bool]] = {
    part.__name__: part for part in (conformance, suite, sanitizer, kernels, networks)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one part."""
    about = __doc__.split("\n\n")[1]
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=about)
    parser.add_argument("--part", choices=[*PARTS], required=True)
    parser.add_argument("--emulated", action="store_true", help="a miniature, through the emulator")
    parser.add_argument("--out", type=Path, help="default: bench/results/DEVICE-PART.json")
    chosen = parser.parse_args(arguments)
    if not chosen.emulated and (why := missing("cupy")):
        print(f"error: {why}", file=sys.stderr)
        return 1
    make: Make = emulated if chosen.emulated else lambda: CupyBackend(CupyDevice())
    started = time.monotonic()
    unnamed = ROOT / "bench" / "results" / "unnamed.json"
    results = Results(chosen.out or unnamed, chosen.part, make())
    if chosen.out is None:
        device = re.sub(r"[^a-z0-9]+", "-", str(results.content["device"]).lower()).strip("-")
        results.path.unlink()
        results.path = results.path.with_name(f"{device}-{chosen.part}.json")
    if bare.ABSENT:
        results.skip("roles and processes", f"need {', '.join(bare.ABSENT)}")
    passed = PARTS[chosen.part](make, results, chosen.emulated)
    results.add("whole", passed=passed, seconds_total=time.monotonic() - started)
    print(results.path)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
