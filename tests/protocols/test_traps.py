"""The traps of the protocol book that concern sections 1 to 8 and 10.

Elsewhere: a lift with one mask for two candidates is planted in `test_planted_signs`; a 40-bit
share where 64 bits are needed, and a pool at its range's edge, are refused in `test_refusals`.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.offline.deal_batch import weight_masks
from gpumpc.offline.seeds import SeedTree, weight_session
from gpumpc.protocols.linear import Open
from gpumpc.protocols.relu import Clamp, ReLU
from gpumpc.ring.fixed_point import mask
from gpumpc.shares import Additive, split
from tests.harness import BACKEND, every, roots, run_step, run_steps, share, unsigned
from tests.protocols.cases import RINGS, clamp, lift, outside_clamp, outside_relu, relu, truncate


def edges(bits):
    """Residues where carries and signs turn over."""
    half, full = 1 << (bits - 1), 1 << bits
    corners = (0, half // 2, half, half + half // 2)
    return sorted({(corner + by) % full for corner in corners for by in range(-2, 3)})


def planted(bits, values, step, name):
    """Every edge value under every edge mask, in every edge sharing of the value."""
    v, v_0, r = every(values, edges(bits), edges(bits))
    half = np.random.default_rng(bits).integers(0, 1 << bits, v.size, dtype=np.uint64)
    script = {(0, name, "r"): half, (1, name, "r"): unsigned(r) - half}
    return v, run_step(step(v.size), share(v, bits, first=unsigned(v_0)), script=script).values


@pytest.mark.parametrize(("k", "f"), RINGS)
def test_relu_is_right_for_masks_and_values_at_the_edges(k, f):
    bits = k - f
    signed_edges = [e - (1 << bits) if e >> (bits - 1) else e for e in edges(bits)]
    v, got = planted(bits, signed_edges, lambda n: relu(n, bits, k), "relu")
    assert not outside_relu(v, got).any()


@pytest.mark.parametrize(("k", "f"), RINGS)
def test_clamp_is_right_at_the_edges_and_wrong_beyond(k, f):
    bits, top = k - f, 6 << f
    lowest = -(1 << (bits - 1)) + top
    near = [lowest - 1, lowest, lowest + 1, -1, 0, 1, top - 1, top, top + 1, (1 << (bits - 1)) - 1]
    v, got = planted(bits, near, lambda n: clamp(n, bits, k, top), "clamp")
    wrong = outside_clamp(v, got, top)
    assert np.array_equal(wrong, v == lowest - 1)


@pytest.mark.parametrize(("k", "f"), RINGS)
def test_lift_is_right_at_the_edges_and_wrong_beyond(k, f):
    low = k - f
    edge = 1 << (low - 2)
    v, v_0 = every([-edge, -edge + 1, -1, 0, 1, edge - 1, edge], edges(low))
    got = run_step(lift(v.size, low, k), share(v, low, first=unsigned(v_0)))
    wrong = got.values != v
    assert not wrong[v != edge].any() and wrong[v == edge].any()


@pytest.mark.parametrize(("k", "f"), RINGS)
def test_relu_of_small_negative_products_is_zero(k, f):
    """x in (-2^f, 0) truncates to -1 or 0: after the ReLU 0, never 1 or a large value."""
    x = -1 - np.arange(min((1 << f) - 1, 1 << 13))
    steps = [truncate(x.size, k, f), ReLU("relu", ("y",), "z", (x.size,), k - f, k)]
    got = run_steps(steps, {"x": share(x, k, frac=2 * f)})
    assert not got.values.any() and got.shares[0].frac == f


@pytest.mark.parametrize(("k", "f"), RINGS)
def test_clamp_constant_is_exact_at_the_scale_of_the_value(k, f):
    """Products within 2^f of the constant: a clamp off by 2^f - 1 would let some through."""
    top = 6 << f
    near = np.arange(-4100, 4100) if f > 12 else np.arange(-(1 << f), 1 << f)
    x = (top << f) + np.concatenate([near, [-(1 << f), (1 << f) - 1, 1 << f]])
    steps = [truncate(x.size, k, f), Clamp("clamp", ("y",), "z", (x.size,), k - f, k, top)]
    got = run_steps(steps, {"x": share(x, k, frac=2 * f)}).values
    assert got.max() == top
    assert (got[x >= top << f] == top).all()
    below = x < top << f
    assert ((got[below] == x[below] >> f) | (got[below] == (x[below] >> f) + 1)).all()


def test_bits_above_the_ring_never_reach_the_wire():
    """Bits of a server's words above bit 43 change no message: 5.5 bytes an element."""
    n, k = 640, 44
    step = Open("open", ("x",), "e", (n,), k)
    x = np.random.default_rng(1).integers(-(1 << 43), 1 << 43, n)
    clean: Any = share(x, k)
    dirt = np.arange(n, dtype=np.uint64) << np.uint64(k)
    one, other = (dataclasses.replace(part, words=part.words | dirt) for part in clean)
    first, second = run_step(step, clean), run_step(step, (one, other))
    assert first.sent == second.sent
    assert len(first.sent[0][0]) == n * 11 // 2
    assert not (first.openings[0][0].values >> np.uint64(k)).any()


