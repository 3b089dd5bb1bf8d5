"""The compiled loops against the definition, bit for bit: every operation, at sizes on both sides
of every block and tile.

`check_*` functions hold for any backend; the last tests give them backends with a mistake, and each
must be caught.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumpc.params import Cipher
from gpumpc.ring import numba_backend
from gpumpc.ring.backend import Factors, LiftLanes, n_lanes
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.numba_backend import NumbaBackend, products, tiles, winograd
from gpumpc.ring.numba_backend.forms import Static
from gpumpc.ring.numpy_backend import NumpyBackend
from tests.ring.test_prg import AES_CIPHER, AES_COUNTER, AES_KEY, AES_PLAIN

ROOT = Path(__file__).resolve().parents[2]
DEFINITION, COMPILED = NumpyBackend(), NumbaBackend()
SIZES = [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 989, 16_384, 16_421]
CIPHERS: list[Cipher] = ["aes128ctr", "chacha20"]
WIDTHS = [1, 2, 7, 8, 9, 13, 16, 27, 31, 32, 33, 40, 44, 48, 49, 56, 63, 64]


def words(seed, shape, fill=False):
    """Uniform words, or words whose every bit is one: the largest sums there are."""
    if fill:
        return np.full(shape, mask(64))
    return np.random.default_rng(seed).integers(0, 1 << 64, shape, dtype=np.uint64)


def lanes(seed, planes, n, fill=False):
    made = words(seed, (planes, n_lanes(n)), fill)
    if n % 64:
        made[:, -1] &= mask(n % 64)
    return made


def read_only(array):
    """The same values as a view of bytes that came over the wire."""
    return np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)


def same(got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert np.array_equal(got, expected)


# element by element


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_words(bits, n, fill):
    x, y = words(n, (n,), fill), read_only(words(n + 1, (n,)))
    shift = min(13, bits - 1)
    for party in (0, 1):
        same(COMPILED.truncate(x, bits, shift, party), DEFINITION.truncate(x, bits, shift, party))
    same(COMPILED.reduce(y, bits), DEFINITION.reduce(y, bits))
    same(COMPILED.multiply(x, y, bits), DEFINITION.multiply(x, y, bits))
    for value in (-1, 5, -(1 << 63), 1 << 63):
        same(COMPILED.add_constant(x, value, bits), DEFINITION.add_constant(x, value, bits))
        same(COMPILED.scale(x, value, bits), DEFINITION.scale(x, value, bits))
    same(COMPILED.sign_extend(x, bits), DEFINITION.sign_extend(x, bits))
    for cipher in CIPHERS:
        key = bytes(range(32))
        same(
            COMPILED.expand_words(cipher, key, (n,), bits),
            DEFINITION.expand_words(cipher, key, (n,), bits),
        )
        same(COMPILED.expand_lanes(cipher, key, 3, n), DEFINITION.expand_lanes(cipher, key, 3, n))


def check_wire(backend, bits, n, fill=False):
    x = words(n, (n,), fill)
    packed = DEFINITION.pack(x, bits)
    assert bytes(backend.pack(x, bits)) == bytes(packed)
    # Anywhere in a longer message: words begin at any byte.
    for start in (0, 1, 3):
        message = memoryview(bytes(start) + bytes(packed))[start:]
        same(backend.unpack(message, (n,), bits), DEFINITION.unpack(message, (n,), bits))
    same(backend.to_planes(x, bits), DEFINITION.to_planes(x, bits))
    for position in (0, bits // 2, bits - 1):
        same(backend.bit(x, position), DEFINITION.bit(x, position))


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_wire(bits, n, fill):
    check_wire(COMPILED, bits, n, fill)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_lanes_of_a_message(start):
    made = lanes(1, 5, 989)
    message = memoryview(bytes(start) + bytes(DEFINITION.pack_lanes(made)))[start:]
    same(COMPILED.unpack_lanes(message, 5, 989), made)


def check_select(backend, n):
    lane, one, zero = lanes(n, 1, n)[0], words(n + 1, (n,)), read_only(words(n + 2, (n,)))
    same(backend.select(lane, one, zero), DEFINITION.select(lane, one, zero))
    same(backend.from_bit(lane, (n,)), DEFINITION.from_bit(lane, (n,)))


@pytest.mark.parametrize("n", SIZES)
def test_select_and_from_bit(n):
    check_select(COMPILED, n)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", [1, 64, 989, 16_421, 40_000])
@pytest.mark.parametrize(("digits", "width"), [(1, 1), (9, 3), (2, 4), (3, 2), (1, 6)])
def test_tables(digits, width, n, fill):
    planes = lanes(n, digits * width, n, fill).reshape(digits, width, -1)
    same(COMPILED.thermometer(planes), DEFINITION.thermometer(planes))
    # As a comparison hands them on: top digit first, a view.
    same(COMPILED.thermometer(planes[::-1]), DEFINITION.thermometer(planes[::-1]))
    check_lookup(COMPILED, digits, width, n, fill)


def check_lookup(backend, digits, width, n, fill=False):
    tables = lanes(n, digits * ((1 << width) - 1), n, fill).reshape(digits, -1, n_lanes(n))
    queries = lanes(n + 1, digits * width, n).reshape(digits, width, -1)
    for below in (lanes(0, 1, n, fill=True)[0], lanes(0, 1, n)[0] & np.uint64(0)):
        expected = DEFINITION.lookup(tables, queries[::-1], below)
        for got, right in zip(
            backend.lookup(read_only(tables), queries[::-1], below), expected, strict=True
        ):
            same(got, right)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [1, 8, 13, 27, 32, 40, 64])
def test_fused_with_the_stream(bits, n, cipher):
    key, x = bytes(range(32)), words(n, (n,))
    for sign in (1, -1):
        uniform = DEFINITION.expand_words(cipher, key, (n,), bits)
        expected = DEFINITION.reduce(x + uniform if sign > 0 else x - uniform, bits)
        for backend in (DEFINITION, COMPILED):
            same(backend.add_uniform(x, cipher, key, bits, sign), expected)
    planes = lanes(n, 3, n)
    for backend in (DEFINITION, COMPILED):
        same(
            backend.xor_uniform(planes, cipher, key, n),
            planes ^ DEFINITION.expand_lanes(cipher, key, 3, n),
        )
    assert np.array_equal(x, words(n, (n,))) and np.array_equal(planes, lanes(n, 3, n))


def check_masked(backend, bits, n, cipher="aes128ctr", fill=False):
    """What leaves under a mask is what the definitions of its parts say."""
    key, x = bytes(range(32)), words(n, (n,), fill)
    drawn = DEFINITION.expand_words(cipher, key, (n,), bits)
    for sign, expected in ((1, x + drawn), (-1, x - drawn)):
        packed = bytes(DEFINITION.pack(expected, bits))
        assert bytes(backend.pack_masked(x, cipher, key, bits, sign)) == packed
        assert bytes(backend.pack_masked(read_only(x), cipher, key, bits, sign)) == packed
    masked, sent = backend.mask_and_pack(x, cipher, key, bits)
    same(DEFINITION.reduce(np.asarray(masked), bits), (x + drawn) & mask(bits))
    assert bytes(sent) == bytes(DEFINITION.pack(x + drawn, bits))
    mask_words, masked, sent = backend.draw_and_pack(x, cipher, key, bits)
    same(mask_words, drawn)
    same(DEFINITION.reduce(np.asarray(masked), bits), (x - drawn) & mask(bits))
    assert bytes(sent) == bytes(DEFINITION.pack(x - drawn, bits))
    assert np.array_equal(x, words(n, (n,), fill))


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", range(1, 65))
def test_masked_words_leave_packed(bits, n, fill):
    for backend in (DEFINITION, COMPILED):
        check_masked(backend, bits, n, fill=fill)
    check_masked(COMPILED, bits, min(n, 65), "chacha20", fill)


def test_a_masked_view_leaves_as_it_lies():
    x, key = words(1, (6, 10, 14)), bytes(range(32))
    for view in (x[::2, :, 1::3], x.transpose(2, 0, 1)):
        expected = bytes(DEFINITION.pack_masked(view, "aes128ctr", key, 27, -1))
        assert bytes(COMPILED.pack_masked(view, "aes128ctr", key, 27, -1)) == expected


@pytest.mark.parametrize("low", [0, (1 << 64) - 1, (1 << 64) - 70, (1 << 64) - 7000])
@pytest.mark.parametrize("high", [0, (1 << 64) - 1])
def test_a_counter_near_its_end(high, low):
    """The counter has 128 bits: where its lower half wraps, the upper one goes on."""
    key = bytes(range(16)) + high.to_bytes(8, "big") + low.to_bytes(8, "big")
    for n in (1, 100, 20_000):
        same(
            COMPILED.expand_words("aes128ctr", key, (n,), 40),
            DEFINITION.expand_words("aes128ctr", key, (n,), 40),
        )
        expected = bytes(DEFINITION.pack_masked(words(n, (n,)), "aes128ctr", key, 27))
        assert bytes(COMPILED.pack_masked(words(n, (n,)), "aes128ctr", key, 27)) == expected


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", WIDTHS)
def test_adding_what_came(bits, n):
    x, packed = words(n, (n,)), DEFINITION.pack(words(n + 1, (n,)), bits)
    expected = DEFINITION.reduce(x + DEFINITION.unpack(packed, (n,), bits), bits)
    for backend in (DEFINITION, COMPILED):
        same(backend.add_packed(x, packed, bits), expected)
        same(backend.add_packed(x, memoryview(b"x" + bytes(packed))[1:], bits), expected)
        same(
            np.asarray(backend.download(backend.combine(x.reshape(1, n), packed, bits))),
            expected.reshape(1, n),
        )
    assert np.array_equal(x, words(n, (n,)))


@pytest.mark.parametrize("n", SIZES)
def test_lanes_of_constants_and_words(n):
    for bit in (0, 1):
        expected = DEFINITION.bit(np.full(n, bit, dtype=np.uint64), 0)
        for backend in (DEFINITION, COMPILED):
            same(backend.constant_lane(bit, n), expected)
    planes = lanes(n, 3, n)
    expected = np.stack([DEFINITION.from_bit(lane, (n,)) for lane in planes])
    for backend in (DEFINITION, COMPILED):
        same(backend.from_lanes(planes, n), expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [1, 27, 40, 64])
def test_candidates_and_flips(bits, n):
    y, t, t_r, v = (words(n + i, (n,)) for i in range(4))
    zero = (y * t - t_r) & mask(bits)
    for backend in (DEFINITION, COMPILED):
        for got, right in zip(
            backend.candidates(y, t, t_r, v, bits), (zero, (v - zero) & mask(bits)), strict=True
        ):
            same(got, right)
    lane = lanes(n, 1, n)[0]
    bit = DEFINITION.from_bit(lane, (n,)).astype(bool)
    for party in (0, 1):
        expected = (y + np.uint64(6 << 13) * np.where(bit, np.uint64(1 - party) - t, t)) & mask(
            bits
        )
        for backend in (DEFINITION, COMPILED):
            same(backend.add_flipped(y, lane, t, 6 << 13, party, bits), expected)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 3), (2, 9, 9, 20)])
@pytest.mark.parametrize("bits", [1, 40, 64])
@pytest.mark.parametrize("party", [0, 1])
def test_beaver(bits, shape, party):
    e, f, a, b, c = (read_only(words(i, shape)) for i in range(5))
    expected = ((e * f if party == 0 else np.uint64(0)) + e * b + a * f + c) & mask(bits)
    for backend in (DEFINITION, COMPILED):
        same(backend.beaver(e, f, a, b, c, party, bits), expected)


@pytest.mark.parametrize("m", [0, 1, 9])
@pytest.mark.parametrize("bits", [1, 40, 64])
def test_sums_of_products(bits, m):
    check_sums(COMPILED, bits, m)
    check_sums(DEFINITION, bits, m)


def check_sums(backend, bits, m):
    """Of one and of two pairs, with and without what is added; no operand is changed."""
    shapes, geometry = ((m, 5), (5, 7), (m, 7)), ((2, 1), (1, 0, 1, 1), 1)
    images = ((m, 5, 6, 3), (3, 3, 3, 7), (m, 2, 6, 7))
    for (x, w, result), one in (
        (shapes, lambda a, b: DEFINITION.matmul(a, b, 64)),
        (images, lambda a, b: DEFINITION.conv2d(a, b, *geometry, 64)),
    ):
        pairs = [(read_only(words(i, x)), read_only(words(i + 2, w))) for i in range(2)]
        plus, bias = read_only(words(5, result)), read_only(words(6, result[-1:]))
        for n_pairs in (1, 2):
            for p in (None, plus):
                for b in (None, bias):
                    expected = np.zeros(result, dtype=np.uint64)
                    for term in (*(one(*pair) for pair in pairs[:n_pairs]), p, b):
                        expected = expected if term is None else expected + term
                    expected &= mask(bits)
                    if result is shapes[2]:
                        got = backend.matmul_sum(pairs[:n_pairs], bits, p, b)
                    else:
                        got = backend.conv2d_sum(pairs[:n_pairs], *geometry, bits, p, b)
                    same(got, expected)
    left = backend.sum_of(*(backend.operand(words(i, (m, 5)), bits) for i in range(2)), bits)
    same(
        backend.matmul(left, np.eye(5, dtype=np.uint64), bits),
        (words(0, (m, 5)) + words(1, (m, 5))) & mask(bits),
    )


@pytest.mark.parametrize("n", [1, 63, 65, 989, 16_421])
@pytest.mark.parametrize("candidates", [1, 2])
@pytest.mark.parametrize("party", [0, 1])
@pytest.mark.parametrize(("low", "high"), [(27, 40), (1, 64), (44, 62)])
def test_lift(low, high, party, candidates, n):
    """The four formulas, in Python's integers."""
    shares = [words(i, (n,), False) & mask(low) for i in range(candidates)]
    products = words(5, (candidates, n)) & mask(high - low)
    tops, masked, theirs, masks = (lanes(10 + i, candidates, n) for i in range(4))
    kept = lanes(20, 1, n)[0] if candidates == 2 else None
    choice = [0] * n if kept is None else DEFINITION.from_bit(kept, (n,)).tolist()
    columns = [
        DEFINITION.from_lanes(planes, n).astype(int).tolist()
        for planes in (tops, masked, theirs, masks)
    ]
    expected = []
    for i, c in enumerate(choice):
        m, g, h, a = (column[c][i] for column in columns)
        p = int(products[c, i])
        w = (
            m - m * h - (1 - 2 * h) * (1 - 2 * g) * p
            if party == 0
            else m - (1 - 2 * g) * (h * a + (1 - 2 * h) * p)
        )
        expected.append((int(shares[c][i]) - (w << low)) % (1 << high))
    expected_tops = np.stack([DEFINITION.bit(share, low - 1) for share in shares])
    for backend in (DEFINITION, COMPILED):
        for got, right in zip(
            backend.mask_top_bits(shares, masks, low),
            (expected_tops, expected_tops ^ masks),
            strict=True,
        ):
            same(got, right)
        got = backend.lift(
            shares, LiftLanes(tops, masked, theirs, masks, kept), products, party, low, high
        )
        same(got, np.array(expected, dtype=np.uint64))


