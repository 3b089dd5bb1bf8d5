"""The primitive operations of the CPU backends."""

import pytest

from gpumpc.ring.backend import Backend, as_backend
from gpumpc.ring.bit_slices import transpose_64x64
from gpumpc.ring.numba_backend import NumbaBackend
from gpumpc.ring.numpy_backend import NumpyBackend
from tests.ring import primitives
from tests.ring.adopted import adopt

BACKENDS: dict[str, Backend] = {
    "numpy": as_backend(NumpyBackend()),
    "numba": as_backend(NumbaBackend()),
}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request):
    return BACKENDS[request.param]


@pytest.mark.parametrize("name", BACKENDS)
def test_every_cpu_backend_is_registered_by_name(name):
    assert BACKENDS[name].name == name


def test_transpose_64x64_transposes_bits():
    rows = primitives.words(5, (64, 3))
    expected = [
        [sum(((int(rows[r, c]) >> b) & 1) << r for r in range(64)) for c in range(3)]
        for b in range(64)
    ]
    assert transpose_64x64(rows.copy()).tolist() == expected


adopt(globals(), primitives)
