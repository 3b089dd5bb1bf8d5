"""Tiles, the stream and static operands of the compiled loops; planted bugs in backends."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpumpc.ring import numba_backend
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.numba_backend import NumbaBackend, products
from gpumpc.ring.numba_backend.products import tiles, winograd
from gpumpc.ring.numba_backend.products.forms import Static
from tests.ring import parity
from tests.ring.parity import DEFINITION, WIDTHS, same, words
from tests.ring.parity_products import check_conv, check_matmul

ROOT = Path(__file__).resolve().parents[2]
COMPILED = NumbaBackend()


def check_winograd(backend, shape, c_out, padding, bits, fill=False):
    x, w = words(1, shape, fill), words(2, (3, 3, shape[3], c_out), fill)
    check_conv(backend, x, w, (1, 1), padding, 1, bits)
    if bits + winograd.EXTRA_BITS <= 64:
        expected = DEFINITION.conv2d(x, w, (1, 1), padding, 1, bits)
        same(products._winograd(x, w, padding, bits), expected)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("bits", WIDTHS + [26, 42, 43, 58, 59])
def test_winograd_convolution_agrees(bits, fill):
    """Whole tiles and tiles over the edge; one block of channels or chunk of tiles, and more."""
    for shape, c_out, padding in (
        ((2, 16, 16, 16), 16, (1, 1, 1, 1)),
        ((1, 5, 6, 3), 5, (0, 0, 0, 0)),
        ((3, 11, 18, 33), 34, (1, 0, 2, 1)),
        ((8, 8, 8, 65), 64, (1, 1, 1, 1)),
    ):
        check_winograd(COMPILED, shape, c_out, padding, bits, fill)


def test_winograd_is_chosen_only_where_it_pays():
    big, w = np.empty((8, 16, 16, 64), np.uint64), np.empty((3, 3, 64, 64), np.uint64)
    around, none, suits = (1, 1, 1, 1), (0, 0, 0, 0), products._suits_winograd
    assert suits(big, w, (1, 1), around, 40)
    assert suits(big, w, (1, 1), around, 58)
    assert not suits(big, w, (1, 1), around, 59)
    assert not suits(big, w, (2, 1), around, 40)
    assert not suits(big, np.empty((3, 1, 64, 64), np.uint64), (1, 1), around, 40)
    assert not suits(big[:1], w, (1, 1), around, 40)  # too few tiles
    assert not suits(big[..., :8], w[:, :, :8], (1, 1), around, 40)
    # 14 x 14 outputs fill their 4 x 4 tiles well enough, 5 x 5 would waste more than is saved.
    assert suits(big, w, (1, 1), none, 40)
    assert not suits(np.empty((99, 5, 5, 64), np.uint64), w, (1, 1), around, 40)


@pytest.mark.parametrize("low", [0, (1 << 64) - 1, (1 << 64) - 70, (1 << 64) - 7000])
@pytest.mark.parametrize("high", [0, (1 << 64) - 1])
def test_stream_counter_carries_over_64_bits(high, low):
    """The counter has 128 bits: where its lower half wraps, the upper one goes on."""
    key = bytes(range(16)) + high.to_bytes(8, "big") + low.to_bytes(8, "big")
    for n in (1, 100, 20_000):
        parity.agree(COMPILED, "expand_words", "aes128ctr", key, (n,), 40)
        expected = bytes(DEFINITION.pack_masked(words(n, (n,)), "aes128ctr", key, 27))
        assert bytes(COMPILED.pack_masked(words(n, (n,)), "aes128ctr", key, 27)) == expected


def test_streams_agree_without_aes_instructions(monkeypatch):
    monkeypatch.setattr(numba_backend, "HAS_AES", False)
    for backend in (DEFINITION, COMPILED):
        parity.check_fused_with_the_stream(backend, 40, 989, "aes128ctr")
    parity.check_masked(COMPILED, 40, 989)
    parity.check_the_stream_is_nist_s(COMPILED)


PLAIN_MACHINE = """
import numpy as np
from gpumpc.ring import numba_backend
from gpumpc.ring.numba_backend import NumbaBackend
from gpumpc.ring.numba_backend.products import tiles
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
def test_generic_processor_gives_the_same_results(tmp_path):
    """Code for the plainest processor of this family, in a process of its own."""
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    plain = {**os.environ, **generic, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PLAIN_MACHINE]
    done = subprocess.run(command, env=plain, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr


def test_matmul_agrees_without_pair_products(monkeypatch):
    """Their 48 bits are 64: another tile, the same words."""
    assert products.kind_of(48) == (1 if tiles.HAS_PAIR_PRODUCTS else 2)
    monkeypatch.setattr(tiles, "HAS_PAIR_PRODUCTS", False)
    assert [products.kind_of(bits) for bits in (32, 33, 48, 49)] == [0, 2, 2, 2]
    check_matmul(COMPILED, 7, 65, 17, 40)


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
        (parity.check_wire, NoHighByte, (40, 989)),
        (parity.check_masked, MaskOfAnotherSign, (40, 989)),
        (parity.check_select, NeighbourLane, (989,)),
        (check_matmul, TooNarrow, (7, 65, 17, 49)),
        (check_matmul, LostColumn, (7, 65, 17, 40)),
        (parity.check_lookup, NoEdge, (3, 3, 989)),
    ],
)
def test_planted_backend_bugs_are_caught(check, wrong, arguments):
    check(COMPILED, *arguments)
    with pytest.raises(AssertionError):
        check(wrong(), *arguments)


def test_planted_winograd_width_bug_is_caught(monkeypatch):
    """Planted: Winograd's products modulo 2^(bits + 5), of which the shift takes six."""
    arguments = (COMPILED, (2, 16, 16, 16), 16, (1, 1, 1, 1), 40)
    check_winograd(*arguments)
    monkeypatch.setattr(winograd, "EXTRA_BITS", 5)
    with pytest.raises(AssertionError):
        check_winograd(*arguments)


@pytest.mark.parametrize("bits", [30, 40, 60])
def test_static_operands_give_the_same_products_again(bits):
    """By matrices, windows and tiles; results computed from a static operand are plain."""
    for x, w, groups in (
        ((2, 20, 20, 32), (3, 3, 32, 32), 1),
        ((2, 9, 9, 5), (3, 3, 5, 7), 1),
        ((2, 4, 4, 6), (1, 1, 6, 9), 1),
        ((1, 5, 5, 6), (3, 3, 1, 6), 6),
    ):
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
