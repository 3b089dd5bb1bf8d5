"""The compiled loops against the definition, bit for bit: every operation, at sizes on both sides
of every block and tile.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumpc.ring.numba_backend import NumbaBackend
from tests.ring.parity import (
    CIPHERS,
    DEFINITION,
    SIZES,
    WIDTHS,
    check_adding_what_came,
    check_candidates_and_flips,
    check_fused_with_the_stream,
    check_in_place,
    check_lanes_of_a_message,
    check_lanes_of_constants_and_words,
    check_lift,
    check_masked,
    check_masked_products,
    check_select,
    check_tables,
    check_the_stream_is_nist_s,
    check_views_and_axes,
    check_wire,
    check_words,
    words,
)
from tests.ring.parity_products import (
    check_a_convolution_of_a_view,
    check_beaver,
    check_conv2d_of_any_shape,
    check_depthwise,
    check_matmul,
    check_matmul_of_nothing,
    check_row_dot,
    check_sums,
)

COMPILED = NumbaBackend()
BOTH = (DEFINITION, COMPILED)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_words(bits, n, fill):
    check_words(COMPILED, bits, n, fill)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_wire(bits, n, fill):
    check_wire(COMPILED, bits, n, fill)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_lanes_of_a_message(start):
    check_lanes_of_a_message(COMPILED, start)


@pytest.mark.parametrize("n", SIZES)
def test_select_and_from_bit(n):
    check_select(COMPILED, n)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", [1, 64, 989, 16_421, 40_000])
@pytest.mark.parametrize(("digits", "width"), [(1, 1), (9, 3), (2, 4), (3, 2), (1, 6)])
def test_tables(digits, width, n, fill):
    check_tables(COMPILED, digits, width, n, fill)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [1, 8, 13, 27, 32, 40, 64])
def test_fused_with_the_stream(bits, n, cipher):
    for backend in BOTH:
        check_fused_with_the_stream(backend, bits, n, cipher)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", range(1, 65))
def test_masked_words_leave_packed(bits, n, fill):
    for backend in BOTH:
        check_masked(backend, bits, n, fill=fill)
    check_masked(COMPILED, bits, min(n, 65), "chacha20", fill)


def test_a_masked_view_leaves_as_it_lies():
    x, key = words(1, (6, 10, 14)), bytes(range(32))
    for view in (x[::2, :, 1::3], x.transpose(2, 0, 1)):
        expected = bytes(DEFINITION.pack_masked(view, "aes128ctr", key, 27, -1))
        assert bytes(COMPILED.pack_masked(view, "aes128ctr", key, 27, -1)) == expected


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_adding_what_came(bits, n):
    for backend in BOTH:
        check_adding_what_came(backend, bits, n)


@pytest.mark.parametrize("n", SIZES)
def test_lanes_of_constants_and_words(n):
    for backend in BOTH:
        check_lanes_of_constants_and_words(backend, n)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [1, 27, 40, 64])
def test_candidates_and_flips(bits, n):
    for backend in BOTH:
        check_candidates_and_flips(backend, bits, n)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 3), (2, 9, 9, 20)])
@pytest.mark.parametrize("bits", [1, 40, 64])
@pytest.mark.parametrize("party", [0, 1])
def test_beaver(bits, shape, party):
    for backend in BOTH:
        check_beaver(backend, bits, shape, party)


@pytest.mark.parametrize("m", [0, 1, 9])
@pytest.mark.parametrize("bits", [1, 40, 64])
def test_sums_of_products(bits, m):
    for backend in BOTH:
        check_sums(backend, bits, m)


@pytest.mark.parametrize("n", [1, 63, 65, 989, 16_421])
@pytest.mark.parametrize("candidates", [1, 2])
@pytest.mark.parametrize("party", [0, 1])
@pytest.mark.parametrize(("low", "high"), [(27, 40), (1, 64), (44, 62)])
def test_lift(low, high, party, candidates, n):
    for backend in BOTH:
        check_lift(backend, low, high, party, candidates, n)


@pytest.mark.parametrize("n", [1, 65, 989, 40_000])
@pytest.mark.parametrize("party", [0, 1])
def test_masked_products(party, n):
    for backend in BOTH:
        check_masked_products(backend, party, n)


def test_views_and_axes():
    check_views_and_axes(COMPILED)


def test_in_place():
    check_in_place(COMPILED)


MATRICES = [
    (m, k, n)
    for m in (1, 3, 5, 6, 7, 8, 49, 97)
    for k in (1, 2, 65)
    for n in (1, 2, 3, 8, 9, 16, 17, 33)
]


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("bits", WIDTHS)
def test_matmul_of_every_shape_around_a_tile(bits, fill):
    for m, k, n in MATRICES:
        check_matmul(COMPILED, m, k, n, bits, fill)


@pytest.mark.parametrize("bits", [32, 48, 64])
def test_matmul_with_long_rows(bits):
    """Sums of the largest products over rows longer than any layer's."""
    check_matmul(COMPILED, 7, 40_000, 9, bits, fill=True)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_matmul_of_nothing(shape):
    check_matmul_of_nothing(COMPILED, shape)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_conv2d_of_any_shape(data):
    check_conv2d_of_any_shape(COMPILED, data)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("bits", WIDTHS)
def test_depthwise(bits, fill):
    check_depthwise(COMPILED, bits, fill)


def test_a_convolution_of_a_view():
    check_a_convolution_of_a_view(COMPILED)


@pytest.mark.parametrize("bits", [32, 40, 64])
def test_row_dot(bits):
    check_row_dot(COMPILED, bits)


def test_the_stream_is_nist_s():
    check_the_stream_is_nist_s(COMPILED)
