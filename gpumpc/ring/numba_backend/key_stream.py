"""AES-128 in counter mode by the processor's AES instructions, fused with masking and packing.

The same bytes as `prg.expand`: round keys by FIPS 197, counter blocks by NIST SP 800-38A section
6.5, the counter a 128-bit number, big end first. No table is looked up, so no time depends on a
key. Half a kilobyte at a time goes through a buffer in the first-level cache: masks are added where
they are made, and messages are packed there, without the interpreter's lock. Packing without a
mask is the same loop.
"""

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils

from gpumpc.ring.numba_backend.jit import (
    Bytes,
    OutBytes,
    OutWords,
    OutWords2,
    Words,
    compiled,
    has_feature,
    index,
    intrinsic,
    repeated,
    word,
)

HAS_AES = has_feature("aes")
# Two blocks in one instruction where the processor can.
_BLOCKS = 2 if has_feature("vaes") and has_feature("avx2") else 1
_ROUNDS = 10
_IN_FLIGHT = 8  # states at a time, so that none waits for the one before
_GROUP_BLOCKS = _BLOCKS * _IN_FLIGHT
_BUFFER_BLOCKS = 64  # between making and using

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_64_BYTES, _64_WORDS = ir.VectorType(ir.IntType(8), 64), ir.VectorType(_I64, 64)
_NO_WORDS, _NO_BYTES = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint8)
_STATE, _KEY, _QUARTERS = (
    ir.VectorType(_I64, 2 * _BLOCKS),
    ir.VectorType(_I64, 2),
    ir.VectorType(_I32, 4),
)


def _instruction(builder: ir.IRBuilder, name: str, form: ir.Type, *arguments: ir.Value) -> ir.Value:
    function_type = ir.FunctionType(form, [argument.type for argument in arguments])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function_type, name), list(arguments)
    )


@intrinsic(types.void, types.intp, types.intp)
def _round_keys(b: ir.IRBuilder, key: ir.Value, target: ir.Value) -> None:
    """16 key bytes at one address -> 11 round keys at another, each `_BLOCKS` times."""
    if not HAS_AES:  # nothing calls it then, but it must compile
        return
    current = b.bitcast(b.load(b.inttoptr(key, _KEY.as_pointer()), align=1), _QUARTERS)
    zeros = ir.Constant(_QUARTERS, [0] * 4)
    for number in range(_ROUNDS + 1):
        if number:
            constant = ir.Constant(
                ir.IntType(8), (1, 2, 4, 8, 16, 32, 64, 128, 0x1B, 0x36)[number - 1]
            )
            helped = _instruction(
                b, "llvm.x86.aesni.aeskeygenassist", _KEY, b.bitcast(current, _KEY), constant
            )
            words = current
            for _ in range(3):  # word i becomes the sum of words 0 .. i
                words = b.shuffle_vector(words, zeros, ir.Constant(_QUARTERS, [4, 0, 1, 2]))
                current = b.xor(current, words)
            last = ir.Constant(_QUARTERS, [3] * 4)
            current = b.xor(current, b.shuffle_vector(b.bitcast(helped, _QUARTERS), zeros, last))
        for copy in range(_BLOCKS):
            place = ir.Constant(_I64, 16 * (_BLOCKS * number + copy))
            b.store(current, b.inttoptr(b.add(target, place), _QUARTERS.as_pointer()), align=8)


