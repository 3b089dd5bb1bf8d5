"""One file of tests, several devices: the emulator in three thread orders, and a GPU where there is
one.

GPUMPC_KERNEL_TESTS=emulated or =cupy runs one kind alone; asked for and absent, the GPU is an
error.
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
    # A module with a fixture `backend` of its own keeps it.
    if "backend" in metafunc.fixturenames and not hasattr(metafunc.module, "backend"):
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
