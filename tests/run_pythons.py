"""Run the fast test groups under every supported Python that this machine has.

    python tests/run_pythons.py

Looks for interpreters on PATH and in pyenv, makes a virtual environment for each under
out/pythons, installs the package there, and says at the end which versions ran. torch is left out:
not every version has a small build of it, and tests that need it are skipped and say so.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = "images,dicom,cpu,bench,dev"
GROUPS = ("unit", "protocols")


def is_usable(program: str, version: str) -> bool:
    """Whether it runs, is of this version and can make environments: a pyenv shim may not."""
    check = f"import ensurepip, sqlite3, sys, venv; sys.exit({version!r} not in sys.version)"
    return subprocess.run([program, "-c", check], capture_output=True).returncode == 0


def interpreter(version: str) -> str | None:
    """The first usable interpreter of a version: on PATH, else the newest of pyenv."""
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    by_patch = sorted(folder.glob(f"{version}.*"), key=lambda path: int(path.name.split(".")[2]))
    candidates = [shutil.which(f"python{version}")]
    candidates += [str(path / "bin" / "python") for path in reversed(by_patch)]
    return next((name for name in candidates if name and is_usable(name, version)), None)


def install(version: str, program: str) -> str:
    """The Python of an environment that has the package; one that is there is used again."""
    folder = ROOT / "out" / "pythons" / version
    python, stamp = folder / "bin" / "python", folder / ".installed"
    pins = [ROOT / name for name in ("pyproject.toml", "constraints.txt")]
    if not stamp.exists() or stamp.stat().st_mtime < max(path.stat().st_mtime for path in pins):
        print(f"== Python {version}: installing into {folder.relative_to(ROOT)} ==", flush=True)
        subprocess.run([program, "-m", "venv", "--clear", folder], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        pip += ["-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "setuptools", "wheel"], check=True)
        subprocess.run([*pip, "--no-build-isolation", "-e", f"{ROOT}[{EXTRAS}]"], check=True)
        stamp.touch()
    return str(python)


def main() -> int:
    """Test every version; 1 if one fails or none is there."""
    verdicts: dict[str, str] = {}
    for version in VERSIONS:
        if (program := interpreter(version)) is None:
            verdicts[version] = "not tested: this machine has no such interpreter"
            continue
        command = [install(version, program), "tests/run_groups.py", *GROUPS]
        passed = subprocess.run(command, cwd=ROOT).returncode == 0
        verdicts[version] = f"{' and '.join(GROUPS)} {'passed' if passed else 'FAILED'}"
    print("\n".join(f"Python {version}: {verdict}" for version, verdict in verdicts.items()))
    ran = [verdict for verdict in verdicts.values() if "not tested" not in verdict]
    return int(not ran or any(verdict.endswith("FAILED") for verdict in ran))


if __name__ == "__main__":
    sys.exit(main())
