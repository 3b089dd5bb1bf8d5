"""Between words and what the wire carries: byte planes, and lanes by transposition of 64 bits by 64."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpumpc.ring.numba_backend.compiled import Bytes, OutBytes, OutWords, OutWords2, Words, compiled, index, word

_WORD = ir.IntType(64)
_BYTES, _WORDS = ir.VectorType(ir.IntType(8), 64), ir.VectorType(_WORD, 64)
_BLOCK_BYTES, _BLOCK_WORDS = ir.VectorType(ir.IntType(8), 32), ir.VectorType(_WORD, 32)


def _repeated(builder: Any, scalar: Any, form: Any) -> Any:
    nothing = ir.Constant(form, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), form.count), [0] * form.count))


@intrinsic  # type: ignore[untyped-decorator]  # numba publishes no types
def _byte_column(typing_context: Any, source: Any, shift: Any, target: Any) -> Any:
    """64 words at one address -> 64 bytes at another: bits shift .. shift + 7 of each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = builder.load(builder.inttoptr(arguments[0], _WORDS.as_pointer()), align=8)
        shifted = builder.lshr(values, _repeated(builder, arguments[1], _WORDS))
        builder.store(builder.trunc(shifted, _BYTES), builder.inttoptr(arguments[2], _BYTES.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.uint64, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]  # numba publishes no types
def _bit_planes(typing_context: Any, source: Any, target: Any) -> Any:
    """64 bytes at one address -> 8 words at another: bit i of word b is bit b of byte i."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = builder.load(builder.inttoptr(arguments[0], _BYTES.as_pointer()), align=1)
        target = builder.inttoptr(arguments[1], _WORD.as_pointer())
        for bit in range(8):
            tested = builder.and_(values, ir.Constant(_BYTES, [1 << bit] * 64))
            mask = builder.icmp_unsigned("!=", tested, ir.Constant(_BYTES, [0] * 64))
            place = builder.gep(target, [ir.Constant(_WORD, bit)])
            builder.store(builder.bitcast(mask, _WORD), place, align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]  # numba publishes no types
def _join_bytes(typing_context: Any, source: Any, step: Any, count: Any, target: Any) -> Any:
    """32 words, byte j of each from 32 bytes at source + j step, for j < count (at least 1)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, step, count, target = arguments
        before, each, done = builder.block, builder.append_basic_block("byte"), builder.append_basic_block("done")
        builder.branch(each)
        builder.position_at_end(each)
        j, words = builder.phi(_WORD), builder.phi(_BLOCK_WORDS)
        place = builder.inttoptr(builder.add(source, builder.mul(j, step)), _BLOCK_BYTES.as_pointer())
        wide = builder.zext(builder.load(place, align=1), _BLOCK_WORDS)
        shift = _repeated(builder, builder.mul(j, ir.Constant(_WORD, 8)), _BLOCK_WORDS)
        joined = builder.or_(words, builder.shl(wide, shift))
        following = builder.add(j, ir.Constant(_WORD, 1))
        zeros = ir.Constant(_BLOCK_WORDS, [0] * 32)
        for phi, first, again in ((j, ir.Constant(_WORD, 0), following), (words, zeros, joined)):
            phi.add_incoming(first, before)
            phi.add_incoming(again, each)
        builder.cbranch(builder.icmp_signed("<", following, count), each, done)
        builder.position_at_end(done)
        builder.store(joined, builder.inttoptr(target, _BLOCK_WORDS.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


@compiled(Words, index, OutBytes)
def pack_bytes(x, whole, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """Byte j of every element, one plane after the other, for the `whole` low bytes."""
    n = x.size
    source, target = x.ctypes.data, out.ctypes.data
    for start in range(0, n - 63, 64):
        for j in range(whole):
            _byte_column(source + 8 * start, np.uint64(8 * j), target + j * n + start)
    for i in range(n - n % 64, n):
        for j in range(whole):
            out[j * n + i] = np.uint8(x[i] >> np.uint64(8 * j))


@compiled(Bytes, index, OutWords)
def unpack_bytes(packed, whole, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """The inverse of `pack_bytes`; bits above are zero."""
    n = out.size
    source, target = packed.ctypes.data, out.ctypes.data
    blocks = n - n % 32 if whole else 0
    for start in range(0, blocks, 32):
        _join_bytes(source + start, n, whole, target + 8 * start)
    for i in range(blocks, n):
        out[i] = np.uint64(0)
        for j in range(whole):
            out[i] |= np.uint64(packed[j * n + i]) << np.uint64(8 * j)


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


@compiled(OutWords, Words, word)
def add_bit(out, lane, position):  # type: ignore[no-untyped-def]  # typed by its signature
    """Set one bit of every element from a lane."""
    for j in range(lane.size):
        bits, start = lane[j], 64 * j
        for i in range(min(64, out.size - start)):
            out[start + i] |= ((bits >> np.uint64(i)) & np.uint64(1)) << position


@compiled(Words, Bytes, index, word, OutWords)
def add_unpacked(x, packed, whole, keep, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """(x + unpacked) & keep, the packed values of whole bytes."""
    n = out.size
    source, block = packed.ctypes.data, np.empty(32, np.uint64)
    for start in range(0, n - 31, 32):
        _join_bytes(source + start, n, whole, block.ctypes.data)
        for i in range(32):
            out[start + i] = (x[start + i] + block[i]) & keep
    for i in range(n - n % 32, n):
        value = np.uint64(0)
        for j in range(whole):
            value |= np.uint64(packed[j * n + i]) << np.uint64(8 * j)
        out[i] = (x[i] + value) & keep
