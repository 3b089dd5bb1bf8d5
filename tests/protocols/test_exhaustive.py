"""Small rings, everything: all inputs and all ways to share them, in one tensor, under random
masks; for the smallest rings all masks too. The range each step states is sharp: one value beyond
its edge some sharing gives another result.
"""

import numpy as np
import pytest

from gpumpc.protocols.chains import Chain
from gpumpc.protocols.comparison import Comparison, plan_comparison
from gpumpc.ring.fixed_point import signed
from tests.harness import every, run_step, share, unsigned
from tests.protocols import cases

RINGS = [8, 10]


def ring(bits):
    return np.arange(-(1 << (bits - 1)), 1 << (bits - 1))


def residues(bits):
    return np.arange(1 << bits)


def all_shares(bits, seed=0):
    """Every value modulo 2^bits in every sharing: the values, and both shares."""
    x, x_0 = every(ring(bits), residues(bits))
    return x, share(x, bits, frac=9, first=unsigned(x_0))


def masks(step, r, bits, seed):
    """A script in which the masks of a step add up to r."""
    r_0 = np.random.default_rng(seed).integers(0, 1 << bits, r.size, dtype=np.uint64)
    return {(0, step, "r"): r_0, (1, step, "r"): unsigned(r) - r_0}


# truncate


@pytest.mark.parametrize("k", RINGS)
@pytest.mark.parametrize("f", [1, 2, 3, 4])
def test_truncate_is_right_inside_its_range_only(k, f):
    x, shares = all_shares(k)
    got = run_step(cases.truncate(x.size, k, f), shares)
    assert got.shares[0].bits == k - f and got.shares[0].frac == 9 - f
    wrong = cases.outside_truncation(x, got.values, f)
    inside = x <= (1 << (k - 1)) - (1 << f)
    assert not wrong[inside].any()
    # One beyond the edge: its upper neighbour has no place in the smaller ring.
    beyond = x == (1 << (k - 1)) - (1 << f) + 1
    assert beyond.any() and wrong[beyond].any()
    # Never a large error, in the ring of k - f bits not even there.
    assert (np.abs(signed(got.words - unsigned(x >> f), k - f)) <= 1).all()


@pytest.mark.parametrize("k", RINGS)
def test_truncate_is_unbiased_over_all_sharings(k):
    f = 3
    x, shares = all_shares(k)
    got = run_step(cases.truncate(x.size, k, f), shares).values
    inside = x <= (1 << (k - 1)) - (1 << f)
    up = (got != x >> f).reshape(1 << k, 1 << k)[inside.reshape(1 << k, 1 << k)[:, 0]]
    # Of the 2^k sharings of x, exactly the fraction (x mod 2^f) / 2^f rounds up.
    values = ring(k)[ring(k) <= (1 << (k - 1)) - (1 << f)]
    assert np.array_equal(up.sum(axis=1), (values % (1 << f)) << (k - f))


# lift


@pytest.mark.parametrize("low", RINGS)
@pytest.mark.parametrize("more", [1, 3, 13])
def test_lift_is_exact_inside_its_range_only(low, more):
    v, shares = all_shares(low)
    got = run_step(cases.lift(v.size, low, low + more), shares)
    assert got.shares[0].bits == low + more and got.shares[0].frac == 9
    wrong = got.values != v
    edge = 1 << (low - 2)
    # |v| < 2^(low-2) is what the step states; below, two values more are exact: -1 has no sharing
    # with a carry.
    assert not wrong[(-edge - 1 <= v) & (v < edge)].any()
    assert wrong[v == edge].any() and wrong[v == -edge - 2].any()


@pytest.mark.parametrize("low", [3, 4, 5, 6])
def test_lift_is_exact_over_all_masks(low):
    edge, high = 1 << (low - 2), low + 2
    v, v_0, a_0, a_1, p_0 = every(range(-edge, edge), residues(low), (0, 1), (0, 1), residues(2))
    script = {(p, "lift", "lift.a"): lanes(a) for p, a in enumerate((a_0, a_1))}
    script[0, "lift", "lift.P"] = unsigned(p_0)
    got = run_step(cases.lift(v.size, low, high), share(v, low, first=unsigned(v_0)), script=script)
    assert np.array_equal(got.values, v)


def lanes(bits):
    """Zeros and ones as one lane."""
    packed = np.packbits(np.asarray(bits, dtype=np.uint8), bitorder="little")
    padded = np.concatenate([packed, np.zeros(-packed.size % 8, dtype=np.uint8)])
    return padded.view(np.uint64)[None]


# compare


def check_comparison(comparison, y, r, *more):
    """All pairs at once; r is shared in a way that depends on the element."""
    bits, n = comparison.bits, y.size
    script = masks("compare", r, bits, seed=n)
    public = [share(value, bits, first=unsigned(value))[0] for value in (y, *more)]
    got = run_step(cases.compare(n, comparison), *((part, part) for part in public), script=script)
    lanes_of = (part.lanes for part in got.shares)
    for value, first, second in zip((y, *more), *lanes_of, strict=True):
        less = np.unpackbits((first ^ second).view(np.uint8), count=n, bitorder="little")
        assert np.array_equal(less, value < r), comparison


def test_comparison_of_5_bits_for_all_digits_and_trees():
    y, r = every(residues(5), residues(5))
    count = 0
    for chain in cases.chains(5, keep_eq=False):
        check_comparison(Comparison(chain, None), y, r)
        count += 1
    assert count == 148