@intrinsic(types.void, *[types.intp] * 4)
def _group(
    b: ir.IRBuilder, keys: ir.Value, high: ir.Value, low: ir.Value, target: ir.Value
) -> None:
    """`_GROUP_BLOCKS` blocks of the stream from 2^64 high + low on; `low` does not wrap."""
    if not HAS_AES:  # nothing calls it then, but it must compile
        return
    first = ir.Constant(_STATE, ir.Undefined)
    for place in range(2 * _BLOCKS):
        counter = b.add(low, ir.Constant(_I64, place // 2)) if place % 2 else high
        first = b.insert_element(first, counter, ir.Constant(_I32, place))

    def key(number: int) -> ir.Value:
        address = b.add(keys, ir.Constant(_I64, 16 * _BLOCKS * number))
        return b.load(b.inttoptr(address, _STATE.as_pointer()), align=8)

    suffix = ".256" if _BLOCKS == 2 else ""
    steps = [ir.Constant(_STATE, [0, _BLOCKS * i] * _BLOCKS) for i in range(_IN_FLIGHT)]
    swap = f"llvm.bswap.v{2 * _BLOCKS}i64"
    states = [_instruction(b, swap, _STATE, b.add(first, step)) for step in steps]
    whitening = key(0)
    states = [b.xor(state, whitening) for state in states]
    for number in range(1, _ROUNDS + 1):
        name = "llvm.x86.aesni.aesenclast" if number == _ROUNDS else "llvm.x86.aesni.aesenc"
        round_key = key(number)
        states = [_instruction(b, name + suffix, _STATE, state, round_key) for state in states]
    for i, state in enumerate(states):
        address = b.add(target, ir.Constant(_I64, 16 * _BLOCKS * i))
        b.store(state, b.inttoptr(address, _STATE.as_pointer()), align=1)


@compiled(Bytes, OutWords)
def _expand_key(key, keys):  # type: ignore[no-untyped-def]  # typed by its signature
    _round_keys(key.ctypes.data, keys.ctypes.data)


@intrinsic(types.void, types.intp, types.uint64, types.intp)
def _byte_column(
    builder: ir.IRBuilder, source: ir.Value, shift: ir.Value, target: ir.Value
) -> None:
    """64 words at one address -> 64 bytes at another: bits shift .. shift + 7 of each."""
    values = builder.load(builder.inttoptr(source, _64_WORDS.as_pointer()), align=8)
    shifted = builder.lshr(values, repeated(builder, shift, _64_WORDS))
    builder.store(
        builder.trunc(shifted, _64_BYTES), builder.inttoptr(target, _64_BYTES.as_pointer()), align=1
    )


@intrinsic(types.void, types.intp, types.intp)
def _bit_planes(builder: ir.IRBuilder, source: ir.Value, target: ir.Value) -> None:
    """64 bytes at one address -> 8 words at another: bit i of word b is bit b of byte i."""
    values = builder.load(builder.inttoptr(source, _64_BYTES.as_pointer()), align=1)
    target = builder.inttoptr(target, _I64.as_pointer())
    for bit in range(8):
        tested = builder.and_(values, ir.Constant(_64_BYTES, [1 << bit] * 64))
        mask = builder.icmp_unsigned("!=", tested, ir.Constant(_64_BYTES, [0] * 64))
        place = builder.gep(target, [ir.Constant(_I64, bit)])
        builder.store(builder.bitcast(mask, _I64), place, align=8)


@intrinsic(types.void, types.uint64, types.intp)
def _store(builder: ir.IRBuilder, value: ir.Value, target: ir.Value) -> None:
    """A word at an address that need not be a multiple of eight."""
    builder.store(value, builder.inttoptr(target, _I64.as_pointer()), align=1)


@compiled(Words, word, word, index, index, Words, index, OutWords, OutBytes)
def _words(keys, high, low, size, sign, x, bits, out, packed):  # type: ignore[no-untyped-def]  # typed by its signature
    """x + sign * stream modulo 2^bits, a stream word of `size` bytes an element: packed where
    `packed` has room, else words.

    Where sign is 0, words are the stream alone, and packed is x alone.
    """
    n, whole, rest, is_packed = x.size, bits // 8, bits % 8, packed.size > 0
    lanes, target = (n + 63) // 64, packed.ctypes.data
    raw, widened = np.empty(2 * _BUFFER_BLOCKS, np.uint64), np.empty(16 * _BUFFER_BLOCKS, np.uint64)
    values = np.empty(16 * _BUFFER_BLOCKS, np.uint64)
    column, planes = np.empty(64, np.uint8), np.empty(8, np.uint64)
    by_1, by_2, by_4 = raw.view(np.uint8), raw.view(np.uint16), raw.view(np.uint32)
    count = 16 * _BUFFER_BLOCKS // size
    stream, mask = (
        raw if size == 8 else widened,
        np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - bits),
    )
    for start in range(0, n, count):
        left = min(count, n - start)
        if not is_packed or sign != 0:
            for block in range(0, _BUFFER_BLOCKS, _GROUP_BLOCKS):
                _group(keys.ctypes.data, high, low + np.uint64(block), raw.ctypes.data + 16 * block)
            low += np.uint64(_BUFFER_BLOCKS)
            if size == 4:
                for i in range(count):
                    widened[i] = by_4[i]
            elif size == 2:
                for i in range(count):
                    widened[i] = by_2[i]
            elif size == 1:
                for i in range(count):
                    widened[i] = by_1[i]
        if not is_packed:
            if sign == 0:
                for i in range(left):
                    out[start + i] = stream[i] & mask
            elif sign == 1:
                for i in range(left):
                    out[start + i] = (x[start + i] + stream[i]) & mask
            else:
                for i in range(left):
                    out[start + i] = (x[start + i] - stream[i]) & mask
            continue
        if sign == 1:
            for i in range(left):
                values[i] = x[start + i] + stream[i]
        elif sign == -1:
            for i in range(left):
                values[i] = x[start + i] - stream[i]
        elif left < count:
            values[:left] = x[start:]
        if left % 64:  # bits past the last element are zero
            values[left : left + 64 - left % 64] = 0
        source = x.ctypes.data + 8 * start if sign == 0 and left == count else values.ctypes.data
        for at in range(0, left, 64):
            if at + 64 <= left:
                for j in range(whole):
                    _byte_column(source + 8 * at, np.uint64(8 * j), target + j * n + start + at)
            else:
                for j in range(whole):
                    for i in range(at, left):
                        packed[j * n + start + i] = np.uint8(values[i] >> np.uint64(8 * j))
            if rest:
                _byte_column(source + 8 * at, np.uint64(8 * whole), column.ctypes.data)
                _bit_planes(column.ctypes.data, planes.ctypes.data)
                place = target + whole * n + 8 * ((start + at) // 64)
                for b in range(rest):
                    _store(planes[b], place + 8 * lanes * b)


@compiled(Words, word, word, index, Words, OutWords)
def _lanes(keys, high, low, add, x, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """out = x ^ stream where `add` is 1, else the stream."""
    raw = np.empty(2 * _BUFFER_BLOCKS, np.uint64)
    for start in range(0, out.size, raw.size):
        for block in range(0, _BUFFER_BLOCKS, _GROUP_BLOCKS):
            _group(keys.ctypes.data, high, low + np.uint64(block), raw.ctypes.data + 16 * block)
        low += np.uint64(_BUFFER_BLOCKS)
        left = min(raw.size, out.size - start)
        if add == 1:
            for i in range(left):
                out[start + i] = x[start + i] ^ raw[i]
        else:
            for i in range(left):
                out[start + i] = raw[i]


@compiled(Words, index, index, OutWords2)
def planes_of_words(x, first, bits, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """Bits first .. first + bits - 1 of every element, a plane each."""
    n = x.size
    last = np.zeros(64, np.uint64)
    column, planes = np.empty(64, np.uint8), np.empty(8, np.uint64)
    middle, target = column.ctypes.data, planes.ctypes.data
    for lane in range(out.shape[1]):
        source = x.ctypes.data + 512 * lane
        if 64 * lane + 64 > n:
            last[: n - 64 * lane] = x[64 * lane :]
            source = last.ctypes.data
        for low in range(0, bits, 8):
            _byte_column(source, np.uint64(first + low), middle)
            _bit_planes(middle, target)
            for b in range(low, min(low + 8, bits)):
                out[b, lane] = planes[b - low]


def pack(x: npt.NDArray[np.uint64], bits: int, packed: npt.NDArray[np.uint8]) -> None:
    """Bytes of x."""
    _words(_NO_WORDS, 0, 0, 8, 0, x, bits, _NO_WORDS, packed)


class Stream:
    """The stream of one 32-byte key: AES-128 under its first half, counted from its second."""

    def __init__(self, key: bytes) -> None:
        self._keys = np.empty(2 * _BLOCKS * (_ROUNDS + 1), dtype=np.uint64)
        _expand_key(np.frombuffer(key[:16], dtype=np.uint8), self._keys)
        self._high, self._low = (int.from_bytes(key[at : at + 8], "big") for at in (16, 24))

    def reaches(self, n_bytes: int) -> bool:
        """Whether the counter's upper half stays: for all but one key in 2^28 it does."""
        return self._low + n_bytes // 16 + _BUFFER_BLOCKS < 1 << 64

    def words(self, out: npt.NDArray[np.uint64], size: int, bits: int) -> None:
        """Fill with stream words of `size` bytes modulo 2^bits."""
        _words(self._keys, self._high, self._low, size, 0, out, bits, out, _NO_BYTES)

    def added(
        self,
        x: npt.NDArray[np.uint64],
        sign: int,
        out: npt.NDArray[np.uint64],
        size: int,
        bits: int,
    ) -> None:
        """x + sign * stream modulo 2^bits."""
        _words(self._keys, self._high, self._low, size, sign, x, bits, out, _NO_BYTES)

    def packed(
        self,
        x: npt.NDArray[np.uint64],
        sign: int,
        packed: npt.NDArray[np.uint8],
        size: int,
        bits: int,
    ) -> None:
        """The same as bytes of the wire."""
        _words(self._keys, self._high, self._low, size, sign, x, bits, _NO_WORDS, packed)

    def lanes(self, out: npt.NDArray[np.uint64]) -> None:
        """Fill with the stream."""
        _lanes(self._keys, self._high, self._low, 0, out, out)

    def lanes_added(self, x: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:
        """x ^ stream."""
        _lanes(self._keys, self._high, self._low, 1, x, out)
