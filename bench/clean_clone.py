"""How long do `make demo` and `make test` take on a fresh clone with cold caches? `python -m
bench.clean_clone --json`.

What is committed is measured: HEAD is cloned into a temporary folder, with a cache folder of its
own for pip and for the data sets, so that nothing of this checkout helps. The test run meets the
environment that the demo installed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.schema import row

ROOT = Path(__file__).resolve().parent.parent


def timed_make(target: str, folder: Path, environment: dict[str, str]) -> float:
    """Seconds that one target takes; its output goes to standard error."""
    start = time.monotonic()
    subprocess.run(["make", target], cwd=folder, env=environment, stdout=sys.stderr, check=True)
    return time.monotonic() - start


def cold_environment(cache: Path) -> dict[str, str]:
    """This environment without its virtual environment, make's own variables, and warm caches."""
    dropped = {
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONHOME",
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "PIP_CACHE_DIR",
    }
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    own_bin = str(Path(sys.executable).parent)
    path = os.pathsep.join(
        part for part in kept.get("PATH", "").split(os.pathsep) if part != own_bin
    )
    return {**kept, "PATH": path, "XDG_CACHE_HOME": str(cache)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Clone, run both targets, print both times."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.clean_clone", description="Time both targets."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gpumpc-clone-") as name:
        clone, cache = Path(name) / "gpumpc", Path(name) / "cache"
        subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(clone)], check=True)
        environment = cold_environment(cache)
        demo = timed_make("demo", clone, environment)
        test = timed_make("test", clone, environment)
    measured = row(seconds_total=demo + test, demo_seconds=demo, test_seconds=test)
    if options.json:
        print(json.dumps(measured))
    else:
        print(f"make demo {demo:.0f} s, make test {test:.0f} s on a fresh clone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
