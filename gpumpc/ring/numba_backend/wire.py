"""From the wire's bytes to words: byte planes, and lanes by transposition of 64 bits by 64.

`key_stream` packs words.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types

from gpumpc.ring.numba_backend.jit import (
    Bytes,
    OutWords,
    Words,
    compiled,
    index,
    intrinsic,
    repeated,
    word,
)

_WORD = ir.IntType(64)
_BYTES, _WORDS = ir.VectorType(ir.IntType(8), 64), ir.VectorType(_WORD, 64)
_BLOCK_BYTES, _BLOCK_WORDS = ir.VectorType(ir.IntType(8), 32), ir.VectorType(_WORD, 32)


@intrinsic(types.void, *[types.intp] * 4)
def _bytes_of_bits(
    builder: ir.IRBuilder, source: ir.Value, step: ir.Value, count: ir.Value, target: ir.Value
) -> None:
    """The inverse of `_bit_planes`: 64 bytes from `count` >= 1 words, `step` bytes apart."""

    def more(bit: ir.Value, total: ir.Value) -> ir.Value:
        place = builder.inttoptr(builder.add(source, builder.mul(bit, step)), _WORD.as_pointer())
        flags = builder.bitcast(builder.load(place, align=1), ir.VectorType(ir.IntType(1), 64))
        weight = repeated(
            builder, builder.trunc(builder.shl(ir.Constant(_WORD, 1), bit), ir.IntType(8)), _BYTES
        )
        return builder.or_(total, builder.select(flags, weight, ir.Constant(_BYTES, [0] * 64)))

    total = _gathered(builder, count, _BYTES, more)
    builder.store(total, builder.inttoptr(target, _BYTES.as_pointer()), align=1)


@intrinsic(types.void, *[types.intp] * 4)
def _join_bytes(
    builder: ir.IRBuilder, source: ir.Value, step: ir.Value, count: ir.Value, target: ir.Value
) -> None:
    """32 words, byte j of each from 32 bytes at source + j step, for j < count (at least 1)."""

    def more(j: ir.Value, words: ir.Value) -> ir.Value:
        place = builder.inttoptr(
            builder.add(source, builder.mul(j, step)), _BLOCK_BYTES.as_pointer()
        )
        wide = builder.zext(builder.load(place, align=1), _BLOCK_WORDS)
        shift = repeated(builder, builder.mul(j, ir.Constant(_WORD, 8)), _BLOCK_WORDS)
        return builder.or_(words, builder.shl(wide, shift))

    joined = _gathered(builder, count, _BLOCK_WORDS, more)
    builder.store(joined, builder.inttoptr(target, _BLOCK_WORDS.as_pointer()), align=8)


def _gathered(
    builder: ir.IRBuilder,
    count: ir.Value,
    form: ir.Type,
    more: Callable[[ir.Value, ir.Value], ir.Value],
) -> ir.Value:
    """A loop: zero, then `more(i, total)` for i = 0 .. count - 1; count is at least 1."""
    before, each, done = (
        builder.block,
        builder.append_basic_block("each"),
        builder.append_basic_block("done"),
    )
    builder.branch(each)
    builder.position_at_end(each)
    i, total = builder.phi(_WORD), builder.phi(form)
    grown, following = more(i, total), builder.add(i, ir.Constant(_WORD, 1))
    for phi, first, again in (
        (i, ir.Constant(_WORD, 0), following),
        (total, ir.Constant(form, [0] * form.count), grown),
    ):
        phi.add_incoming(first, before)
        phi.add_incoming(again, each)
    builder.cbranch(builder.icmp_signed("<", following, count), each, done)
    builder.position_at_end(done)
    return grown


@intrinsic(types.uint64, types.intp, types.intp)
def _bit_of_words(builder: ir.IRBuilder, source: ir.Value, position: ir.Value) -> ir.Value:
    """One bit of each of 64 words, as a word."""
    values = builder.load(builder.inttoptr(source, _WORDS.as_pointer()), align=8)
    # Up to the sign's place: a vector of signs is one instruction.
    up = builder.sub(ir.Constant(_WORD, 63), position)
    moved = builder.shl(values, repeated(builder, up, _WORDS))
    return builder.bitcast(builder.icmp_signed("<", moved, ir.Constant(_WORDS, [0] * 64)), _WORD)


@compiled(Bytes, index, index, Words, index, word, OutWords)
def unpack(packed, whole, rest, x, plus, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """Words of `whole` byte planes and `rest` lanes; plus x modulo mask + 1 where `plus`."""
    n = out.size
    lanes = (n + 63) // 64
    source, target = packed.ctypes.data, out.ctypes.data
    column, block = np.zeros(64, np.uint8), np.zeros(64, np.uint64)
    for lane in range(lanes):
        start = 64 * lane
        count = min(64, n - start)
        if rest:
            _bytes_of_bits(source + whole * n + 8 * lane, 8 * lanes, rest, column.ctypes.data)
        place = block.ctypes.data if plus == 1 or count < 64 else target + 8 * start
        values = block if plus == 1 or count < 64 else out[start : start + 64]
        if count == 64 and whole:
            _join_bytes(source + start, n, whole, place)
            _join_bytes(source + start + 32, n, whole, place + 256)
        else:
            for i in range(count):
                value = np.uint64(0)
                for j in range(whole):
                    value |= np.uint64(packed[j * n + start + i]) << np.uint64(8 * j)
                values[i] = value
        if rest:
            shift = np.uint64(8 * whole)
            for i in range(count):
                values[i] |= np.uint64(column[i]) << shift
        if plus == 1:
            for i in range(count):
                out[start + i] = (x[start + i] + block[i]) & mask
        elif count < 64:
            for i in range(count):
                out[start + i] = block[i]


@compiled(Words, index, OutWords)
def lane_of_words(x, position, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """One bit of every element."""
    last = np.zeros(64, np.uint64)
    for lane in range(out.size):
        source = x.ctypes.data + 512 * lane
        if 64 * lane + 64 > x.size:
            last[: x.size - 64 * lane] = x[64 * lane :]
            source = last.ctypes.data
        out[lane] = _bit_of_words(source, position)