@pytest.mark.parametrize("n", [1, 65, 989, 40_000])
@pytest.mark.parametrize("party", [0, 1])
def test_masked_products(party, n):
    """Every subset of every product, one at a time."""
    sums: list[list[Factors]] = [[(0,), (0, 3), (0, 1, 2)], [(0, 1, 2, 3)], [(2, 3)]]
    products: list[Factors] = [(0, 3), (0, 1), (0, 2), (1, 2), (0, 1, 2), (2, 3), (1, 3)]
    products += [(0, 1, 3), (0, 2, 3), (1, 2, 3), (0, 1, 2, 3)]
    opened, masks, dealt = (
        lanes(seed, 3 * size, n).reshape(3, size, -1) for seed, size in ((1, 4), (2, 4), (3, 11))
    )
    expected = np.zeros((3, 3, n_lanes(n)), dtype=np.uint64)
    for total, terms in zip(expected, sums, strict=True):
        for factors in terms:
            for chosen in itertools.chain.from_iterable(
                itertools.combinations(factors, r) for r in range(len(factors) + 1)
            ):
                if not chosen and party == 1:
                    continue
                share = np.full((3, n_lanes(n)), mask(64))
                if chosen:
                    share = (
                        masks[:, chosen[0]]
                        if len(chosen) == 1
                        else dealt[:, products.index(chosen)]
                    )
                for f in factors:
                    if f not in chosen:
                        share = share & opened[:, f]
                total ^= share
    dealt_products = [
        functools.reduce(np.bitwise_and, (masks[:, i] for i in product)) for product in products
    ]
    for backend in (DEFINITION, COMPILED):
        same(backend.mask_products(masks, products), np.stack(dealt_products, axis=1))
        same(backend.mask_products(masks[:, ::-1], [(0, 3)]), masks[:, 3:] & masks[:, :1])
        same(
            backend.masked_products(opened, masks, read_only(dealt), sums, products, party),
            expected,
        )


