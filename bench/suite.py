"""The micro-benchmarks, beside the last run on the same machine: `python -m bench.suite [NAME...]`.

Each run is one file in out/bench/<machine>/, with the commit and the date in its name; the
comparison is printed.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.machine import ROOT, machine_name

STORAGE = ROOT / "out" / "bench"


def files_of(names: Sequence[str], folder: Path = Path(__file__).parent) -> list[Path]:
    """The suites of these names; all without any. Raises ValueError for one that is not there."""
    found = {path.stem.removeprefix("bench_"): path for path in sorted(folder.glob("bench_*.py"))}
    if unknown := [name for name in names if name not in found]:
        raise ValueError(f"no suite '{unknown[0]}'; there are {', '.join(found)}")
    return [found[name] for name in names or found]


def command(names: Sequence[str], storage: Path) -> list[str]:
    """Runs the suites and saves them; compares with the last that is there."""
    words = [sys.executable, "-m", "pytest", *map(str, files_of(names))]
    words += ["-q", "-o", "python_files=bench_*.py"]
    words += ["--benchmark-only", "--benchmark-autosave", f"--benchmark-storage=file://{storage}"]
    words += ["--benchmark-columns=median,min,max", "--benchmark-sort=fullname", "-p", "no:xdist"]
    if any(storage.rglob("*.json")):
        words += ["--benchmark-compare", "--benchmark-group-by=fullname"]
    else:
        print(f"the first run on this machine: nothing to compare with in {storage}", flush=True)
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, store, compare; pytest's exit status."""
    names = list(sys.argv[1:] if arguments is None else arguments)
    storage = STORAGE / machine_name()
    try:
        words = command(names, storage)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.run(words, cwd=ROOT, env={**os.environ, **one_thread}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
