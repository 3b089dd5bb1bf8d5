"""Make the peers' environments: `python -m bench.peers.setup [crypten] [spu] [--folder out/peers]`.

Each peer has its own, from pinned requirements; about 1.3 GB for CrypTen and 1 GB for SPU. One that
is there is left alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.peers.engines import ENVIRONMENTS, last_words

HERE = Path(__file__).parent
# What is installed, in order: a requirements file, and options of pip.
STEPS = {
    "crypten": {"requirements-crypten.txt": [], "requirements-crypten-alone.txt": ["--no-deps"]},
    "spu": {"requirements-spu.txt": ["--only-binary=:all:"]},
}
CURE = {
    "crypten": "it needs a torch that pip can find for this Python; see "
    "bench/peers/requirements-crypten.txt",
    "spu": "its wheels are for Python 3.10 and 3.11 on Linux; give --python a path to such a one",
}


class SetupFailed(RuntimeError):
    """An environment could not be made; the message says what pip said, and what to do."""


def install(name: str, folder: Path, python: str, options: Sequence[str] = ()) -> None:
    """One environment, marked when it is whole. Raises SetupFailed."""
    home = folder / name
    if (home / ".installed").exists():
        print(f"{name}: is in {home}")
        return
    print(f"{name}: installing into {home}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    _run(name, [python, "-m", "venv", "--clear", str(home)])
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
    for file, own in STEPS[name].items():
        _run(name, [*pip, *own, *options, "-r", str(HERE / file)])
    (home / ".installed").touch()
    print(f"{name}: ready")


def _run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = pip_error(done.stderr or done.stdout)
        raise SetupFailed(f"{name} cannot be installed: {why}\n  {CURE[name]}")


def pip_error(text: str) -> str:
    """What pip says is wrong: its last line that begins with ERROR."""
    errors = [line for line in text.splitlines() if line.startswith("ERROR:")]
    return errors[-1].removeprefix("ERROR:").strip() if errors else last_words(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is asked for; 1 if one could not be made."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers.setup", description="Make the peers' environments."
    )
    parser.add_argument(
        "names", nargs="*", metavar="PEER", help=f"{' or '.join(STEPS)}; all when absent"
    )
    parser.add_argument("--folder", type=Path, default=ENVIRONMENTS, help="where they go")
    parser.add_argument("--python", default=sys.executable, help="the Python they are made with")
    parser.add_argument("--extra-index-url", help="given to pip, for a CPU build of torch")
    options = parser.parse_args(arguments)
    if unknown := sorted({*options.names} - {*STEPS}):
        parser.error(f"no peer '{unknown[0]}'; there are {', '.join(STEPS)}")
    extra = ["--extra-index-url", options.extra_index_url] if options.extra_index_url else []
    failed = 0
    for name in options.names or STEPS:
        try:
            install(name, options.folder, options.python, extra)
        except SetupFailed as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