def test_views_and_axes():
    """Whatever is not in one piece is read as it lies."""
    x, y = words(1, (6, 10, 14)), words(2, (6, 10, 14))
    views = [(x[::2, :, 1::3], y[::2, :, 1::3]), (x.transpose(2, 0, 1), y.transpose(2, 0, 1))]
    for a, b in views:
        same(COMPILED.reduce(a, 40), DEFINITION.reduce(a, 40))
        same(COMPILED.truncate(a, 40, 13, 0), DEFINITION.truncate(a, 40, 13, 0))
        same(COMPILED.multiply(a, b, 40), DEFINITION.multiply(a, b, 40))
        same(COMPILED.sign_extend(a, 40), DEFINITION.sign_extend(a, 40))
        same(COMPILED.scale(a, -3, 40), DEFINITION.scale(a, -3, 40))
        same(COMPILED.to_planes(a, 40), DEFINITION.to_planes(a, 40))
        assert bytes(COMPILED.pack(a, 27)) == bytes(DEFINITION.pack(a, 27))
        out = words(3, (6, 10, 28))[: a.shape[0], : a.shape[1], : 2 * a.shape[2] : 2]
        if out.shape == a.shape:
            assert COMPILED.truncate(a, 40, 13, 0, out=out) is out
            same(out.copy(), DEFINITION.truncate(a, 40, 13, 0))
    same(COMPILED.argmax_signed(x), DEFINITION.argmax_signed(x))
    same(COMPILED.multiply(x, y[:1], 40), DEFINITION.multiply(x, y[:1], 40))
    lane = COMPILED.bit(x, 3)
    same(COMPILED.select(lane, x[::-1], y), DEFINITION.select(lane, x[::-1], y))


