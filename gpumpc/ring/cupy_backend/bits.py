"""Uniform values, the wire's bytes, and lanes."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, InputError
from gpumpc.params import Cipher
from gpumpc.ring import prg
from gpumpc.ring.backend import lane_bytes, n_lanes, packed_bytes
from gpumpc.ring.cupy_backend.base import BLOCK, THREADS, Base, bit_mask, blocks_of
from gpumpc.ring.cupy_backend.device import Lanes, Words
from gpumpc.ring.definition.bit_slices import bits_of_lane, clear_tail

MAX_DIGIT_BITS = 6
_STREAM_BYTES = THREADS * 64  # of one block of the stream kernels
_TILE = 1024  # elements of one block of the transposition


def key_words(key: bytes) -> list[int]:
    """A key as eight scalars of a launch."""
    return [int(word) for word in np.frombuffer(key, dtype="<u4")]


class Bits(Base):
    """The contract's `Streams`, `WireForms` and `Bits`, unless fused; leaves of comparisons."""

    # uniform values

    def expand_words(self, cipher: Cipher, key: bytes, shape: Sequence[int], bits: int) -> Words:
        n, size = math.prod(shape), prg.word_bytes(bits)
        out = self.new(shape)
        if cipher != "chacha20":
            # AES has look-up tables, which a GPU would read at secret places: the host expands, for
            # programs made for CPUs.
            stream = prg.expand(cipher, key, n * size).view(f"<u{size}").astype(np.uint64)
            return self.elementwise("affine", [self.words(stream)], out, 1, 0, bit_mask(bits))
        prg.check(key, n * size)
        blocks = blocks_of(n * size, _STREAM_BYTES)
        self.launch("chacha_words", blocks, out, n, size, bit_mask(bits), *key_words(key))
        return out

    def expand_lanes(self, cipher: Cipher, key: bytes, planes: int, n: int) -> Lanes:
        row, tail = n_lanes(n), bit_mask((n - 1) % 64 + 1)
        if cipher != "chacha20":
            lanes = prg.expand(cipher, key, lane_bytes(n, planes)).view("<u8").reshape(planes, row)
            return self.words(clear_tail(lanes, n))
        prg.check(key, lane_bytes(n, planes))
        out = self.new((planes, row))
        blocks = blocks_of(8 * planes * row, _STREAM_BYTES)
        self.launch("chacha_lanes", blocks, out, planes * row, max(1, row), tail, *key_words(key))
        return out

    # wire

    def pack(self, words: Words, bits: int) -> memoryview:
        words = self.words(words)
        n = math.prod(words.shape)
        packed = self.new((packed_bytes(n, bits),), np.uint8)
        self.launch("pack", blocks_of(64 * n_lanes(n), BLOCK), words, packed, n, bits)
        return self.device.download(packed).data

    def unpack(self, packed: memoryview, shape: Sequence[int], bits: int) -> Words:
        n = math.prod(shape)
        out = self.new(shape)
        received = self.received(packed, packed_bytes(n, bits))
        self.launch("unpack", blocks_of(n, BLOCK), received, out, n, bits)
        return out

    def pack_lanes(self, lanes: Lanes) -> memoryview:
        return self.device.download(self.words(lanes)).reshape(-1).view(np.uint8).data

    def unpack_lanes(self, packed: memoryview, planes: int, n: int) -> Lanes:
        received = self.received(packed, lane_bytes(n, planes))
        return received.view(np.uint64).reshape(planes, n_lanes(n))

    # bits

    def to_planes(self, words: Words, bits: int) -> Lanes:
        words = self.words(words)
        n = math.prod(words.shape)
        planes = self.new((bits, n_lanes(n)))
        self.launch("to_planes", blocks_of(n, _TILE), words, planes, n, n_lanes(n), bits)
        return planes

    def bit(self, words: Words, position: int) -> Lanes:
        words = self.words(words)
        n = math.prod(words.shape)
        halves = self.new((2 * n_lanes(n),), np.uint32)
        blocks = blocks_of(64 * n_lanes(n), THREADS)
        self.launch("take_bit", blocks, words, halves, n, 2 * n_lanes(n), position)
        return halves.view(np.uint64)

    def lane(self, lane: Lanes, n: int) -> Lanes:
        """A lane of n elements. Raises BadShape for one of another number."""
        lane = self.words(lane)
        if tuple(lane.shape) != (n_lanes(n),):
            what = f"a lane of shape {tuple(lane.shape)} was used for {n} elements"
            raise BadShape(what, hint=f"it has {n_lanes(n)} words")
        return lane

    def rows_of_lanes(self, lanes: Lanes, n: int) -> Lanes:
        """Lanes of n elements a row. Raises BadShape for rows of another number."""
        lanes = self.words(lanes)
        if lanes.shape[1:] != (n_lanes(n),):
            hint = f"a row has {n_lanes(n)} words"
            raise BadShape(f"lanes {lanes.shape} of {n} elements", hint=hint)
        return lanes

    def from_bit(self, lane: Lanes, shape: Sequence[int]) -> Words:
        return self.elementwise("from_bit", [self.lane(lane, math.prod(shape))], self.new(shape))

    def from_lanes(self, lanes: Lanes, n: int) -> Words:
        lanes = self.rows_of_lanes(lanes, n)
        out = self.new((len(lanes), n))
        scalars = out.size, max(1, n), n_lanes(n)
        self.launch("from_lanes", blocks_of(out.size, BLOCK), lanes, out, *scalars)
        return out

    def constant_lane(self, bit: int, n: int) -> Lanes:
        host = np.full(n_lanes(n), bit_mask(64) if bit else 0, dtype=np.uint64)
        return self.uploaded(clear_tail(host, n))

    def select(self, lane: Lanes, if_one: Words, if_zero: Words) -> Words:
        if_one, if_zero = self.words(if_one), self.words(if_zero)
        self.same_shape("a selection", if_one, if_zero)
        lane = self.lane(lane, math.prod(if_one.shape))
        return self.elementwise("select_words", [lane, if_one, if_zero], self.new(if_one.shape))

    def download_bits(self, lane: Lanes, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
        host = self.device.download(self.lane(lane, math.prod(shape)))
        return bits_of_lane(host, shape).view(bool)

    # leaves of comparisons

    def thermometer(self, planes: Lanes) -> Lanes:
        planes = self.words(planes)
        n_digits, width, lanes = planes.shape
        _check_width(width)
        table = self.new((n_digits, (1 << width) - 1, lanes))
        blocks = blocks_of(lanes, THREADS) * n_digits
        self.launch("thermometer", blocks, planes, table, lanes, width, n_digits)
        return table

    def lookup(self, tables: Lanes, planes: Lanes, below: Lanes) -> tuple[Lanes, Lanes]:
        tables, planes, below = self.words(tables), self.words(planes), self.words(below)
        n_digits, width, lanes = planes.shape
        _check_width(width)
        if tables.shape != (n_digits, (1 << width) - 1, lanes) or below.shape != (lanes,):
            what = f"tables {tables.shape} and a lane {below.shape} for digits {planes.shape}"
            raise BadShape(what, hint="make them fit")
        lt, eq = self.new((n_digits, lanes)), self.new((n_digits, lanes))
        blocks = blocks_of(lanes, THREADS) * n_digits
        self.launch("lookup", blocks, tables, planes, below, lt, eq, lanes, width, n_digits)
        return lt, eq


def _check_width(width: int) -> None:
    if not 1 <= width <= MAX_DIGIT_BITS:
        why, hint = f"kernels hold up to {MAX_DIGIT_BITS}", "cut the number into more digits"
        raise InputError(f"a digit of {width} bits", why, hint)
