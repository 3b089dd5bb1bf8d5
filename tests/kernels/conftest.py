"""One file of tests, several devices: the emulator in three thread orders, and a GPU where there is one."""

import pytest

from gpumpc.ring.cupy_backend import CupyBackend
from gpumpc.ring.cupy_backend.device import CupyDevice, has_gpu
from tests.emulator.device import ORDERS, EmulatedDevice

EMULATED = dict(zip(["ascending", "descending", "drawn"], ORDERS, strict=True))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["emulated", "cupy"], help="run the kernel tests on one kind of device only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        only = metafunc.config.getoption("--device")
        devices = [*EMULATED] if only != "cupy" else []
        gpu = [pytest.param("cupy", marks=pytest.mark.gpu)] if only != "emulated" else []
        metafunc.parametrize("backend", devices + gpu, indirect=True)


@pytest.fixture(scope="module")
def backend(request):
    """The backend whose kernels are tested."""
    if request.param == "cupy":
        if not has_gpu():
            pytest.skip("this machine shows no GPU to CuPy")
        return CupyBackend(CupyDevice())
    return CupyBackend(EmulatedDevice(EMULATED[request.param]))
