"""The definition of every primitive operation, in NumPy. See `backend` for shapes."""

import functools
import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadFrame
from gpumpc.params import Cipher
from gpumpc.ring import limbs, prg
from gpumpc.ring.backend import Factors, LiftLanes, Padding, Pair, lane_bytes, n_lanes, packed_bytes
from gpumpc.ring.definition.bit_slices import (
    bits_of_lane,
    clear_tail,
    lane_of_bits,
    masked_product,
    mux,
    transpose_64x64,
    xor_of_chosen,
)
from gpumpc.ring.fixed_point import signed

Words = npt.NDArray[np.uint64]
Lanes = npt.NDArray[np.uint64]
Operand = Words
Pairs = Sequence[tuple[Operand, Operand]]


def received(packed: memoryview, n_bytes: int) -> npt.NDArray[np.uint8]:
    """The bytes of a message. Raises BadFrame where their number is another."""
    buffer = np.frombuffer(packed, dtype=np.uint8)
    if buffer.size != n_bytes:
        raise BadFrame(f"{buffer.size} packed bytes arrived where {n_bytes} were expected")
    return buffer


class NumpyBackend:
    """Words are uint64 arrays; opened values are plain words."""

    name = "numpy"

    def fork(self) -> Self:
        return self

    def synchronize(self) -> None:
        """Operations are complete when they return."""

    def upload(self, host: npt.ArrayLike) -> Words:
        return np.ascontiguousarray(host, dtype=np.uint64)

    def download(self, words: Words) -> Words:
        return words

    def zeros(self, shape: Sequence[int]) -> Words:
        return np.zeros(shape, dtype=np.uint64)

    # uniform values

    def expand_words(self, cipher: Cipher, key: bytes, shape: Sequence[int], bits: int) -> Words:
        n, size = math.prod(shape), prg.word_bytes(bits)
        raw = prg.expand(cipher, key, n * size).view(f"<u{size}").reshape(shape)
        words = raw.astype(np.uint64, copy=False)
        return self.reduce(words, bits, out=words)

    def expand_lanes(self, cipher: Cipher, key: bytes, planes: int, n: int) -> Lanes:
        lanes = prg.expand(cipher, key, lane_bytes(n, planes)).view("<u8")
        return clear_tail(lanes.reshape(planes, n_lanes(n)), n)

    def add_uniform(
        self, words: Words, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> Words:
        uniform = self.expand_words(cipher, key, words.shape, bits)
        combine = np.add if sign > 0 else np.subtract
        total = combine(words, uniform, out=uniform)
        return self.reduce(total, bits, out=total)

    def xor_uniform(self, lanes: Lanes, cipher: Cipher, key: bytes, n: int) -> Lanes:
        uniform = self.expand_lanes(cipher, key, len(lanes), n)
        uniform ^= lanes
        return uniform

    # wire

    def pack(self, words: Words, bits: int) -> memoryview:
        flat = np.ascontiguousarray(words).reshape(-1)
        n, whole = flat.size, bits // 8
        as_bytes = flat.view(np.uint8).reshape(n, 8)
        packed = np.zeros(packed_bytes(n, bits), dtype=np.uint8)
        for j in range(whole):
            packed[j * n : (j + 1) * n] = as_bytes[:, j]
        lanes = packed[whole * n :].reshape(bits % 8, lane_bytes(n))
        for i in range(bits % 8):
            bit_plane = np.packbits((as_bytes[:, whole] >> i) & 1, bitorder="little")
            lanes[i, : bit_plane.size] = bit_plane
        return packed.data

    def unpack(self, packed: memoryview, shape: Sequence[int], bits: int) -> Words:
        n, whole = math.prod(shape), bits // 8
        buffer = received(packed, packed_bytes(n, bits))
        as_bytes = np.zeros((n, 8), dtype=np.uint8)
        for j in range(whole):
            as_bytes[:, j] = buffer[j * n : (j + 1) * n]
        lanes = buffer[whole * n :].reshape(bits % 8, lane_bytes(n))
        for i in range(bits % 8):
            as_bytes[:, whole] |= np.unpackbits(lanes[i], count=n, bitorder="little") << i
        return as_bytes.view("<u8").reshape(shape)

    def add_packed(self, words: Words, packed: memoryview, bits: int) -> Words:
        total = self.unpack(packed, words.shape, bits)
        total += words
        return self.reduce(total, bits, out=total)

    def pack_masked(
        self, words: Words, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> memoryview:
        return self.pack(self.add_uniform(words, cipher, key, bits, sign), bits)

    def mask_and_pack(
        self, words: Words, cipher: Cipher, key: bytes, bits: int
    ) -> tuple[Words, memoryview]:
        masked = self.add_uniform(words, cipher, key, bits)
        return masked, self.pack(masked, bits)

    def draw_and_pack(
        self, words: Words, cipher: Cipher, key: bytes, bits: int
    ) -> tuple[Words, Words, memoryview]:
        drawn = self.expand_words(cipher, key, words.shape, bits)
        masked = words - drawn
        return drawn, masked, self.pack(masked, bits)

    def combine(self, own: Words, theirs: memoryview, bits: int) -> Words:
        return self.operand(self.add_packed(own, theirs, bits), bits)

    def pack_lanes(self, lanes: Lanes) -> memoryview:
        return np.ascontiguousarray(lanes).reshape(-1).view(np.uint8).data

    def unpack_lanes(self, packed: memoryview, planes: int, n: int) -> Lanes:
        return received(packed, lane_bytes(n, planes)).view("<u8").reshape(planes, n_lanes(n))

    def operand(self, words: Words, bits: int) -> Words:
        return words

    def static(self, words: Words, bits: int) -> Words:
        return words

    # bits

    def to_planes(self, words: Words, bits: int) -> Lanes:
        flat = words.reshape(-1)
        padded = np.zeros(64 * n_lanes(flat.size), dtype=np.uint64)
        padded[: flat.size] = flat
        return transpose_64x64(np.ascontiguousarray(padded.reshape(-1, 64).T))[:bits]

    def bit(self, words: Words, position: int) -> Lanes:
        return lane_of_bits(
            (words.reshape(-1) >> np.uint64(position)).astype(np.uint8) & np.uint8(1)
        )

    def from_bit(self, lane: Lanes, shape: Sequence[int]) -> Words:
        return bits_of_lane(lane, shape).astype(np.uint64)

    def from_lanes(self, lanes: Lanes, n: int) -> Words:
        rows = np.ascontiguousarray(lanes).view(np.uint8)
        return np.unpackbits(rows, axis=1, count=n, bitorder="little").astype(np.uint64)

    def constant_lane(self, bit: int, n: int) -> Lanes:
        return clear_tail(np.full(n_lanes(n), (1 << 64) - 1 if bit else 0, dtype=np.uint64), n)

    def thermometer(self, planes: Lanes) -> Lanes:
        n_digits, width, lanes = planes.shape
        table = planes[:, :1]
        for b in range(1, width):
            top = planes[:, b : b + 1]
            # [v < r] with a new top bit: v without it -> top or old; v with it -> top and old.
            table = np.concatenate((top | table, top, top & table), axis=1)
        return table.reshape(n_digits, (1 << width) - 1, lanes)

    def lookup(self, tables: Lanes, planes: Lanes, below: Lanes) -> tuple[Lanes, Lanes]:
        n_digits, _, lanes = tables.shape
        edge = np.zeros((n_digits, 1, lanes), dtype=np.uint64)
        before = edge | below
        at = mux(np.concatenate((tables, edge), axis=1), planes)
        less_one = mux(np.concatenate((before, tables), axis=1), planes)
        return at, at ^ less_one

    def masked_products(
        self,
        opened: Lanes,
        masks: Lanes,
        dealt: Lanes,
        sums: Sequence[Sequence[Factors]],
        products: Sequence[Factors],
        party: int,
    ) -> Lanes:
        shares: dict[Factors, Lanes] = {(i,): masks[:, i] for i in range(masks.shape[1])}
        shares |= {subset: dealt[:, j] for j, subset in enumerate(products)}
        totals = [
            [masked_product(opened, shares, factors, party) for factors in terms] for terms in sums
        ]
        return np.stack([functools.reduce(np.bitwise_xor, terms) for terms in totals])

    def mask_products(self, masks: Lanes, products: Sequence[Factors]) -> Lanes:
        columns = [
            functools.reduce(np.bitwise_and, (masks[:, i] for i in factors)) for factors in products
        ]
        return np.stack(columns, axis=1)

    def download_bits(self, lane: Lanes, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
        return bits_of_lane(lane, shape).view(bool)

    def select(self, lane: Lanes, if_one: Words, if_zero: Words) -> Words:
        return np.where(self.download_bits(lane, if_one.shape), if_one, if_zero)

    # what a public bit chooses

    def candidates(
        self, y: Words, t: Words, t_r: Words, v: Words, bits: int
    ) -> tuple[Words, Words]:
        zero = y * t
        zero -= t_r
        self.reduce(zero, bits, out=zero)
        one = v - zero
        return zero, self.reduce(one, bits, out=one)

    def look_up_chosen(
        self, chosen: Words, start: Words, stride: int, table: Words, n_chosen: int
    ) -> Words:
        return xor_of_chosen(chosen, start, stride, table, n_chosen)

    def mask_top_bits(self, shares: Sequence[Words], masks: Lanes, low: int) -> tuple[Lanes, Lanes]:
        tops = np.stack([self.bit(share, low - 1) for share in shares])
        return tops, tops ^ masks

    def lift(
        self,
        shares: Sequence[Words],
        lanes: LiftLanes[Lanes],
        products: Words,
        party: int,
        low: int,
        high: int,
    ) -> Words:
        choice, n = lanes.choice, shares[0].size

        def pick(planes: Lanes) -> Words:
            lane = planes[0] if choice is None else planes[0] ^ (choice & (planes[0] ^ planes[1]))
            return self.from_bit(lane, (n,))

        share = shares[0] if choice is None else self.select(choice, shares[1], shares[0])
        product = products[0] if choice is None else self.select(choice, products[1], products[0])
        m, masked, theirs = pick(lanes.tops), pick(lanes.masked), pick(lanes.theirs)

        def flip(bit: Words, x: Words) -> Words:
            return x - bit * (x + x)

        if party == 0:
            carry = m - m * theirs - flip(theirs, flip(masked, product))
        else:
            carry = m - flip(masked, theirs * pick(lanes.masks) + flip(theirs, product))
        return self.reduce(share - (carry << np.uint64(low)), high)

    def add_flipped(
        self, words: Words, lane: Lanes, t: Words, factor: int, party: int, bits: int
    ) -> Words:
        flipped = t - self.from_bit(lane, t.shape) * (t + t - np.uint64(1 - party))
        return self.reduce(words + flipped * np.uint64(factor), bits)

    def add_flipped_part(
        self, words: Words, lane: Lanes, part: Words, whole: Words, factor: int, bits: int
    ) -> Words:
        return self.reduce(words + self.select(lane, whole - part, part) * np.uint64(factor), bits)

    # products

    def matmul(self, x: Words, w: Words, bits: int) -> Words:
        return limbs.matmul(x, w, bits)

    def multiply(self, x: Words, w: Words, bits: int) -> Words:
        return self.reduce(x * w, bits)

    def beaver(
        self, e: Words, f: Words, a: Words, b: Words, c: Words, party: int, bits: int
    ) -> Words:
        total = e * (b if party else b + f)
        total += a * f
        total += c
        return self.reduce(total, bits, out=total)

    def sum_of(self, x: Words, y: Words, bits: int) -> Words:
        return self.reduce(x + y, bits)

    def matmul_sum(
        self, pairs: Pairs, bits: int, plus: Words | None = None, bias: Words | None = None
    ) -> Words:
        return self._summed([self.matmul(x, w, bits) for x, w in pairs], plus, bias, bits)

    def conv2d_sum(
        self,
        pairs: Pairs,
        stride: Pair,
        padding: Padding,
        groups: int,
        bits: int,
        plus: Words | None = None,
        bias: Words | None = None,
    ) -> Words:
        return self._summed(
            [self.conv2d(x, w, stride, padding, groups, bits) for x, w in pairs], plus, bias, bits
        )

    def _summed(
        self, products: list[Words], plus: Words | None, bias: Words | None, bits: int
    ) -> Words:
        """All added up, in the memory of the first product."""
        total, *rest = products
        for part in (*rest, plus, bias):
            if part is not None:
                total += part
        return self.reduce(total, bits, out=total)

    def row_dot(self, x: Words, y: Words, bits: int) -> Words:
        return self.reduce(np.einsum("ij,ij->i", x, y), bits)

    def conv2d(
        self, x: Words, w: Words, stride: Pair, padding: Padding, groups: int, bits: int
    ) -> Words:
        top, bottom, left, right = padding
        kh, kw, per_group, c_out = w.shape
        if any(padding):
            x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        if (kh, kw, stride, groups) == (1, 1, (1, 1), 1):
            return limbs.matmul(x.reshape(-1, per_group), w[0, 0], bits).reshape(
                *x.shape[:3], c_out
            )
        if groups == 1:
            return limbs.conv2d(x, w, stride, bits)
        if per_group == 1 and c_out == groups:
            return limbs.depthwise(x, w[:, :, 0], stride, bits)
        parts = zip(np.split(x, groups, axis=3), np.split(w, groups, axis=3), strict=True)
        return np.concatenate([limbs.conv2d(a, b, stride, bits) for a, b in parts], axis=3)

    # local steps

    def truncate(
        self, words: Words, k: int, shift: int, party: int, out: Words | None = None
    ) -> Words:
        result: Words = np.add(words, np.uint64((1 << shift) - 1 if party == 0 else 0), out=out)
        result &= np.uint64((1 << k) - 1)
        result >>= np.uint64(shift)
        return result

    def reduce(self, words: Words, bits: int, out: Words | None = None) -> Words:
        result: Words = np.bitwise_and(words, np.uint64((1 << bits) - 1), out=out)
        return result

    def add_constant(self, words: Words, value: int, bits: int) -> Words:
        return self.reduce(words + np.uint64(value % (1 << 64)), bits)

    def scale(self, words: Words, factor: int, bits: int) -> Words:
        return self.reduce(words * np.uint64(factor % (1 << 64)), bits)

    def sign_extend(self, words: Words, bits: int) -> Words:
        return signed(words, bits).view(np.uint64)

    def shift_signed(self, words: Words, shift: int) -> Words:
        return (words.view(np.int64) >> np.int64(shift)).view(np.uint64)

    def argmax_signed(self, words: Words) -> Words:
        index: Words = np.argmax(words.view(np.int64), axis=-1).astype(np.uint64)
        return index

    def counting(self, n: int) -> Words:
        return np.arange(n, dtype=np.uint64)

    def gather(self, words: Words, index: npt.NDArray[np.int64]) -> Words:
        return np.take_along_axis(words, index, axis=1)

    def smallest_signed(self, words: Words, k: int) -> Words:
        return np.sort(words.view(np.int64), axis=-1)[..., :k].view(np.uint64)

    def window_sum(self, words: Words, window: Pair, stride: Pair) -> Words:
        (kh, kw), (sy, sx) = window, stride
        n_y, n_x = (words.shape[1] - kh) // sy + 1, (words.shape[2] - kw) // sx + 1
        total = np.zeros((len(words), n_y, n_x, words.shape[3]), dtype=np.uint64)
        for i in range(kh):
            for j in range(kw):
                total += words[:, i : i + sy * n_y : sy, j : j + sx * n_x : sx]
        return total

    def take(self, words: Words, index: Sequence[int], axis: int) -> Words:
        return np.take(words, np.asarray(index), axis=axis)

    def permute(self, words: Words, axes: Sequence[int]) -> Words:
        return np.ascontiguousarray(words.transpose(axes))

    def concat(self, parts: Sequence[Words], axis: int) -> Words:
        return np.concatenate(parts, axis=axis)
