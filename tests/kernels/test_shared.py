"""The tests of the CPU backends, the very same functions, with the emulated backend in the place of
the compiled loops.
"""

import inspect

import numpy as np
import pytest

from gpumpc.ring.backend import Backend
from gpumpc.ring.cupy_backend import CupyBackend
from tests.emulator.device import ORDERS, EmulatedDevice
from tests.ring import test_backends as loops
from tests.ring import test_parity as parity

EMULATED = CupyBackend(EmulatedDevice(ORDERS[2]))
SIZES = [0, 1, 33, 64, 989, 16_421]
WIDTHS = [1, 13, 40, 64]

# Every test there that takes a backend, with its parameters: against loops that a reader can check
# by eye.
for _name, _test in vars(loops).items():
    if _name.startswith("test_") and "backend" in inspect.signature(_test).parameters:
        globals()[_name] = _test


@pytest.fixture(scope="module")
def backend():
    return EMULATED


@pytest.fixture(autouse=True)
def in_the_place_of_compiled_loops(monkeypatch):
    monkeypatch.setattr(parity, "COMPILED", EMULATED)


def test_it_keeps_the_contract():
    whole: Backend = EMULATED
    assert whole.name == "emulated"
    operations = {name for name in vars(Backend) if not name.startswith("_")}
    assert {name for name in operations if not callable(getattr(EMULATED, name))} == set()


def test_no_test_there_was_left_out():
    taken = [
        name
        for name in globals()
        if name.startswith("test_") and globals()[name] is getattr(loops, name, None)
    ]
    assert len(taken) > 15


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_words_and_wire(bits, n, fill):
    parity.test_words(bits, n, fill)
    parity.test_wire(bits, n, fill)
    parity.test_adding_what_came(bits, n)


@pytest.mark.parametrize("cipher", parity.CIPHERS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_streams_and_choices(bits, n, cipher):
    parity.test_fused_with_the_stream(bits, n, cipher)
    parity.test_candidates_and_flips(bits, n)
    parity.check_masked(EMULATED, bits, n, cipher)


@pytest.mark.parametrize("n", SIZES)
def test_lanes(n):
    parity.test_select_and_from_bit(n)
    parity.test_lanes_of_constants_and_words(n)
    for start in (0, 1, 4):
        parity.test_lanes_of_a_message(start)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", [1, 64, 989, 40_000])
@pytest.mark.parametrize(("digits", "width"), [(1, 1), (9, 3), (2, 4), (3, 2), (1, 6)])
def test_tables(digits, width, n, fill):
    parity.test_tables(digits, width, n, fill)


@pytest.mark.parametrize("n", [1, 65, 989])
@pytest.mark.parametrize("party", [0, 1])
def test_shares_of_what_a_bit_chooses(party, n):
    for low, high in ((27, 40), (1, 64), (44, 62)):
        for candidates in (1, 2):
            parity.test_lift(low, high, party, candidates, n)
    parity.test_masked_products(party, n)


@pytest.mark.parametrize("bits", [1, 40, 64])
def test_products(bits):
    for fill in (False, True):
        for m, k, n in ((1, 1, 1), (7, 19, 17), (33, 65, 17), (64, 64, 64), (65, 63, 66)):
            parity.check_matmul(EMULATED, m, k, n, bits, fill)
        parity.test_depthwise(bits, fill)
    for shape in ((0, 3, 4), (3, 0, 4), (3, 4, 0)):
        parity.test_matmul_of_nothing(shape)
    for size in ((0, 3), (1, 1), (7, 3), (2, 9, 9, 20)):
        for party in (0, 1):
            parity.test_beaver(bits, size, party)
    parity.check_sums(EMULATED, bits, 9)
    parity.test_row_dot(bits)


def test_views():
    parity.test_views_and_axes()
    parity.test_in_place()
    parity.test_a_convolution_of_a_view()


def test_convolutions_of_any_shape():
    parity.test_conv2d_of_any_shape()


def test_the_stream_is_nist_s():
    parity.test_the_stream_is_nist_s()


def test_the_stream_is_rfc_8439_s():
    from tests.ring.test_prg import CHACHA

    for key, block, expected in CHACHA:
        lanes = np.asarray(EMULATED.expand_lanes("chacha20", key, 1, 64 * 8 * (block + 1)))
        assert lanes.tobytes()[64 * block :].hex() == expected
