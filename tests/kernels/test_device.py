"""Emulation swaps the device alone; and the GPU's device, as far as it shows without a GPU."""

import ast
import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import BadShape, ConfigError, InputError, MissingExtra
from gpumpc.ring import kernels
from gpumpc.ring.choose import ENVIRONMENT, choose_backend
from gpumpc.ring.cupy_backend import CupyBackend, device
from gpumpc.ring.cupy_backend.device import CupyDevice, Device
from gpumpc.ring.cupy_backend.launcher import MAX_BLOCKS, Launcher
from tests.emulator.device import EmulatedDevice
from tests.kernels import contract, fused
from tests.kernels.fake_cupy import NAMES, Fake

FOLDER = kernels.FOLDER.parent / "ring" / "cupy_backend"


@pytest.fixture
def fake(monkeypatch):
    module = Fake(devices=2)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


# only the device is swapped


def test_emulation_replaces_the_device_only():
    """One backend class and one launcher; the devices have the same methods."""
    backend = CupyBackend(EmulatedDevice())
    assert type(backend) is CupyBackend and type(backend.launch) is Launcher
    methods = inspect.getmembers(backend, inspect.ismethod)
    modules = {method.__func__.__module__ for _, method in methods}
    assert modules and all(name.startswith("gpumpc.ring.cupy_backend.") for name in modules)
    wanted = {name for name in vars(Device) if not name.startswith("_")}
    wanted |= set(Device.__annotations__)
    for kind in (EmulatedDevice, CupyDevice):
        for name in wanted - {"name", "arrays"}:
            ours, theirs = (inspect.signature(getattr(owner, name)) for owner in (Device, kind))
            assert list(ours.parameters) == list(theirs.parameters), f"{kind.__name__}.{name}"
    assert EmulatedDevice.name == "emulated" and CupyDevice.name == "cupy"


def test_package_code_never_mentions_emulation():
    for path in [*FOLDER.glob("*.py"), kernels.FOLDER.parent / "ring" / "kernels.py"]:
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not {name for name in names if "emulat" in name.lower()}, path.name


def test_only_the_device_module_imports_cupy():
    for path in FOLDER.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        assert ("cupy" in imported) == (path.name == "device.py")


def test_cupy_is_imported_only_on_demand():
    code = "import sys, gpumpc, gpumpc.ring.choose, gpumpc.ring.cupy_backend\n"
    code += "sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# choice


def test_argument_overrides_the_environment(monkeypatch, fake):
    monkeypatch.setenv(ENVIRONMENT, "cupy")
    assert choose_backend("numpy").name == "numpy"
    assert choose_backend().name == "cupy"
    monkeypatch.delenv(ENVIRONMENT)
    assert choose_backend().name == "cupy"  # the best that is there


def test_cpu_backend_is_chosen_without_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", Fake(devices=0))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert choose_backend().name in ("numba", "numpy")
    with pytest.raises(ConfigError, match="shows 0 of them"):
        choose_backend("cupy")


def test_missing_cupy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import fails
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert choose_backend().name in ("numba", "numpy")
    for name in ("cupy", "cupy:1"):
        with pytest.raises(MissingExtra, match=r"gpumpc\[cuda13\]"):
            choose_backend(name)


@pytest.mark.parametrize("name", ["cuda", "cupy:", "cupy:x", "cupy:-1", "numpy:0"])
def test_unknown_backend_name_is_refused(name, fake):
    with pytest.raises(ConfigError, match="no backend"):
        choose_backend(name)


def test_two_backends_use_two_gpus(fake):
    first, second = choose_backend("cupy:0"), choose_backend("cupy:1")
    first.zeros((3,))
    assert fake.current.device == 0
    second.zeros((3,))
    assert fake.current.device == 1
    with pytest.raises(ConfigError, match="GPU 2"):
        choose_backend("cupy:2")


# the GPU's device module, on a stand-in for CuPy