def test_in_place():
    x = words(1, (999,))
    expected = DEFINITION.truncate(x, 44, 16, 0)
    assert COMPILED.truncate(x, 44, 16, 0, out=x) is x
    same(x, expected)


# products


def check_matmul(backend, m, k, n, bits, fill=False):
    x, w = words(1, (m, k), fill), words(2, (k, n), fill)
    expected = np.empty((m, n), dtype=np.uint64)
    for row, out in zip(x, expected, strict=True):
        out[:] = (row[:, None] * w).sum(axis=0, dtype=np.uint64) & mask(bits)
    same(backend.matmul(x, w, bits), expected)
    same(backend.matmul(x.T.copy().T, read_only(w.T).T, bits), expected)


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
    m, k, n = shape
    same(COMPILED.matmul(words(1, (m, k)), words(2, (k, n)), 40), np.zeros((m, n), dtype=np.uint64))


def check_conv(backend, x, w, stride, padding, groups, bits):
    same(
        backend.conv2d(x, w, stride, padding, groups, bits),
        DEFINITION.conv2d(x, w, stride, padding, groups, bits),
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_conv2d_of_any_shape(data):
    small = st.integers(1, 3)
    kernel, stride = (data.draw(small), data.draw(small)), (data.draw(small), data.draw(small))
    padding = tuple(data.draw(st.integers(0, 2)) for _ in range(4))
    groups = data.draw(small)
    c_in, c_out = groups * data.draw(st.integers(1, 9)), groups * data.draw(st.integers(1, 18))
    image = (data.draw(st.integers(kernel[0], 9)), data.draw(st.integers(kernel[1], 9)))
    bits, fill = data.draw(st.integers(1, 64)), data.draw(st.booleans())
    x, w = (
        words(1, (data.draw(small), *image, c_in), fill),
        words(2, (*kernel, c_in // groups, c_out), fill),
    )
    check_conv(COMPILED, x, w, stride, padding, groups, bits)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("bits", WIDTHS)
def test_depthwise(bits, fill):
    for channels, stride, padding in (
        (1, (1, 1), (0, 0, 0, 0)),
        (37, (2, 2), (0, 1, 0, 1)),
        (64, (1, 2), (2, 2, 2, 2)),
    ):
        x, w = words(1, (2, 7, 9, channels), fill), words(2, (5, 3, 1, channels), fill)
        check_conv(COMPILED, x, w, stride, padding, channels, bits)


def check_winograd(backend, shape, c_out, padding, bits, fill=False):
    x, w = words(1, shape, fill), words(2, (3, 3, shape[3], c_out), fill)
    check_conv(backend, x, w, (1, 1), padding, 1, bits)
    if bits + winograd.EXTRA_BITS <= 64:
        same(
            products._winograd(x, w, padding, bits),
            DEFINITION.conv2d(x, w, (1, 1), padding, 1, bits),
        )


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("bits", WIDTHS + [26, 42, 43, 58, 59])
def test_a_quarter_of_the_multiplications(bits, fill):
    """Whole tiles and tiles over the edge, one block of channels and more, one chunk of tiles and
    more.
    """
    for shape, c_out, padding in (
        ((2, 16, 16, 16), 16, (1, 1, 1, 1)),
        ((1, 5, 6, 3), 5, (0, 0, 0, 0)),
        ((3, 11, 18, 33), 34, (1, 0, 2, 1)),
        ((8, 8, 8, 65), 64, (1, 1, 1, 1)),
    ):
        check_winograd(COMPILED, shape, c_out, padding, bits, fill)


def test_where_tiles_are_used():
    big, w = np.empty((8, 16, 16, 64), np.uint64), np.empty((3, 3, 64, 64), np.uint64)
    around, none = (1, 1, 1, 1), (0, 0, 0, 0)
    assert products._suits_winograd(big, w, (1, 1), around, 40)
    assert products._suits_winograd(big, w, (1, 1), around, 58) and not products._suits_winograd(
        big, w, (1, 1), around, 59
    )
    assert not products._suits_winograd(big, w, (2, 1), around, 40)
    assert not products._suits_winograd(
        big, np.empty((3, 1, 64, 64), np.uint64), (1, 1), around, 40
    )
    assert not products._suits_winograd(big[:1], w, (1, 1), around, 40)  # too few tiles
    assert not products._suits_winograd(big[..., :8], w[:, :, :8], (1, 1), around, 40)
    # 14 x 14 outputs fill their 4 x 4 tiles well enough, 5 x 5 would waste more than is saved.
    assert products._suits_winograd(big, w, (1, 1), none, 40)
    assert not products._suits_winograd(np.empty((99, 5, 5, 64), np.uint64), w, (1, 1), around, 40)


def test_a_convolution_of_a_view():
    x, w = words(1, (2, 9, 9, 20)), words(2, (3, 3, 5, 8))
    check_conv(COMPILED, x[:, ::2, :, 3:8], w[::-1], (1, 1), (1, 1, 1, 1), 1, 40)


@pytest.mark.parametrize("bits", [32, 40, 64])
def test_row_dot(bits):
    for shape in ((0, 3), (1, 1), (989, 7), (5, 128)):
        x, y = words(1, shape), read_only(words(2, shape))
        same(COMPILED.row_dot(x, y, bits), DEFINITION.row_dot(x, y, bits))


def test_the_stream_is_nist_s():
    """SP 800-38A, F.5.1, through the loop that masks come from; with and without the processor's
    instructions.
    """
    words = COMPILED.expand_lanes("aes128ctr", AES_KEY + AES_COUNTER, 1, 64 * len(AES_PLAIN) // 8)
    assert words.tobytes() == bytes(a ^ b for a, b in zip(AES_PLAIN, AES_CIPHER, strict=True))


def test_machines_without_aes(monkeypatch):
    monkeypatch.setattr(numba_backend, "HAS_AES", False)
    test_fused_with_the_stream(40, 989, "aes128ctr")
    check_masked(COMPILED, 40, 989)
    test_the_stream_is_nist_s()


PLAIN_MACHINE = """
import numpy as np
from gpumpc.ring import numba_backend
from gpumpc.ring.numba_backend import NumbaBackend, products, tiles
from gpumpc.ring.numba_backend import key_stream as stream
from gpumpc.ring.numpy_backend import NumpyBackend
assert not stream.HAS_AES and not tiles.HAS_PAIR_PRODUCTS
one, other = NumpyBackend(), NumbaBackend()
x = one.expand_words("aes128ctr", bytes(32), (2, 9, 9, 20), 64)
w = one.expand_words("chacha20", bytes(32), (3, 3, 20, 9), 64)
assert np.array_equal(other.expand_words("aes128ctr", bytes(32), (2, 9, 9, 20), 64), x)
for bits in (26, 32, 40, 44, 48, 64):
    assert bytes(other.pack(x, bits)) == bytes(one.pack(x, bits))
    assert np.array_equal(other.unpack(one.pack(x, bits), x.shape, bits), one.reduce(x, bits))
    assert np.array_equal(other.to_planes(x, bits), one.to_planes(x, bits))
    arguments = (x, w, (1, 1), (1, 1, 1, 1), 1, bits)
    assert np.array_equal(other.conv2d(*arguments), one.conv2d(*arguments))
print("the same")
"""


@pytest.mark.evidence
def test_a_machine_with_none_of_the_instructions(tmp_path):
    """Code for the plainest processor of this family, in a process of its own."""
    plain = {
        **os.environ,
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_MACHINE], env=plain, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "the same\n", done.stderr


def test_machines_without_pair_products(monkeypatch):
    """Their 48 bits are 64: another tile, the same words."""
    assert products.kind_of(48) == (1 if tiles.HAS_PAIR_PRODUCTS else 2)
    monkeypatch.setattr(tiles, "HAS_PAIR_PRODUCTS", False)
    assert [products.kind_of(bits) for bits in (32, 33, 48, 49)] == [0, 2, 2, 2]
    check_matmul(COMPILED, 7, 65, 17, 40)


# planted mistakes


class NoHighByte(NumbaBackend):
    """One byte plane short."""

    def pack(self, words, bits):
        return super().pack(words & mask(max(bits - 8, 8)), bits)


class MaskOfAnotherSign(NumbaBackend):
    """A correction with its mask added, not taken away."""

    def pack_masked(self, words, cipher, key, bits, sign=1):
        return super().pack_masked(words, cipher, key, bits, 1)


class NeighbourLane(NumbaBackend):
    """The lane before the one that belongs to an element."""

    def select(self, lane, if_one, if_zero):
        return super().select(np.roll(lane, 1), if_one, if_zero)


class TooNarrow(NumbaBackend):
    """A product of 49 bits through the tile for 48."""

    def matmul(self, x, w, bits):
        return super().matmul(x, w, min(bits, 48)) if bits == 49 else super().matmul(x, w, bits)


class LostColumn(NumbaBackend):
    """The columns of a panel that is not full."""

    def matmul(self, x, w, bits):
        out = super().matmul(x, w, bits)
        out[:, w.shape[1] - w.shape[1] % 8 :] = 0
        return out


class NoEdge(NumbaBackend):
    """T[-1] taken for zero at both parties."""

    def lookup(self, tables, planes, below):
        return super().lookup(tables, planes, below & np.uint64(0))


@pytest.mark.parametrize(
    ("check", "wrong", "arguments"),
    [
        (check_wire, NoHighByte, (40, 989)),
        (check_masked, MaskOfAnotherSign, (40, 989)),
        (check_select, NeighbourLane, (989,)),
        (check_matmul, TooNarrow, (7, 65, 17, 49)),
        (check_matmul, LostColumn, (7, 65, 17, 40)),
        (check_lookup, NoEdge, (3, 3, 989)),
    ],
)
def test_planted_mistakes_are_caught(check, wrong, arguments):
    check(COMPILED, *arguments)
    with pytest.raises(AssertionError):
        check(wrong(), *arguments)


def test_tiles_without_spare_bits_are_caught(monkeypatch):
    """Planted: Winograd's products modulo 2^(bits + 5), of which the shift takes six."""
    arguments = (COMPILED, (2, 16, 16, 16), 16, (1, 1, 1, 1), 40)
    check_winograd(*arguments)
    monkeypatch.setattr(winograd, "EXTRA_BITS", 5)
    with pytest.raises(AssertionError):
        check_winograd(*arguments)


@pytest.mark.parametrize("bits", [30, 40, 60])
def test_static_operands_keep_their_forms(bits):
    """The same products, the first time and again, by matrices, windows and tiles; what is computed
    of one is plain.
    """
    cases = [
        ((2, 20, 20, 32), (3, 3, 32, 32), 1),
        ((2, 9, 9, 5), (3, 3, 5, 7), 1),
        ((2, 4, 4, 6), (1, 1, 6, 9), 1),
    ]
    for x, w, groups in [*cases, ((1, 5, 5, 6), (3, 3, 1, 6), 6)]:
        left, right = words(1, x), words(2, w)
        kept = COMPILED.static(right, bits)
        expected = DEFINITION.conv2d(left, right, (1, 1), (1, 1, 1, 1), groups, bits)
        for _ in range(2):
            got = COMPILED.conv2d(left, kept, (1, 1), (1, 1, 1, 1), groups, bits)
            assert type(got) is np.ndarray
            same(got, expected)
        assert isinstance(kept, Static) and bool(kept.forms) == (groups == 1)
        assert getattr(kept * np.uint64(2), "forms", None) is None
    left, right = words(3, (9, 30)), words(4, (30, 11))
    kept = COMPILED.static(right, bits)
    for n_bits in (bits, bits, 64, 12):
        same(COMPILED.matmul(left, kept, n_bits), DEFINITION.matmul(left, right, n_bits))
    assert type(COMPILED.download(kept)) is np.ndarray
