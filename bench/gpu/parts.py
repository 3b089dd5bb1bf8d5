"""Parts `suite` and `sanitizer`: kernel and engine tests, plain and under compute-sanitizer."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.results import Results

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = [f"tests/kernels/test_{name}.py" for name in ("three", "contract", "fused", "network")]
TESTS.append("tests/kernels/test_emulator.py::test_wrappers_match_their_models")
# One small test of each kernel: a sanitizer slows a kernel a hundred times.
SMALL = (
    "test_ring_convolution or test_truncation_matches or test_beaver or (65 and 33) "
    "or test_bit_planes or test_thermometer or test_lift or wrappers"
)
TOOLS = ("memcheck", "racecheck", "synccheck")


def missing(*modules: str) -> str | None:
    """Which of the modules are absent, as a sentence."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"needs {', '.join(absent)}" if absent else None


def _environment(device: str) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "GPUMPC_KERNEL_TESTS": device, "PYTHONPATH": os.pathsep.join(paths)}


def pytest_command(tests: Sequence[str], report: Path, keyword: str) -> list[str]:
    """pytest with its report, and with the modules it needs importable on a bare machine."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "bench.gpu.bare"]
    command += [f"--junitxml={report}", *tests]
    return command + (["-k", keyword] if keyword else [])


def run(
    results: Results, device: str, limit_s: float, tests: Sequence[str] = TESTS, keyword: str = ""
) -> bool:
    """The tests, a row a file, and a row for each that failed. True if all passed."""
    if why := missing("pytest"):
        results.skip("suite", why)
        return False
    passed = True
    deadline = time.monotonic() + limit_s
    for test in tests:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            command, left = pytest_command([test], report, keyword), deadline - time.monotonic()
            done = _limited(command, device, left)
            passed &= _report(results, test, report, done)
    return passed


def _limited(
    command: Sequence[str], device: str, left_s: float
) -> subprocess.CompletedProcess[str] | None:
    """The command, or None where the time was up."""
    how: dict[str, Any] = {"cwd": ROOT, "env": _environment(device), "timeout": max(1.0, left_s)}
    try:
        return subprocess.run(command, capture_output=True, text=True, **how)
    except subprocess.TimeoutExpired:
        return None


def _report(
    results: Results, test: str, report: Path, done: subprocess.CompletedProcess[str] | None
) -> bool:
    if done is None or not report.exists():
        why = "the time was up" if done is None else (done.stdout + done.stderr).strip()[-500:]
        results.add(test, passed=False, reason=why)
        return False
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if {"failure", "error"} & {part.tag for part in case}]
    skipped = sum(case.find("skipped") is not None for case in cases)
    took = sum(float(case.get("time", 0)) for case in cases)
    for case in failed:
        results.add(f"{test}::{case.get('name')}", passed=False)
    good = not failed and done.returncode in (0, 5)
    counts = {"n_tests": len(cases), "n_failed": len(failed), "n_skipped": skipped}
    results.add(test, passed=good, **counts, seconds_total=took)
    return good


def sanitize(results: Results, device: str, limit_s: float) -> bool:
    """Each tool of compute-sanitizer over a small selection of the tests."""
    name = "compute-sanitizer"
    program = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")
    if why := missing("pytest"):
        results.skip("sanitizer", why)
        return False
    if program is None:
        results.skip("sanitizer", "needs compute-sanitizer, of the CUDA toolkit, on PATH")
        return False
    passed, deadline = True, time.monotonic() + limit_s
    for i, tool in enumerate(TOOLS):
        left = (deadline - time.monotonic()) / (len(TOOLS) - i)
        with tempfile.TemporaryDirectory() as folder:
            command = [program, "--tool", tool, "--error-exitcode", "99"]
            command += ["--target-processes", "all"]
            command += pytest_command([*TESTS[:3], TESTS[4]], Path(folder) / "report.xml", SMALL)
            start = time.monotonic()
            done = _limited(command, device, left)
        good = done is not None and done.returncode == 0
        lines = ["SUMMARY: the time was up"] if done is None else done.stdout.splitlines()
        summary = next((line for line in reversed(lines) if "SUMMARY" in line), "")
        results.add(tool, passed=good, summary=summary, seconds_total=time.monotonic() - start)
        passed &= good
    return passed