def test_new_weights_under_an_old_name_get_a_new_mask():
    """Two openings under one mask would give away the difference of two models."""
    shapes = {"layer": ((19, 5), 40)}

    def mask_of(version):
        session = weight_session(version, "pair")
        trees = (SeedTree(roots(0)[0], session, 0), SeedTree(roots(0)[1], session, 0))
        return weight_masks(BACKEND, "aes128ctr", trees, shapes)["layer"]

    rng = np.random.default_rng(2)
    old, new = (rng.integers(0, 1 << 40, (19, 5), dtype=np.uint64) for _ in range(2))
    opened = [(w - mask_of(version)) & mask(40) for version, w in (("v1", old), ("v2", new))]
    assert np.array_equal(mask_of("v1"), mask_of("v1"))
    assert ((opened[0] - opened[1]) & mask(40) != (old - new) & mask(40)).all()


def test_local_zero_extension_is_wrong_for_most_values():
    """Section 10: shares of fewer bits must be lifted; padding words with zeros loses the carry."""
    n, low, high = 20_000, 27, 40
    x = np.random.default_rng(3).integers(0, 1 << (low - 2), n)
    first, second = share(x, low)
    extended = BACKEND.reduce(first.words + second.words, high)
    assert (extended != unsigned(x)).mean() > 0.5
    assert np.array_equal(run_step(lift(n, low, high), (first, second)).values, x)


def test_uploaded_first_share_is_expanded_from_a_seed():
    """Section 10: server 0's share is 32 bytes; server 1's alone is as uniform as a mask."""
    pixels: Any = np.full(4096, 7, dtype=np.uint64)
    first: Any
    second: Any
    first, second = split(BACKEND, "chacha20", bytes(range(32)), pixels, 40)
    assert np.array_equal(first, BACKEND.expand_words("chacha20", bytes(range(32)), (4096,), 40))
    assert len(set(second.tolist())) > 4000
    again: Any = split(BACKEND, "chacha20", bytes(range(32)), pixels + np.uint64(1), 40)[0]
    assert np.array_equal(first, again)


def test_mask_hides_no_bits_above_its_own():
    """Opened modulo 2^48 under a 40-bit mask, the top byte is that of the secret."""
    n = 4096
    x = np.full(n, 0xAB << 40, dtype=np.uint64)
    hidden = x + BACKEND.expand_words("aes128ctr", bytes(32), (n,), 40)
    assert set(np.frombuffer(BACKEND.pack(hidden, 48), np.uint8)[5 * n :].tolist()) <= {0xAB, 0xAC}
    low = np.frombuffer(BACKEND.pack(hidden, 40), np.uint8)
    assert len(low) == 5 * n
    assert np.array_equal(low, np.frombuffer(BACKEND.pack(hidden - x, 40), np.uint8))


def test_adding_takes_the_smaller_ring_on_both_sides():
    """A 40-bit share and a 62-bit one: what is left is a 40-bit share, whichever comes first."""
    x, y = np.array([5, -5]), np.array([-(1 << 38), 1 << 38])
    for bits in ((40, 62), (62, 40)):
        pairs = [share(v, b, seed=b) for v, b in zip((x, y), bits, strict=True)]
        sums = [a.plus(BACKEND, b) for a, b in zip(*pairs, strict=True)]
        assert {s.bits for s in sums} == {40}
        whole = BACKEND.reduce(sums[0].words + sums[1].words, 40)
        assert np.array_equal(whole, unsigned(x + y) & mask(40))
    assert isinstance(sums[0], Additive)
