"""Run the test groups one after another, print the time of each, and fail if any failed.

    python tests/run_groups.py [lint] [unit] [kernels] [protocols] [processes] [coverage] [evidence]

All groups but the last two run, even when an early one fails. The run ends with the time of each
group and pytest's own closing lines; `coverage` adds the share of the package's lines that unit and
protocol tests run.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

# `unit` is everything that no other group names, so that no file is forgotten.
KERNELS = ("tests/kernels",)
PROTOCOLS = ("tests/protocols", "tests/nn", "tests/program", "tests/oracle")
COVERAGE, EVIDENCE = "coverage", "evidence"
COVERAGE_FILE = ROOT / "out" / "coverage"
TRACE = ("--cov=gpumpc", "--cov-report=")
PROCESSES = (
    "tests/engine",
    "tests/server",
    "tests/client",
    "tests/local",
    "tests/deploy",
    "tests/measure",
    "tests/cli",
    "tests/processes",
)


def present(paths: tuple[str, ...]) -> list[str]:
    """Those of the paths that hold tests."""
    return [path for path in paths if any((ROOT / path).rglob("test_*.py"))]


def pytest(*arguments: str) -> list[str]:
    """A pytest command whose failures name the test and the cause in one screen."""
    command = [sys.executable, "-m", "pytest", "--durations=5", "--benchmark-disable"]
    return [*command, "-m", "not evidence", *arguments]


def commands() -> dict[str, list[list[str]]]:
    """The commands of each group, by its name."""
    untraced = [f"--ignore={path}" for path in present(KERNELS + PROCESSES)]
    elsewhere = [f"--ignore={path}" for path in present(KERNELS + PROTOCOLS + PROCESSES)]
    return {
        "lint": [
            [str(BIN / "ruff"), "check", "."],
            [str(BIN / "ruff"), "format", "--check", "."],
            [str(BIN / "lint-imports")],
            [str(BIN / "mypy")],
        ],
        "unit": [pytest("-n", "2", *elsewhere, "tests")],
        "kernels": [pytest("-n", "2", *found)] if (found := present(KERNELS)) else [],
        "protocols": [pytest("-n", "2", *found)] if (found := present(PROTOCOLS)) else [],
        # These start several processes each, which mostly wait; tests of one file share them.
        "processes": [pytest("-n", "2", "--dist", "loadfile", *found)]
        if (found := present(PROCESSES))
        else [],
        # Unit and protocol tests again, traced: under Python 3.11 a third slower.
        COVERAGE: [pytest("-n", "2", *TRACE, *untraced, "tests")],
        EVIDENCE: [pytest("-n", "2", "-m", "evidence", "tests")],
    }


def run(command: list[str]) -> tuple[bool, str]:
    """Run one command at the root: whether it succeeded, and pytest's closing line if any."""
    print(f"$ {Path(command[0]).name} {' '.join(command[1:])}", flush=True)
    closing = ""
    # One compute thread a process, as the parties have: two test processes fill the machine.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment["COVERAGE_FILE"] = str(COVERAGE_FILE)
    if sys.version_info >= (3, 12):
        environment["COVERAGE_CORE"] = "sysmon"  # the interpreter's own monitoring costs least
    ends: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **ends) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if re.match(r"=+ .*\b\d+ (passed|failed|errors?|skipped)\b.* in [\d.]+s", line):
                closing = line.rstrip()
    return process.returncode == 0, closing


def covered() -> str:
    """The share of the package's lines that the covered groups have run."""
    command = [sys.executable, "-m", "coverage", "report", "--format=total"]
    command += [f"--data-file={COVERAGE_FILE}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    percent = f"{done.stdout.strip()} %" if done.returncode == 0 else done.stdout + done.stderr
    return f"lines of gpumpc that unit and protocol tests run: {percent}"


def main(names: list[str]) -> int:
    """Run the named groups, or all of them."""
    groups = commands()
    if unknown := [name for name in names if name not in groups]:
        known = ", ".join(groups)
        print(f"error: no group {', '.join(unknown)}; there are {known}", file=sys.stderr)
        return 2
    if shutil.which("g++") is None and names != ["lint"]:
        cure = "the tests compile the kernels. Install it: apt-get install g++"
        print(f"error: g++ is missing; {cure}", file=sys.stderr)
        return 1
    verdicts: list[str] = []
    closings: list[str] = []
    failed = False
    # Fills the compiled loops' cache while the linters run on one core.
    compiling = subprocess.Popen(
        [sys.executable, "-c", "from gpumpc.ring.choose import choose_backend as c; c()"], cwd=ROOT
    )
    chosen = names or [name for name in groups if name not in (COVERAGE, EVIDENCE)]
    COVERAGE_FILE.parent.mkdir(exist_ok=True)
    COVERAGE_FILE.unlink(missing_ok=True)
    for name in chosen:
        print(f"== {name} ==", flush=True)
        start = time.monotonic()
        if name != "lint":
            compiling.wait()
        outcomes = [run(command) for command in groups[name]]
        passed = all(ok for ok, _ in outcomes)
        failed |= not passed
        closings += [line for _, line in outcomes if line]
        word = "failed" if not passed else "passed" if outcomes else "has no tests yet"
        verdicts.append(f"{name}: {word} in {time.monotonic() - start:.1f} s")
        print(f"== {verdicts[-1]} ==", flush=True)
    measured = [covered()] if COVERAGE in chosen else []
    print("\n".join(verdicts + closings + measured), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
