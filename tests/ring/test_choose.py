"""Which backend runs, and where its compiled code is kept."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpumpc.errors import ConfigError, MissingExtra
from gpumpc.ring import choose
from gpumpc.ring.choose import choose_backend

ROOT = Path(__file__).resolve().parents[2]


def test_argument_then_environment_then_best_backend(monkeypatch):
    monkeypatch.delenv(choose.ENVIRONMENT, raising=False)
    assert choose_backend().name == choose_backend("").name == "numba"
    monkeypatch.setenv(choose.ENVIRONMENT, "numpy")
    assert choose_backend().name == "numpy"
    assert choose_backend("numba").name == "numba"


def test_numpy_is_chosen_without_numba(monkeypatch):
    monkeypatch.delenv(choose.ENVIRONMENT, raising=False)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "numba" else found(name)
    )
    assert choose_backend().name == "numpy"


def test_missing_numba_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gpumpc.ring.numba_backend")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingExtra, match=r"gpumpc\[cpu\]"):
        choose_backend("numba")
    monkeypatch.setenv(choose.ENVIRONMENT, "numba")
    with pytest.raises(MissingExtra, match=r"gpumpc\[cpu\]"):
        choose_backend()


def test_unknown_backend_name_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="numba, numpy"):
        choose_backend("cuda")
    monkeypatch.setenv(choose.ENVIRONMENT, "fpga")
    with pytest.raises(ConfigError, match="'fpga'"):
        choose_backend()


# the cache

REPORT = """
import json, sys
from numba.core.dispatcher import Dispatcher
from gpumpc.ring.choose import choose_backend
backend = choose_backend("numba")
loops = {id(loop): loop for name, module in sys.modules.items()
         if name.startswith("gpumpc.ring.numba_backend")
         for loop in vars(module).values() if isinstance(loop, Dispatcher)}.values()
import numpy as np
x = np.arange(7 * 65, dtype=np.uint64).reshape(7, 65)
backend.matmul(x, x.T.copy(), 40)
print(json.dumps({
    "loops": len(loops),
    "read": sum(sum(loop.stats.cache_hits.values()) for loop in loops),
    "compiled": sum(sum(loop.stats.cache_misses.values()) for loop in loops),
    "late": sum(len(loop.signatures) - 1 for loop in loops),
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A copy of the package that nobody has run yet."""
    folder = tmp_path_factory.mktemp("site")
    leave = shutil.ignore_patterns("__pycache__", "kernels", "models")
    shutil.copytree(ROOT / "gpumpc", folder / "gpumpc", ignore=leave)
    return folder


def report(site: Path, home: Path) -> dict[str, int]:
    """What choosing the backend did in a process of its own."""
    without = ("NUMBA", "XDG", "PYTHON")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(without)}
    environment |= {"PYTHONPATH": str(site), "HOME": str(home)}
    environment |= {"XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-c", REPORT]
    done = subprocess.run(command, env=environment, cwd=site, capture_output=True, check=True)
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


@pytest.mark.evidence
def test_second_process_reads_compiled_code_from_the_cache(installed, tmp_path):
    first, second = report(installed, tmp_path), report(installed, tmp_path)
    assert first["loops"] == second["loops"] == first["compiled"] == second["read"] > 15
    assert first["read"] == second["compiled"] == 0
    assert first["late"] == second["late"] == 0
    assert list((installed / "gpumpc" / "ring" / "numba_backend" / "__pycache__").glob("*.nbc"))


@pytest.mark.evidence
def test_read_only_installation_uses_the_user_cache(installed, tmp_path):
    """If the user's cache folder cannot be written either, every process compiles for itself."""
    loops = installed / "gpumpc" / "ring" / "numba_backend"
    for cache in (loops / "__pycache__", loops / "products" / "__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
        cache.write_text("a file where the folder would be: not even root can write there")
    first, second = report(installed, tmp_path), report(installed, tmp_path)
    assert first["compiled"] == second["read"] == first["loops"] and second["compiled"] == 0
    assert list((tmp_path / "cache").rglob("*.nbc"))
    (tmp_path / "no folder").write_text("")
    homeless = report(installed, tmp_path / "no folder")
    assert homeless["read"] == 0 and homeless["loops"] == first["loops"]
