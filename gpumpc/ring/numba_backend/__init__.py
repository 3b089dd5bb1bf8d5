"""The contract in compiled loops, for machines without a GPU: bit for bit the results of
`numpy_backend`.

Importing this package compiles everything, or reads it from Numba's cache. Operations without a
loop here were measured and are as fast in NumPy.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpumpc.params import Cipher
from gpumpc.ring import prg
from gpumpc.ring.backend import Factors, LiftLanes, Padding, Pair, lane_bytes, n_lanes, packed_bytes
from gpumpc.ring.definition.bit_slices import clear_tail
from gpumpc.ring.numba_backend import key_stream as stream_loops
from gpumpc.ring.numba_backend import lanes as bit_loops
from gpumpc.ring.numba_backend import products, wire
from gpumpc.ring.numba_backend import words as loops
from gpumpc.ring.numba_backend.key_stream import HAS_AES, Stream
from gpumpc.ring.numba_backend.products.forms import static
from gpumpc.ring.numpy_backend import Lanes, NumpyBackend, Words, received


def _new(shape: int | tuple[int, ...]) -> Words:
    return np.empty(shape, dtype=np.uint64)


def _mask(bits: int) -> int:
    return (1 << bits) - 1


def _flat(words: Words) -> Words:
    return np.ascontiguousarray(words).reshape(-1)


class NumbaBackend(NumpyBackend):
    """Words are uint64 arrays; opened values are plain words."""

    name = "numba"

    # uniform values

    def expand_words(self, cipher: Cipher, key: bytes, shape: Sequence[int], bits: int) -> Words:
        n, size = math.prod(shape), prg.word_bytes(bits)
        if stream := _stream(cipher, key, n * size):
            words = _new(n)
            stream.words(words, size, bits)
            return words.reshape(shape)
        return super().expand_words(cipher, key, shape, bits)

    def expand_lanes(self, cipher: Cipher, key: bytes, planes: int, n: int) -> Lanes:
        if stream := _stream(cipher, key, lane_bytes(n, planes)):
            lanes = _new(planes * n_lanes(n))
            stream.lanes(lanes)
            return clear_tail(lanes.reshape(planes, n_lanes(n)), n)
        return super().expand_lanes(cipher, key, planes, n)

    def add_uniform(
        self, words: Words, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> Words:
        size = prg.word_bytes(bits)
        if stream := _stream(cipher, key, words.size * size):
            total = _new(words.size)
            stream.added(_flat(words), sign, total, size, bits)
            return total.reshape(words.shape)
        return super().add_uniform(words, cipher, key, bits, sign)

    def xor_uniform(self, lanes: Lanes, cipher: Cipher, key: bytes, n: int) -> Lanes:
        if stream := _stream(cipher, key, lane_bytes(n, len(lanes))):
            total = _new(lanes.size)
            stream.lanes_added(_flat(lanes), total)
            return clear_tail(total.reshape(lanes.shape), n)
        return super().xor_uniform(lanes, cipher, key, n)

    # wire

    def pack(self, words: Words, bits: int) -> memoryview:
        packed = np.empty(packed_bytes(words.size, bits), dtype=np.uint8)
        stream_loops.pack(_flat(words), bits, packed)
        return packed.data

    def pack_masked(
        self, words: Words, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> memoryview:
        size = prg.word_bytes(bits)
        if stream := _stream(cipher, key, words.size * size):
            packed = np.empty(packed_bytes(words.size, bits), dtype=np.uint8)
            stream.packed(_flat(words), sign, packed, size, bits)
            return packed.data
        return super().pack_masked(words, cipher, key, bits, sign)

    def unpack(self, packed: memoryview, shape: Sequence[int], bits: int) -> Words:
        n = math.prod(shape)
        buffer, words = received(packed, packed_bytes(n, bits)), _new(n)
        wire.unpack(buffer, bits // 8, bits % 8, words, 0, 0, words)
        return words.reshape(shape)

    def add_packed(self, words: Words, packed: memoryview, bits: int) -> Words:
        buffer = received(packed, packed_bytes(words.size, bits))
        total = _new(words.size)
        wire.unpack(buffer, bits // 8, bits % 8, _flat(words), 1, _mask(bits), total)
        return total.reshape(words.shape)

    def unpack_lanes(self, packed: memoryview, planes: int, n: int) -> Lanes:
        return _aligned(received(packed, lane_bytes(n, planes))).reshape(planes, n_lanes(n))

    def static(self, words: Words, bits: int) -> Words:
        return static(words)

    def download(self, words: Words) -> Words:
        return np.asarray(words)

    # bits

    def to_planes(self, words: Words, bits: int) -> Lanes:
        flat = _flat(words)
        planes = _new((bits, n_lanes(flat.size)))
        stream_loops.planes_of_words(flat, 0, bits, planes)
        return planes

    def bit(self, words: Words, position: int) -> Lanes:
        flat = _flat(words)
        lane = _new(n_lanes(flat.size))
        wire.lane_of_words(flat, position, lane)
        return lane

    def from_bit(self, lane: Lanes, shape: Sequence[int]) -> Words:
        words = _new(math.prod(shape))
        loops.bits_of_lane(_flat(lane), words)
        return words.reshape(shape)

    def from_lanes(self, lanes: Lanes, n: int) -> Words:
        words = _new((len(lanes), n))
        for lane, row in zip(lanes, words, strict=True):
            loops.bits_of_lane(_flat(lane), row)
        return words

    def thermometer(self, planes: Lanes) -> Lanes:
        n_digits, width, lanes = planes.shape
        table = _new((n_digits, (1 << width) - 1, lanes))
        bit_loops.thermometer_of(np.ascontiguousarray(planes), table)
        return table

    def lookup(self, tables: Lanes, planes: Lanes, below: Lanes) -> tuple[Lanes, Lanes]:
        lt, eq = (_new((len(tables), tables.shape[2])) for _ in range(2))
        bit_loops.look_up(
            np.ascontiguousarray(tables), np.ascontiguousarray(planes), _flat(below), lt, eq
        )
        return lt, eq

    def masked_products(
        self,
        opened: Lanes,
        masks: Lanes,
        dealt: Lanes,
        sums: Sequence[Sequence[Factors]],
        products: Sequence[Factors],
        party: int,
    ) -> Lanes:
        terms = bit_loops.terms_of(tuple(map(tuple, sums)), tuple(products), masks.shape[1], party)
        found = _new((len(sums), len(opened), opened.shape[2]))
        bit_loops.add_products(*map(np.ascontiguousarray, (opened, masks, dealt)), terms, found)
        return found

    def mask_products(self, masks: Lanes, products: Sequence[Factors]) -> Lanes:
        found = _new((len(masks), len(products), masks.shape[2]))
        chosen = np.array(
            [sum(1 << factor for factor in factors) for factors in products], dtype=np.uint64
        )
        bit_loops.multiply_masks(np.ascontiguousarray(masks), chosen, found)
        return found

    def select(self, lane: Lanes, if_one: Words, if_zero: Words) -> Words:
        words = _new(if_one.size)
        loops.select_words(_flat(lane), _flat(if_one), _flat(if_zero), words)
        return words.reshape(if_one.shape)

    # what a public bit chooses

    def candidates(
        self, y: Words, t: Words, t_r: Words, v: Words, bits: int
    ) -> tuple[Words, Words]:
        zero, one = _new(y.size), _new(y.size)
        loops.both_candidates(_flat(y), _flat(t), _flat(t_r), _flat(v), _mask(bits), zero, one)
        return zero.reshape(y.shape), one.reshape(y.shape)

    def look_up_chosen(
        self, chosen: Words, start: Words, stride: int, table: Words, n_chosen: int
    ) -> Words:
        found = _new(chosen.size)
        loops.look_up_chosen(_flat(chosen), _flat(start), stride, _flat(table), n_chosen, found)
        return found.reshape(chosen.shape)

    def lift(
        self,
        shares: Sequence[Words],
        lanes: LiftLanes[Lanes],
        products: Words,
        party: int,
        low: int,
        high: int,
    ) -> Words:
        choice = np.zeros_like(lanes.tops[0]) if lanes.choice is None else lanes.choice
        m, masked, theirs, mask = (
            planes[0] ^ (choice & (planes[0] ^ planes[-1]))
            for planes in (lanes.tops, lanes.masked, lanes.theirs, lanes.masks)
        )
        # w_0 = m (1 - theirs) - (-1)^(theirs ^ masked) P
        # w_1 = m - (-1)^masked theirs mask - (-1)^(theirs ^ masked) P
        crossed = theirs & mask
        terms = (
            (m & ~theirs, crossed ^ crossed, crossed ^ crossed)
            if party == 0
            else (m, crossed & ~masked, crossed & masked)
        )
        out = _new(shares[0].size)
        chosen = np.stack([*terms, theirs ^ masked])
        pairs = (_flat(shares[0]), _flat(shares[-1]), _flat(products[0]), _flat(products[-1]))
        loops.lift_selected(*pairs, _flat(choice), chosen, low, _mask(high), out)
        return out

    def add_flipped(
        self, words: Words, lane: Lanes, t: Words, factor: int, party: int, bits: int
    ) -> Words:
        out = _new(words.size)
        loops.add_flipped(_flat(words), _flat(lane), _flat(t), factor, 1 - party, _mask(bits), out)
        return out.reshape(words.shape)

    def add_flipped_part(
        self, words: Words, lane: Lanes, part: Words, whole: Words, factor: int, bits: int
    ) -> Words:
        out, arrays = _new(words.size), map(_flat, (words, lane, part, whole))
        loops.add_flipped_part(*arrays, factor, _mask(bits), out)
        return out.reshape(words.shape)

    # products

    def matmul(self, x: Words, w: Words, bits: int) -> Words:
        return products.matmul(x, w, bits)

    def multiply(self, x: Words, w: Words, bits: int) -> Words:
        if x.shape != w.shape:
            return super().multiply(x, w, bits)
        words = _new(x.size)
        loops.multiply_mask(_flat(x), _flat(w), _mask(bits), words)
        return words.reshape(x.shape)

    def row_dot(self, x: Words, y: Words, bits: int) -> Words:
        words = _new(len(x))
        loops.dot_rows(np.ascontiguousarray(x), np.ascontiguousarray(y), _mask(bits), words)
        return words

    def beaver(
        self, e: Words, f: Words, a: Words, b: Words, c: Words, party: int, bits: int
    ) -> Words:
        words = _new(e.size)
        loops.beaver(*map(_flat, (e, f, a, b, c)), 1 - party, _mask(bits), words)
        return words.reshape(e.shape)

    def _summed(
        self, products: list[Words], plus: Words | None, bias: Words | None, bits: int
    ) -> Words:
        *parts, last = products if plus is None else [*products, plus]
        if bias is None or not parts:
            return super()._summed(products, plus, bias, bits)
        # The last two and the bias in one pass, in the memory of the first.
        total, *rest = parts
        for part in rest:
            total += part
        rows = total.reshape(-1, bias.size)
        loops.add_bias(
            rows, np.ascontiguousarray(last).reshape(rows.shape), _flat(bias), _mask(bits), rows
        )
        return total

    def conv2d(
        self, x: Words, w: Words, stride: Pair, padding: Padding, groups: int, bits: int
    ) -> Words:
        if groups == 1:
            return products.conv2d(x, w, stride, padding, bits)
        if w.shape[2] == 1 and w.shape[3] == groups:
            return products.depthwise(x, w[:, :, 0], stride, padding, bits)
        parts = zip(np.split(x, groups, axis=3), np.split(w, groups, axis=3), strict=True)
        return np.concatenate(
            [products.conv2d(a, b, stride, padding, bits) for a, b in parts], axis=3
        )

    # local steps

    def truncate(
        self, words: Words, k: int, shift: int, party: int, out: Words | None = None
    ) -> Words:
        return self._add_mask_shift(words, (1 << shift) - 1 if party == 0 else 0, k, shift, out)

    def reduce(self, words: Words, bits: int, out: Words | None = None) -> Words:
        return self._add_mask_shift(words, 0, bits, 0, out)

    def add_constant(self, words: Words, value: int, bits: int) -> Words:
        return self._add_mask_shift(words, value % (1 << 64), bits, 0, None)

    @staticmethod
    def _add_mask_shift(words: Words, add: int, bits: int, shift: int, out: Words | None) -> Words:
        result = _new(words.shape) if out is None else out
        if result.flags.c_contiguous:
            loops.add_mask_shift(_flat(words), add, _mask(bits), shift, result.reshape(-1))
        else:
            result[...] = ((words + np.uint64(add)) & np.uint64(_mask(bits))) >> np.uint64(shift)
        return result

    def scale(self, words: Words, factor: int, bits: int) -> Words:
        result = _new(words.shape)
        loops.scale_mask(_flat(words), factor % (1 << 64), _mask(bits), result.reshape(-1))
        return result

    def sign_extend(self, words: Words, bits: int) -> Words:
        result = _new(words.shape)
        loops.extend_sign(_flat(words), 64 - bits, result.reshape(-1))
        return result


def _stream(cipher: Cipher, key: bytes, n_bytes: int) -> Stream | None:
    """The key's stream in compiled code, where it exists for the cipher and so many bytes."""
    if (
        cipher != "aes128ctr"
        or not HAS_AES
        or len(key) != prg.KEY_BYTES
        or n_bytes > prg.MAX_STREAM_BYTES
    ):
        return None
    stream = Stream(key)
    return stream if stream.reaches(n_bytes) else None


def _aligned(buffer: npt.NDArray[np.uint8]) -> Words:
    """Bytes as words; copied where they do not begin at a word's boundary."""
    if buffer.ctypes.data % 8:
        buffer = buffer.copy()
    return buffer.view("<u8")
