"""Products through float64: exact for every input, the worst digits first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumpc.ring import limbs
from gpumpc.ring.fixed_point import mask

BITS = list(range(1, 65))
SIDE = st.integers(1, 40)


def words(rng, shape, bits):
    return rng.integers(0, (1 << bits) - 1, shape, dtype=np.uint64, endpoint=True)


def digits_word(bits, digit):
    """The word whose balanced digits are `digit(width)`; all but the last have 22 bits."""
    starts = range(0, bits, limbs.DIGIT_BITS)
    value = sum(digit(min(limbs.DIGIT_BITS, bits - start)) << start for start in starts)
    return np.uint64(value % (1 << 64))


def lowest_digits(bits):
    """All digits -2^21, the last one -2^(rest - 1)."""
    return digits_word(bits, lambda width: -(1 << (width - 1)))


def highest_digits(bits):
    """All digits 2^21 - 1, the last one 2^(rest - 1) - 1."""
    return digits_word(bits, lambda width: (1 << (width - 1)) - 1)


@given(st.integers(0, 2**64 - 1), st.integers(1, 64))
def test_digits_are_balanced_and_add_up(value, bits):
    digits = np.empty((limbs.n_digits(bits), 1))
    limbs.cut(np.array([value], dtype=np.uint64), bits, digits)
    assert np.abs(digits).max() <= 2 ** (limbs.DIGIT_BITS - 1)
    total = sum(int(digit) << (limbs.DIGIT_BITS * i) for i, digit in enumerate(digits[:, 0]))
    assert total % (1 << bits) == value % (1 << bits)


@pytest.mark.parametrize("bits", BITS)
def test_lowest_digits_make_the_most_negative_digits(bits):
    digits = np.empty((limbs.n_digits(bits), 1))
    limbs.cut(np.array([lowest_digits(bits)]), bits, digits)
    assert (digits[:-1] == -(2 ** (limbs.DIGIT_BITS - 1))).all()


@pytest.mark.parametrize("bits", BITS)
def test_matmul_is_exact_for_every_width(bits):
    rng = np.random.default_rng(bits)
    # Unreduced words: what stands above the valid bits must not matter.
    x, w = words(rng, (19, 61), 64), words(rng, (61, 19), 64)
    assert limbs.matmul(x, w, bits).size * 61 >= limbs.DIRECT_BELOW
    assert np.array_equal(limbs.matmul(x, w, bits), (x @ w) & mask(bits))


# MAX_TERMS // (d + 1) terms fit one product of diagonal d; each bound, one less, and one more.
AROUND = {limbs.MAX_TERMS // d + e for d in (1, 2, 3) for e in (-1, 0, 1)}
BOUNDS = sorted(AROUND | {4096, 4097, 1, 2})


@pytest.mark.parametrize("n_terms", BOUNDS)
@pytest.mark.parametrize("bits", [22, 40, 44, 62, 64])
@pytest.mark.parametrize("signs", ["same", "opposite", "alternating"])
def test_matmul_at_the_bound_of_exactness(n_terms, bits, signs):
    x = np.full((130, n_terms), lowest_digits(bits))
    w = np.full((n_terms, 130), lowest_digits(bits) if signs == "same" else highest_digits(bits))
    if signs == "alternating":
        x[:, ::2] = highest_digits(bits)
        w[1::2] = lowest_digits(bits)
    expected = (x[:1].astype(object) @ w[:, :1].astype(object))[0, 0] % (1 << bits)
    assert (limbs.matmul(x, w, bits) == np.uint64(expected)).all()


def test_one_term_more_exceeds_exact_float64():
    """The bound is sharp in the proof: 2^53 + 1 is no float64."""
    assert limbs.MAX_TERMS * 2 ** (2 * (limbs.DIGIT_BITS - 1)) == 2**53
    assert float(2**53) + 1.0 == float(2**53)


@pytest.mark.parametrize("size", [1, 19, 989])
@pytest.mark.parametrize("bits", [40, 44, 64])
def test_matmul_of_lane_boundary_sizes(size, bits):
    rng = np.random.default_rng(size)
    for shape in ((size, 7, 3), (3, size, 7), (7, 3, size), (size, 19, 19)):
        x, w = words(rng, shape[:2], bits), words(rng, shape[1:], bits)
        assert np.array_equal(limbs.matmul(x, w, bits), (x @ w) & mask(bits))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), SIDE, st.integers(1, 3000), SIDE, st.integers(0, 2**32))
def test_matmul_of_any_shape(bits, rows, n_terms, columns, seed):
    rng = np.random.default_rng(seed)
    x, w = words(rng, (rows, n_terms), bits), words(rng, (n_terms, columns), bits)
    x[rng.random(x.shape) < 0.2] = lowest_digits(bits)
    assert np.array_equal(limbs.matmul(x, w, bits), (x @ w) & mask(bits))


def test_matmul_of_strided_operands():
    rng = np.random.default_rng(5)
    x, w = words(rng, (80, 120), 44), words(rng, (60, 120), 44)
    expected = (x[::2, ::2] @ w.T[::2]) & mask(44)
    assert np.array_equal(limbs.matmul(x[::2, ::2], w.T[::2, ::1], 44), expected)


def test_row_blocks_join(monkeypatch):
    monkeypatch.setattr(limbs, "_BLOCK_BYTES", 1)  # blocks of 64 rows
    rng = np.random.default_rng(6)
    x, w = words(rng, (197, 50), 44), words(rng, (50, 30), 44)
    assert np.array_equal(limbs.matmul(x, w, 44), (x @ w) & mask(44))
