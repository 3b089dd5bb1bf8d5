"""The CPU backends' checks on the emulated backend."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumpc.ring.backend import BackendOf, as_backend
from gpumpc.ring.cupy_backend import CupyBackend
from tests.emulator.device import ORDERS, EmulatedDevice
from tests.ring import parity
from tests.ring import parity_products as products
from tests.ring.published import CHACHA

EMULATED = CupyBackend(EmulatedDevice(ORDERS[2]))
SIZES = [0, 1, 33, 64, 989, 16_421]
WIDTHS = [1, 13, 40, 64]


def test_emulated_backend_has_every_operation():
    assert as_backend(EMULATED).name == "emulated"
    operations = {name for name in dir(BackendOf) if not name.startswith("_")}
    assert len(operations) > 50
    assert all(callable(getattr(EMULATED, name)) for name in operations)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_word_and_wire_operations_agree(bits, n, fill):
    parity.check_words(EMULATED, bits, n, fill)
    parity.check_wire(EMULATED, bits, n, fill)
    parity.check_adding_what_came(EMULATED, bits, n)


@pytest.mark.parametrize("cipher", parity.CIPHERS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_stream_and_choice_operations_agree(bits, n, cipher):
    parity.check_fused_with_the_stream(EMULATED, bits, n, cipher)
    parity.check_candidates_and_flips(EMULATED, bits, n)
    parity.check_masked(EMULATED, bits, n, cipher)


@pytest.mark.parametrize("n", SIZES)
def test_lane_operations_agree(n):
    parity.check_select(EMULATED, n)
    parity.check_look_up_chosen(EMULATED, n)
    parity.check_add_flipped_part(EMULATED, n)
    parity.check_lanes_of_constants_and_words(EMULATED, n)
    for start in (0, 1, 4):
        parity.check_lanes_of_a_message(EMULATED, start)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", [1, 64, 989, 40_000])
@pytest.mark.parametrize(("digits", "width"), [(1, 1), (9, 3), (2, 4), (3, 2), (1, 6)])
def test_thermometer_and_lookup_agree(digits, width, n, fill):
    parity.check_tables(EMULATED, digits, width, n, fill)


@pytest.mark.parametrize("n", [1, 65, 989])
@pytest.mark.parametrize("party", [0, 1])
def test_lift_and_masked_products_agree(party, n):
    for low, high in ((27, 40), (1, 64), (44, 62)):
        for candidates in (1, 2):
            parity.check_lift(EMULATED, low, high, party, candidates, n)
    parity.check_masked_products(EMULATED, party, n)


@pytest.mark.parametrize("bits", [1, 40, 64])
def test_products_agree(bits):
    for fill in (False, True):
        for m, k, n in ((1, 1, 1), (7, 19, 17), (33, 65, 17), (64, 64, 64), (65, 63, 66)):
            products.check_matmul(EMULATED, m, k, n, bits, fill)
        products.check_depthwise(EMULATED, bits, fill)
    for shape in ((0, 3, 4), (3, 0, 4), (3, 4, 0)):
        products.check_matmul_of_nothing(EMULATED, shape)
    for size in ((0, 3), (1, 1), (7, 3), (2, 9, 9, 20)):
        for party in (0, 1):
            products.check_beaver(EMULATED, bits, size, party)
    products.check_sums(EMULATED, bits, 9)
    products.check_row_dot(EMULATED, bits)


def test_views_agree():
    parity.check_views_and_axes(EMULATED)
    parity.check_in_place(EMULATED)
    products.check_a_convolution_of_a_view(EMULATED)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_convolutions_of_any_shape_agree(data):
    products.check_conv2d_of_any_shape(EMULATED, data)


def test_aes_stream_matches_nist_vectors():
    parity.check_the_stream_is_nist_s(EMULATED)


def test_chacha20_stream_matches_rfc_8439():
    for key, block, expected in CHACHA:
        lanes = np.asarray(EMULATED.expand_lanes("chacha20", key, 1, 64 * 8 * (block + 1)))
        assert lanes.tobytes()[64 * block :].hex() == expected
