"""The public names, an import without extras, and a wheel with every file in it."""

import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gpumpc

ROOT = Path(__file__).resolve().parent.parent

BLOCKED = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "numba", "cupy", "onnx", "nibabel", "PIL", "pydicom"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def import_without_extras(*names: str) -> subprocess.CompletedProcess[str]:
    """Import modules in a fresh interpreter that has no optional package."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *names], capture_output=True, text=True, check=False
    )


def test_import_blocker_blocks_torch() -> None:
    assert "torch is blocked" in import_without_extras("torch").stderr


@pytest.mark.parametrize("name", ["gpumpc", "gpumpc.cli.main", "gpumpc.kernels"])
def test_core_imports_without_extras(name: str) -> None:
    done = import_without_extras(name)
    assert done.returncode == 0, done.stderr


PUBLIC = {
    "compile", "connect", "Plan", "Params", "Client", "Index", "Calibrated", "SharedTensor",
    "SecureFeatureExtractor", "GpumpcError",
}  # fmt: skip


def test_public_names_are_these_and_documented() -> None:
    assert {*gpumpc.__all__} == PUBLIC and len(gpumpc.__all__) == len(PUBLIC)
    assert re.fullmatch(r"\d+\.\d+\.\d+", gpumpc.__version__)
    for name in gpumpc.__all__:
        value = getattr(gpumpc, name)
        assert value.__doc__, f"{name} has no docstring"
        for member, verb in vars(value).items() if isinstance(value, type) else ():
            if callable(verb) and not member.startswith("_"):
                assert verb.__doc__, f"{name}.{member} has no docstring"


def test_nothing_else_is_public() -> None:
    submodules = {module.name for module in pkgutil.iter_modules(gpumpc.__path__)}
    names = {name for name in vars(gpumpc) if not name.startswith("_")} - {"annotations"}
    assert names <= submodules | set(gpumpc.__all__)


def test_every_folder_is_a_package() -> None:
    """A folder without `__init__.py` is left out of the wheel, unseen in editable installs."""
    names = ("gpumpc", "kernels", "models")
    folders = {path.parent for name in names for path in (ROOT / name).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all files in a wheel built from a copy of the sources, without the network."""
    importlib.import_module("setuptools")
    work = tmp_path_factory.mktemp("wheel")
    for name in ("gpumpc", "kernels", "models"):
        skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, work / "source" / name, symlinks=True, ignore=skipped)
    for name in ("pyproject.toml", "setup.cfg", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, work / "source" / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    build += ["--no-index", "-w", str(work), str(work / "source")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = work.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


def shipped(folder: str, prefix: str) -> set[str]:
    """The files of one folder that belong in the wheel, by the name they have there."""
    kept = {".py", ".cu", ".cuh", ".typed"}
    paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in kept and path.is_file()]
    return {prefix + path.relative_to(ROOT / folder).as_posix() for path in paths}


def test_wheel_holds_every_file(wheel: set[str]) -> None:
    linked = shipped("kernels", "gpumpc/kernels/") | shipped("models", "gpumpc/models/")
    wanted = shipped("gpumpc", "gpumpc/") | linked
    assert "gpumpc/kernels/__init__.py" in wanted
    assert not wanted - wheel


def test_wheel_holds_only_the_package(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"gpumpc"}
