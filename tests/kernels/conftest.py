"""Each test runs on the emulator, in three thread orders, and on a GPU if there is one.

GPUMPC_KERNEL_TESTS=emulated or =cupy runs one kind alone; a GPU that it asks for must be there.
"""

import os

import pytest

from gpumpc.ring.cupy_backend import CupyBackend
from gpumpc.ring.cupy_backend.device import CupyDevice, has_gpu
from tests.emulator.device import ORDERS, EmulatedDevice

EMULATED = dict(zip(["ascending", "descending", "drawn"], ORDERS, strict=True))


def device_names() -> list[str]:
    only = os.environ.get("GPUMPC_KERNEL_TESTS")
    emulated = [*EMULATED] if only != "cupy" else []
    return emulated + (["cupy"] if only == "cupy" or (only is None and has_gpu()) else [])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", device_names(), indirect=True, scope="module")


def backend_of(name: str) -> CupyBackend:
    return CupyBackend(CupyDevice() if name == "cupy" else EmulatedDevice(EMULATED[name]))


@pytest.fixture(scope="module")
def backend(request):
    """The backend whose kernels are tested."""
    return backend_of(request.param)


@pytest.fixture(scope="module")
def one_backend():
    """The last of them: for what takes long, and does not depend on the order of threads."""
    return backend_of(device_names()[-1])
