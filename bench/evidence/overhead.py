"""Part `overhead`: what a request takes, beside the same request at an earlier commit.

    python -m bench.evidence.overhead --against COMMIT --workload vgg --pairs 12

Both commits serve at the same time from processes of their own (client, two servers, dealer), and
run in turns, one of them first in every other pair: what else the machine does meets both.
"""

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.evidence.part import Finding, Part
from bench.schema import row
from tests.processes.cluster import ROOT

# The last commit before stores were encrypted, rows settled, links watched and strangers bounded.
AGAINST = "4f568e7"
WORKLOADS = ("vgg", "lite0")
PAIRS = 12
# Results of both commits are right within this much of float64 (f = 13, `gpumpc bench`).
MOST_ERROR = 0.05
_SIDE = Path(__file__).with_name("overhead_side.py")


class Ratio(NamedTuple):
    """Now over before: the median of the pairs' ratios, and an interval of at least 95 %."""

    median: float
    low: float
    high: float


def ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The ratio of pairs (before, now); the interval holds for any distribution of the ratios.

    Raises ValueError for fewer than six pairs, which no such interval can be drawn from.
    """
    ratios, n = sorted(now / before for before, now in pairs), len(pairs)
    # The k smallest all lie above the median with probability P(Binomial(n, 1/2) < k).
    tails = [sum(math.comb(n, i) for i in range(k)) / 2**n for k in range(1, n // 2 + 1)]
    if not tails or tails[0] > 0.025:
        raise ValueError(f"{n} pairs are too few for an interval: at least 6 are needed")
    k = sum(tail <= 0.025 for tail in tails)
    return Ratio(statistics.median(ratios), ratios[k - 1], ratios[n - k])


class Side:
    """One commit's processes, ready to run. Use as a context manager.

    Args:
        tree: the commit's files.
    """

    def __init__(self, tree: Path, workload: str, folder: Path) -> None:
        # All its processes import from the tree, and not from the working folder, which they share
        # for the pretrained weights in out/data.
        places = {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(_SIDE), workload, str(folder)],
            cwd=ROOT,
            env={**os.environ, **places, "GPUMPC_BACKEND": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Side":
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self) -> tuple[float, float, float]:
        """Seconds of one request, processor seconds of the three parties, largest error."""
        assert self._process.stdin  # noqa: S101 - for the type checker
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds, processor_s, error = json.loads(self._read())
        return seconds, processor_s, error

    def _read(self) -> str:
        assert self._process.stdout  # noqa: S101 - for the type checker
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("one side has ended: see what it printed above")
        return line


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The files of a commit in a temporary folder. Raises CalledProcessError for an unknown one."""
    command = ["git", "archive", "--format=tar", commit]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    with tempfile.TemporaryDirectory(prefix="gpumpc-evidence-") as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="tar")
        yield Path(folder)


def measured(workload: str, against: str, n_pairs: int) -> Finding:
    """Pairs of runs, as ratios of now to before."""
    with contextlib.ExitStack() as stack:
        trees = (stack.enter_context(checked_out(against)), ROOT)
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in trees]
        before, now = (
            stack.enter_context(Side(tree, workload, Path(folder)))
            for tree, folder in zip(trees, folders, strict=True)
        )
        rows = []
        for number in range(n_pairs + 1):
            order = (before, now) if number % 2 else (now, before)
            runs = {side: side.run() for side in order}
            rows.append((runs[before], runs[now]))
    rows = rows[1:]  # the first runs load what later ones have ready
    notes = {
        "workload": workload,
        "against": against,
        "seconds_ratio": ratio([(old[0], new[0]) for old, new in rows])._asdict(),
        "processor_seconds_ratio": ratio([(old[1], new[1]) for old, new in rows])._asdict(),
        "seconds_before": statistics.median(old[0] for old, _ in rows),
        "seconds_now": statistics.median(new[0] for _, new in rows),
    }
    errors = {max(run[2] for run in side) for side in zip(*rows, strict=True)}
    faults = [f"{workload}: an error of {e:.3f}" for e in errors if e > MOST_ERROR]
    return Finding({"pairs": float(n_pairs)}, faults, notes)


def run(units: Sequence[int]) -> Iterator[Finding]:
    """A workload a unit."""
    for unit in units:
        yield measured(WORKLOADS[unit % len(WORKLOADS)], AGAINST, PAIRS)


def sentence(found: Mapping[str, Any]) -> str:
    """A row for people."""
    ratios = [found[name] for name in ("seconds_ratio", "processor_seconds_ratio")]
    wall, used = (f"{r['median']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in ratios)
    seconds = f"{found['seconds_before']:.3f} s before, {found['seconds_now']:.3f} s now"
    return (
        f"{found['workload']} against {found['against']}, {found['n_pairs']} pairs: {seconds}; "
        f"now over before {wall}, processor seconds {used}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the workloads that were named against a commit; 1 if a result was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default=AGAINST, help="a commit or tag")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="all unless given")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="six or more")
    parser.add_argument("--json", action="store_true", help="print JSON, an object a workload")
    options = parser.parse_args(arguments)
    failed = False
    for workload in options.workload or WORKLOADS:
        finding = measured(workload, options.against, options.pairs)
        found = row(**finding.notes, n_pairs=options.pairs)
        print(json.dumps(found) if options.json else sentence(found), flush=True)
        print(*finding.faults, sep="\n", end="", file=sys.stderr)
        failed |= bool(finding.faults)
    return int(failed)


PART = Part("overhead", f"{PAIRS} pairs of one network", len(WORKLOADS), 0, run)

if __name__ == "__main__":
    sys.exit(main())
