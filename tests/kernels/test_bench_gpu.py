"""Each part of `python -m bench.gpu` in miniature, through the emulator."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.gpu import float_limbs
from bench.gpu.__main__ import PARTS, main
from bench.gpu.parts import run
from bench.gpu.results import Results
from bench.schema import check_row
from gpumpc.ring.cupy_backend import CupyBackend
from tests.emulator.device import EmulatedDevice

ROOT = Path(__file__).resolve().parents[2]
KERNELS = {"ceilings", "limb_gemm_64", "limb_conv_40", "float64_gemm_six", "float64_conv_sixteen"}
KERNELS |= {"pack"}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_emulated_on_small_sizes(part, tmp_path, capsys):
    out = tmp_path / "results" / f"{part}.json"
    assert main(["--part", part, "--emulated", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["part"] == part and content["versions"]["numpy"]
    assert content["device"].startswith("none")
    names = {row["name"] for row in content["rows"]}
    wanted = {
        "conformance": {"mma_u8", "ldmatrix_x4", "cp_async", "lanes"},
        "suite": {"tests/kernels/test_three.py"},
        "sanitizer": set(),
        "kernels": KERNELS,
        "networks": {"tiny batch 1"},
    }[part]
    assert wanted | {"whole"} <= names
    for row in content["rows"]:
        check_row(row)
        assert row["backend"] == "emulated" and row["part"] == part
    assert f"{part}: whole" in capsys.readouterr().out


def test_rows_are_written_as_they_come(tmp_path):
    path = tmp_path / "rows.json"
    results = Results(path, "kernels", CupyBackend(EmulatedDevice()), say=lambda text: None)
    for n in range(3):
        results.add(f"row {n}", seconds_total=0.5)
        assert len(json.loads(path.read_text())["rows"]) == n + 1
    results.skip("sanitizer", "needs something")
    assert json.loads(path.read_text())["rows"][-1]["skipped"] == "needs something"


def test_failed_test_is_a_row_and_fails_the_part(tmp_path):
    bad = tmp_path / "test_bad.py"
    bad.write_text("def test_good(): pass\ndef test_bad(): assert 0\n")
    backend, path = CupyBackend(EmulatedDevice()), tmp_path / "rows.json"
    results = Results(path, "suite", backend, say=lambda text: None)
    assert not run(results, "emulated", 60, [str(bad)])
    rows = {row["name"]: row for row in results.rows()}
    assert rows[f"{bad}::test_bad"]["passed"] is False and rows[str(bad)]["n_failed"] == 1
    assert not run(results, "emulated", 60, [str(tmp_path / "test_none.py")])


def test_missing_cupy_is_reported(monkeypatch, capsys):
    monkeypatch.setattr("bench.gpu.parts.importlib.util.find_spec", lambda name: None)
    assert main(["--part", "conformance"]) == 1
    assert "needs cupy" in capsys.readouterr().err


@pytest.mark.parametrize("route", float_limbs.DIGITS)
@pytest.mark.parametrize("full", [False, True])
def test_float_limb_products_are_exact(route, full):
    rng = np.random.default_rng(1)
    shapes = (5, 2100), (2100, 7)
    x, w = (rng.integers(0, 2**64 - 1, shape, np.uint64, endpoint=True) for shape in shapes)
    if full:
        x[:], w[:] = 0x8000020000200000, 0x8000020000200000
    assert np.array_equal(float_limbs.matmul(np, x, w, route), x @ w)


def test_network_part_runs_without_optional_packages(tmp_path):
    """With NumPy, cryptography and pytest alone a network runs, and says what does not."""
    blocker = """
import importlib.abc, importlib.util, runpy, sys
absent = "msgspec zmq safetensors typer rich hypothesis scipy torch numba cupy".split()
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split('.')[0] in absent: raise ModuleNotFoundError(name, name=name)
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in absent else real(name, *rest)
sys.meta_path.insert(0, Block())
sys.argv[0] = 'bench.gpu'
runpy.run_module('bench.gpu', run_name='__main__')
"""
    for part in ("conformance", "networks"):
        out = tmp_path / f"{part}.json"
        command = [sys.executable, "-c", blocker, "--part", part, "--emulated", "--out", str(out)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows = json.loads(out.read_text())["rows"]
        assert "msgspec" in rows[0]["skipped"] and rows[-1]["passed"] is True