def test_cupy_device_passes_the_contract(fake):
    backend = CupyBackend(CupyDevice())
    contract.test_matmul_matches_numpy(backend, (65, 33, 67), 64)
    contract.test_conv2d_matches_numpy(backend, contract.CONVOLUTIONS[2], 40)
    contract.test_pack_and_unpack_match_numpy(backend, 65, 27)
    contract.test_bit_planes_match_numpy(backend, 989, 27)
    contract.test_gather_take_and_concat_match_numpy(backend)
    contract.test_argmax_and_smallest_match_numpy(backend, (3, 40))
    fused.test_combine_makes_limb_planes_of_an_opening(backend, (3, 33), 44)
    assert {"load", "limb_gemm_l8", "limb_conv_l5", "upload", "download", "wait"} <= set(fake.log)


def test_opening_needs_one_download_and_one_upload(fake):
    """The download between the kernels of an opening is waited for, the upload is not."""
    backend = CupyBackend(CupyDevice())
    words = backend.upload(np.arange(40, dtype=np.uint64))
    fake.log.clear()
    sent = backend.pack(words, 40)
    received = backend.unpack(sent, (40,), 40)
    backend.reduce(words + received, 40)
    found = [entry for entry in fake.log if entry != "load"]
    assert found == ["pack", "download", "wait", "upload", "unpack", "affine"]


def test_a_module_is_loaded_once_for_each_kernel(fake):
    backend = CupyBackend(CupyDevice())
    for _ in range(3):
        backend.reduce(backend.upload([1, 2]), 1)
    assert fake.log.count("load") == 1
    backend.device.synchronize()
    assert fake.log[-1] == "synchronize"


def test_installed_cupy_has_every_name_used():
    """CuPy imports without a GPU; it is not part of the tests' requirements."""
    reason = "CuPy is not installed; its names were checked where it is"
    cupy = pytest.importorskip("cupy", reason=reason)
    for name in NAMES:
        found = cupy
        for part in name.split("."):
            found = getattr(found, part)
    assert {"max_dynamic_shared_size_bytes"} <= set(dir(cupy.RawKernel))
    assert "path" in str(cupy.RawModule.__doc__)


def test_cupy_is_chosen_where_there_is_a_gpu():
    if not device.has_gpu():
        pytest.skip("CuPy sees no GPU here: `python -m bench.gpu` runs these tests on one")
    assert choose_backend().name == "cupy"


# the launcher's checks


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda a: (a, a, 4, 0, 1), InputError, "takes 6 arguments"),
        (lambda a: (a.astype(np.int64), a, 4, 1, 0, 1), InputError, "holds int64"),
        (lambda a: (a[::2], a, 2, 1, 0, 1), BadShape, "not contiguous"),
        (lambda a: ([1, 2], a, 2, 1, 0, 1), InputError, "not an array of this device"),
        (lambda a: (a, a, 4, -1, 0, 1), InputError, "not a number of type uint64"),
        (lambda a: (a, a, 4, 1 << 64, 0, 1), InputError, "not a number of type uint64"),
        (lambda a: (a, a, 4.0, 1, 0, 1), InputError, "not a number of type int64"),
        (lambda a: (a, a, True, 1, 0, 1), InputError, "not a number of type int64"),
    ],
)
def test_launch_with_wrong_arguments_is_refused(arguments, error, message):
    launch = Launcher(EmulatedDevice())
    with pytest.raises(error, match=message):
        launch("affine", 1, *arguments(np.zeros(4, dtype=np.uint64)))
    assert not launch.launched


def test_launch_of_too_many_blocks_is_refused():
    launch = Launcher(EmulatedDevice())
    a: Any = np.zeros(4, dtype=np.uint64)
    with pytest.raises(BadShape, match="2147483648 blocks"):
        launch("affine", MAX_BLOCKS + 1, a, a, 4, 1, 0, 1)
    launch("affine", 0, a, a, 0, 1, 0, 1)
    assert not launch.launched


def test_operands_do_not_print():
    backend = CupyBackend(EmulatedDevice())
    operand = backend.operand(backend.upload([[987654321]]), 64)
    assert "987654321" not in repr(operand) and len(operand) == 1