@pytest.mark.parametrize("n_digits", range(2, 9))
def test_comparison_of_8_bits_for_all_digits(n_digits):
    y, r = every(residues(8), residues(8))
    trees = list(cases.groupings(n_digits))
    cuts = [widths for widths in cases.compositions(8) if len(widths) == n_digits]
    for i, widths in enumerate(cuts):
        levels = trees[i * 7 % len(trees)]  # another tree each time
        check_comparison(Comparison(Chain(widths, levels, False), None), y, r)


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 9, 10])
def test_planned_comparison_is_right_for_all_values(bits):
    y, r = every(residues(bits), residues(bits))
    check_comparison(plan_comparison(bits), y, r)


@pytest.mark.parametrize("top", [1, 2, 3, 4, 6, 12, 24, 32, 48, 96])
def test_two_values_share_the_low_chain_of_a_comparison(top):
    bits, shared = 8, (top & -top).bit_length() - 1
    y, r = every(residues(bits), residues(bits))
    comparison = plan_comparison(bits, shared, copies=2)
    assert comparison.shared_low == shared
    check_comparison(comparison, y, r, (y - top) % (1 << bits))


@pytest.mark.parametrize("high", list(cases.chains(3, keep_eq=True))[::2])
@pytest.mark.parametrize("low", list(cases.chains(3, keep_eq=False))[::2])
def test_high_and_low_chains_of_any_shape_combine(high, low):
    y, r = every(residues(6), residues(6))
    check_comparison(Comparison(high, low, 2), y, r, (y - 24) % 64)


# ReLU, clamp, max


@pytest.mark.parametrize("bits", RINGS)
@pytest.mark.parametrize("more", [0, 5])
def test_relu_is_right_for_all_sharings(bits, more):
    v, shares = all_shares(bits)
    got = run_step(cases.relu(v.size, bits, bits + more), shares)
    assert got.shares[0].bits == bits + more and got.shares[0].frac == 9
    # Every residue is a value: one beyond the upper edge is the lower edge, and counts as negative.
    assert not cases.outside_relu(v, got.values).any()


@pytest.mark.parametrize("bits", [3, 4, 5, 6])
@pytest.mark.parametrize("more", [0, 2])
def test_relu_is_right_over_all_masks(bits, more):
    v, v_0, r = every(ring(bits), residues(bits), residues(bits))
    script = masks("relu", r, bits, seed=bits)
    step = cases.relu(v.size, bits, bits + more)
    got = run_step(step, share(v, bits, first=unsigned(v_0)), script=script)
    assert not cases.outside_relu(v, got.values).any()


@pytest.mark.parametrize(
    ("bits", "high", "top"),
    [(8, 8, 24), (8, 13, 24), (8, 13, 63), (8, 1, 1), (8, 9, 32), (10, 15, 96), (10, 10, 255)],
)
def test_clamp_is_right_inside_its_range_only(bits, high, top):
    v, shares = all_shares(bits)
    got = run_step(cases.clamp(v.size, bits, high, top), shares)
    assert got.shares[0].frac == 9 and got.shares[0].bits >= high
    wrong = cases.outside_clamp(v, got.values, top)
    edge = -(1 << (bits - 1)) + top
    assert not wrong[v >= edge].any()
    assert wrong[v == edge - 1].all()


@pytest.mark.parametrize("top", [1, 2, 3, 5, 6, 7])
def test_clamp_is_right_over_all_masks(top):
    bits = 5
    v, v_0, r = every(np.arange(-16 + top, 16), residues(bits), residues(bits))
    script = masks("clamp", r, bits, seed=top)
    got = run_step(
        cases.clamp(v.size, bits, 8, top), share(v, bits, first=unsigned(v_0)), script=script
    )
    assert not cases.outside_clamp(v, got.values, top).any()


@pytest.mark.parametrize("bits", RINGS)
def test_max_is_right_for_all_pairs(bits):
    edge = 1 << (bits - 2)
    a, b = every(np.arange(-edge, edge), np.arange(-edge, edge))
    x = np.stack([a, b], axis=1).reshape(-1, 1, 2, 1)
    got = run_step(cases.pair_max(a.size, bits), share(x, bits, frac=9, seed=bits))
    assert got.shares[0].bits == bits and got.shares[0].frac == 9
    assert np.array_equal(got.values.reshape(-1), np.maximum(a, b))


def test_max_is_right_for_all_pairs_in_all_sharings():
    bits, edge = 5, 8
    a, b, a_0, b_0 = every(*2 * [np.arange(-edge, edge)], *2 * [residues(bits)])
    x, first = (np.stack(pair, axis=1).reshape(-1, 1, 2, 1) for pair in ((a, b), (a_0, b_0)))
    got = run_step(cases.pair_max(a.size, bits), share(x, bits, first=unsigned(first)))
    assert np.array_equal(got.values.reshape(-1), np.maximum(a, b))


@pytest.mark.parametrize("bits", RINGS)
def test_max_one_beyond_its_range_is_wrong(bits):
    """A difference needs one bit more: 2^(bits-2) against the lowest value wraps."""
    edge = 1 << (bits - 2)
    x = np.array([[edge, -edge], [-edge, edge - 1], [edge - 1, -edge]]).reshape(3, 1, 2, 1)
    got = run_step(cases.pair_max(3, bits), share(x, bits)).values.reshape(-1)
    assert got.tolist() == [-edge, edge - 1, edge - 1]


def test_max_is_right_for_all_triples():
    bits, edge = 6, 16
    triples = np.stack(every(*3 * [np.arange(-edge, edge)]), axis=1).reshape(-1, 1, 3, 1)
    step = cases.max_pool(triples.shape, bits, (1, 3), (1, 1), (0, 0, 0, 0))
    got = run_step(step, share(triples, bits, seed=3))
    assert np.array_equal(got.values.reshape(-1), triples.max(axis=2).reshape(-1))
