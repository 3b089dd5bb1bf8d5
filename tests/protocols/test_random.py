"""Real rings: each step obeys its law on random values of its whole range and at both edges."""

from typing import Any

import numpy as np
import pytest

from gpumpc.params import Cipher, Params
from tests.harness import plain, run_step, run_steps, share
from tests.protocols import cases


@pytest.mark.parametrize("n", cases.SIZES)
@pytest.mark.parametrize(("k", "f"), cases.RINGS)
class TestSteps:
    def test_truncate_of_random_values_is_right(self, k, f, n):
        x = cases.values(-(1 << (k - 1)), (1 << (k - 1)) - (1 << f) + 1, n)
        step = cases.truncate(n, k, f)
        got = run_step(step, share(x, k, frac=2 * f))
        assert not cases.outside_truncation(x, got.values, f).any()
        # `plain` rounds to nearest: always one of the same two values.
        assert not cases.outside_truncation(x, plain(step, x), f).any()
        assert (np.abs(got.values - plain(step, x)) <= 1).all()

    def test_truncate_follows_the_formula_on_the_shares(self, k, f, n):
        """The rounding is determined by the shares: the formula of section 4, to the bit."""
        x = cases.values(-(1 << (k - 1)), (1 << (k - 1)) - (1 << f) + 1, n)
        shares: Any = share(x, k, frac=2 * f)
        got = run_step(cases.truncate(n, k, f), shares).words
        pairs = zip(*(s.words.tolist() for s in shares), strict=True)
        sums = [((a + 2**f - 1) % 2**k >> f) + (b % 2**k >> f) for a, b in pairs]
        assert got.tolist() == [total % 2 ** (k - f) for total in sums]

    def test_lift_of_random_values_is_exact(self, k, f, n):
        low = k - f
        v = cases.values(-(1 << (low - 2)), 1 << (low - 2), n)
        got = run_step(cases.lift(n, low, k), share(v, low, frac=f))
        assert np.array_equal(got.values, v) and got.shares[0].bits == k and got.shares[0].frac == f
        assert np.array_equal(plain(cases.lift(n, low, k), v), v)

    def test_relu_of_random_values_is_right(self, k, f, n):
        bits = k - f
        v = cases.values(-(1 << (bits - 1)), 1 << (bits - 1), n)
        for high in (1, bits, k):
            got = run_step(cases.relu(n, bits, high), share(v, bits, frac=f))
            assert not cases.outside_relu(v, got.values).any()
            assert np.array_equal(got.values, plain(cases.relu(n, bits, high), v))
            assert got.shares[0].bits == max(bits, high)

    def test_relu_in_the_whole_ring_is_right(self, k, f, n):
        v = cases.values(-(1 << (k - 1)), 1 << (k - 1), n)
        assert not cases.outside_relu(v, run_step(cases.relu(n, k, k), share(v, k)).values).any()

    def test_clamp_of_random_values_is_right(self, k, f, n):
        bits = k - f
        for top, high in (
            (6 << f, k),
            (6 << f, 1),
            (round(2.7 * 2**f), k),
            (1, k),
            ((1 << (bits - 2)) - 1, k),
        ):
            v = cases.values(-(1 << (bits - 1)) + top, 1 << (bits - 1), n)
            v[-3:] = [top - 1, top, top + 1][-len(v[-3:]) :]
            step = cases.clamp(n, bits, high, top)
            got = run_step(step, share(v, bits, frac=f))
            assert not cases.outside_clamp(v, got.values, top).any()
            assert np.array_equal(got.values, plain(step, v))

    def test_max_of_random_values_is_right(self, k, f, n):
        bits = k - f
        x = cases.values(-(1 << (bits - 2)), 1 << (bits - 2), 2 * n).reshape(n, 1, 2, 1)
        got = run_step(cases.pair_max(n, bits), share(x, bits, frac=f))
        assert np.array_equal(got.values.reshape(-1), x.max(axis=2).reshape(-1))
        assert np.array_equal(got.values, plain(cases.pair_max(n, bits), x))

    def test_argmax_of_random_values_is_right(self, k, f, n):
        for entries in (1, 2, 3, 10):
            x = cases.values(-(1 << (k - 2)), 1 << (k - 2), entries * n, seed=entries).reshape(
                n, entries
            )
            x[::3] = x[::3, :1]  # ties all along
            x[1::3, -1] = x[1::3].max(axis=1)
            got = run_step(cases.argmax((n, entries), k), share(x, k, frac=2 * f))
            assert np.array_equal(got.words, np.argmax(x, axis=1).astype(np.uint64))
            assert np.array_equal(
                got.words.astype(np.int64), plain(cases.argmax((n, entries), k), x)
            )
            assert got.shares[0].frac == 0
            assert got.shares[0].bits == max(1, (entries - 1).bit_length())


@pytest.mark.parametrize("cipher", cases.CIPHERS)
def test_relu_is_right_with_both_ciphers(cipher: Cipher):
    v = cases.values(-(1 << 26), 1 << 26, 989)
    params = Params(cipher=cipher)
    got = run_steps([cases.relu(989, 27, 40)], {"x": share(v, 27)}, params=params)
    assert not cases.outside_relu(v, got.values).any()


def test_the_ciphers_draw_different_masks():
    x = share(cases.values(-100, 100, 989), 27)
    params = [Params(cipher=cipher) for cipher in cases.CIPHERS]
    runs = [run_steps([cases.relu(989, 27, 40)], {"x": x}, params=one) for one in params]
    assert runs[0].sent != runs[1].sent


def test_the_same_roots_give_the_same_bytes():
    x = share(cases.values(-100, 100, 989), 27)
    runs = [run_step(cases.relu(989, 27, 40), x, seed=seed) for seed in (1, 1, 2)]
    assert runs[0].sent == runs[1].sent and runs[0].corrections == runs[1].corrections
    assert runs[0].sent != runs[2].sent and runs[0].corrections != runs[2].corrections


def test_truncation_is_unbiased():
    """Mean error of 2 * 10^5 sharings: below 5 standard deviations (false alarm 6e-7 a value)."""
    n, k, f = 200_000, 40, 13
    for low_bits in (1, 2**12, 5000, 2**13 - 1):
        x = np.full(n, -(1 << 30) + low_bits)
        error = (
            run_step(cases.truncate(n, k, f), share(x, k, seed=low_bits)).values - x / 2**f
        ).mean()
        p = low_bits / 2**f
        assert abs(error) < 5 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("tie", [0, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("entries", [2, 3, 5, 7])
def test_argmax_takes_the_lowest_index_of_several_maxima(entries, tie):
    rng = np.random.default_rng(tie)
    x = rng.integers(-2, 3, (400, entries))  # few values: most rows have ties
    got = run_step(cases.argmax(x.shape, 40), share(x, 40, seed=tie))
    assert np.array_equal(got.words, np.argmax(x, axis=1).astype(np.uint64))


@pytest.mark.parametrize("bits", [27, 40])
def test_argmax_is_right_up_to_the_edge_of_its_range(bits):
    edge = 1 << (bits - 2)
    x = np.array(
        [[-edge, edge - 1, -edge], [edge - 1, -edge, edge - 1], [-edge, -edge, -edge], [0, -1, 0]]
    )
    got = run_step(cases.argmax(x.shape, bits), share(x, bits))
    assert got.words.tolist() == [1, 0, 0, 0]
    beyond = run_step(cases.argmax((1, 2), bits), share(np.array([[edge, -edge]]), bits))
    assert beyond.words.tolist() == [1]  # documented as wrong: the difference wraps
