"""Reals as ring elements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumpc.errors import BadValue, OutOfRange
from gpumpc.ring.fixed_point import decode, encode, mask, signed


@given(st.integers(1, 64), st.integers(0, 2**64 - 1))
def test_signed_is_the_residue_nearest_zero(bits, value):
    words = np.array([value], dtype=np.uint64)
    [result] = signed(words, bits).tolist()
    assert -(1 << (bits - 1)) <= result < 1 << (bits - 1)
    assert (result - value) % (1 << bits) == 0


@given(st.integers(1 - 2**39, 2**39 - 1))
def test_encoded_integers_decode_exactly(value):
    assert decode(encode(np.array([value / 2**13]), 2.0**13, 40), 2.0**13, 40)[0] * 2**13 == value


@given(st.floats(-1000, 1000), st.integers(1, 20))
def test_encoding_error_is_at_most_half_a_unit(value, f):
    back = decode(encode(np.array([value]), 2.0**f, 40), 2.0**f, 40)[0]
    assert abs(back - value) <= 2.0**-f / 2


def test_ties_go_to_even():
    assert encode(np.array([0.5, 1.5, 2.5, -0.5, -1.5]), 1.0, 8).tolist() == [0, 2, 2, 0, 254]


def test_scale_may_have_a_divisor():
    assert decode(encode(np.array([2.0]), 2.0**4 * 49, 20), 2.0**4 * 49, 20)[0] == 2.0


@pytest.mark.parametrize("bits", [8, 40, 53, 62])
def test_the_largest_value_is_admitted_and_the_next_refused(bits):
    edge = 2.0 ** (bits - 1)
    inside = np.nextafter(edge, 0) if bits > 53 else edge - 1
    assert signed(encode(np.array([-inside, inside]), 1.0, bits), bits).tolist() == [
        -int(inside),
        int(inside),
    ]
    for outside in (edge, -edge, 4 * edge):
        with pytest.raises(OutOfRange, match="rescale the data"):
            encode(np.array([0.0, outside]), 1.0, bits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
def test_non_finite_values_are_refused(bad):
    with np.errstate(over="ignore"), pytest.raises((BadValue, OutOfRange)):
        encode(np.array([1.0, bad]), 2.0**13, 40)


def test_nan_is_named():
    with pytest.raises(BadValue, match="the pixels holds NaN"):
        encode(np.array([np.nan]), 1.0, 8, "the pixels")


def test_empty_array_is_encoded():
    assert encode(np.zeros((0, 3)), 1.0, 8).shape == (0, 3)


def test_mask_has_the_low_bits_set():
    assert [int(mask(bits)) for bits in (0, 1, 8, 63, 64)] == [0, 1, 255, 2**63 - 1, 2**64 - 1]
