"""How long do `make demo` and `make test` take on a fresh clone with cold caches? `python -m
bench.clean_clone --json`.

What is committed is measured: HEAD is cloned into a temporary folder, with a cache folder of its
own for pip and for the data sets, so that nothing of this checkout helps. The test run meets the
environment that the demo installed.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.command import command_line, show
from bench.machine import ROOT
from bench.schema import row

# Of this process: its virtual environment, make's own variables, and a warm cache.
DROPPED = ["VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PIP_CACHE_DIR"]
DROPPED += ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"]


def timed_make(target: str, folder: Path, environment: dict[str, str]) -> float:
    """Seconds that one target takes; its output goes to standard error."""
    start = time.monotonic()
    subprocess.run(["make", target], cwd=folder, env=environment, stdout=sys.stderr, check=True)
    return time.monotonic() - start


def cold_environment(cache: Path) -> dict[str, str]:
    """This environment without what would help, `DROPPED` and this Python's folder on PATH."""
    kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
    own, parts = str(Path(sys.executable).parent), kept.get("PATH", "").split(os.pathsep)
    path = os.pathsep.join(part for part in parts if part != own)
    return {**kept, "PATH": path, "XDG_CACHE_HOME": str(cache)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Clone, run both targets, print both times."""
    options = command_line("clean_clone", "Time both targets.").parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gpumpc-clone-") as name:
        clone, cache = Path(name) / "gpumpc", Path(name) / "cache"
        subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(clone)], check=True)
        environment = cold_environment(cache)
        demo = timed_make("demo", clone, environment)
        test = timed_make("test", clone, environment)
    measured = row(seconds_total=demo + test, demo_seconds=demo, test_seconds=test)
    text = f"make demo {demo:.0f} s, make test {test:.0f} s on a fresh clone"
    show(measured, options.json, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
