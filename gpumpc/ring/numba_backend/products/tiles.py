"""Ring products: a tile of rows by columns held in vector registers, written in LLVM's vector
language, and its driver.

A product of words modulo 2^bits is a matrix product whose rows need not lie in one piece: row r of
the left operand is `runs` runs of `run` words, `stride` words apart, from `base[r]` on. A matrix
has one run; a window of an image (H, W, C) has kh runs of kw C words, so no convolution is ever
unrolled in memory. The right operand lies in panels of 8 or 16 columns.

With x = xl + 2^32 xh and w = wl + 2^32 wh,

    x w = xl wl + 2^32 (xl wh + xh wl)   modulo 2^64,

and the kinds of tile differ in the second term:

    kind  for bits  rows  x                         one row of a panel
    0     <= 32     4     words of 32 bits          16 columns of 32 bits
    1     <= 48     3     xl + 2^32 (x0 + 2^16 xh)  8 columns wl, 8 pairs (wh, w0) of 16 bits
    2     <= 64     3     words                     8 columns, 8 halves wl, 8 halves wh

where x0, w0 are the low 16 bits: only 16 bits of the second term count in kind 1, and one
multiply-and-add of 16-bit pairs makes it. Three rows by eight columns is what sixteen vector
registers hold without spilling.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from gpumpc.ring.numba_backend.jit import (
    OutLanes3,
    OutWords2,
    compiled,
    has_feature,
    index,
    intrinsic,
    word,
)

COLUMNS = (16, 8, 8)
PANEL_WORDS = (8, 12, 16)
HAS_PAIR_PRODUCTS = has_feature("avx2")

_ROWS = (4, 3, 3)
_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_WIDE, _NARROW, _PAIRS = ir.VectorType(_I64, 4), ir.VectorType(_I32, 8), ir.VectorType(_I16, 16)


class _Builder:
    """LLVM's builder with the few phrases that a tile is made of; offsets are in bytes."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.b = builder

    def load(self, pointer: ir.Value, offset: ir.Value, kind: ir.Type) -> ir.Value:
        place = self.b.bitcast(self.b.gep(pointer, [offset]), kind.as_pointer())
        return self.b.load(place, align=4)

    def store(self, value: ir.Value, pointer: ir.Value, offset: int) -> None:
        place = self.b.bitcast(self.b.gep(pointer, [self.number(offset)]), value.type.as_pointer())
        self.b.store(value, place, align=4)

    def number(self, value: int) -> ir.Value:
        return ir.Constant(_I64, value)

    def repeated(self, scalar: ir.Value) -> ir.Value:
        """A 32-bit scalar in all eight places."""
        nothing = ir.Constant(_NARROW, ir.Undefined)
        first = self.b.insert_element(nothing, scalar, ir.Constant(_I32, 0))
        return self.b.shuffle_vector(first, nothing, ir.Constant(_NARROW, [0] * 8))

    def low_halves(self, vector: ir.Value) -> ir.Value:
        """The low 32 bits of each 64-bit place: a product of two such is one instruction."""
        return self.b.and_(self.b.bitcast(vector, _WIDE), ir.Constant(_WIDE, [0xFFFFFFFF] * 4))

    def upper_halves(self, vector: ir.Value, half: int) -> ir.Value:
        """Four of eight 32-bit places as 64-bit ones, shifted up by 32."""
        places = ir.Constant(ir.VectorType(_I32, 4), [4 * half + i for i in range(4)])
        part = self.b.shuffle_vector(vector, ir.Constant(_NARROW, ir.Undefined), places)
        return self.b.shl(self.b.zext(part, _WIDE), ir.Constant(_WIDE, [32] * 4))

    def pair_products(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x_2i y_2i + x_2i+1 y_2i+1 of 16-bit places, in 32 bits."""
        if not HAS_PAIR_PRODUCTS:  # nothing multiplies with this kind then, but it must compile
            return self.b.mul(x, y)
        form = ir.FunctionType(_NARROW, [_PAIRS, _PAIRS])
        function = cgutils.get_or_insert_function(self.b.module, form, "llvm.x86.avx2.pmadd.wd")
        return self.b.call(function, [self.b.bitcast(x, _PAIRS), self.b.bitcast(y, _PAIRS)])


def _panel_row(o: _Builder, kind: int, panel: ir.Value, k: ir.Value) -> list[ir.Value]:
    """The vectors of one row of a panel."""
    at = o.b.mul(k, o.number(8 * PANEL_WORDS[kind]))
    if kind == 0:
        return [o.load(panel, o.b.add(at, o.number(32 * i)), _NARROW) for i in range(2)]
    wide = [o.low_halves(o.load(panel, o.b.add(at, o.number(32 * i)), _WIDE)) for i in range(2)]
    return wide + [o.load(panel, o.b.add(at, o.number(64 + 32 * i)), _NARROW) for i in range(kind)]


def _multiply_add(
    o: _Builder, kind: int, sums: list[ir.Value], x: ir.Value, at: ir.Value, w: list[ir.Value]
) -> list[ir.Value]:
    """One row's sums after one more term."""
    b = o.b
    if kind == 0:
        value = o.repeated(o.load(x, b.mul(at, o.number(4)), _I32))
        return [b.add(total, b.mul(value, column)) for total, column in zip(sums, w, strict=True)]
    place = b.mul(at, o.number(8))
    low = o.repeated(o.load(x, place, _I32))
    high = o.repeated(o.load(x, b.add(place, o.number(4)), _I32))
    main = [
        b.add(total, b.mul(o.low_halves(low), column))
        for total, column in zip(sums[:2], w[:2], strict=True)
    ]
    cross = o.pair_products(high, w[2]) if kind == 1 else b.add(b.mul(high, w[2]), b.mul(low, w[3]))
    return [*main, b.add(sums[2], cross)]


def _write(o: _Builder, kind: int, sums: list[ir.Value], out: ir.Value, row: int) -> None:
    for half in range(2):
        value = sums[half] if kind == 0 else o.b.add(sums[half], o.upper_halves(sums[2], half))
        o.store(value, out, 64 * row + 32 * half)


def _tile(kind: int) -> Callable[..., int]:
    """The tile of a kind: (x, base of 4 rows, runs, run, stride, panel, out), in words."""
    forms = [_NARROW, _NARROW] if kind == 0 else [_WIDE, _WIDE, _NARROW]

    @intrinsic(types.void, *[types.intp] * 10)
    def tile(b: ir.IRBuilder, *arguments: ir.Value) -> None:
        o = _Builder(b)
        x, panel, out = (b.inttoptr(arguments[i], _I8.as_pointer()) for i in (0, 8, 9))
        bases, (runs, run, stride) = arguments[1 : 1 + _ROWS[kind]], arguments[5:8]
        before = b.block
        each_run, each_term, run_done, done = (
            b.append_basic_block(name) for name in ("run", "term", "next", "done")
        )
        b.branch(each_run)

        b.position_at_end(each_run)
        r, first_k = b.phi(_I64), b.phi(_I64)
        carried = [[b.phi(form) for form in forms] for _ in bases]
        starts = [b.add(base, b.mul(r, stride)) for base in bases]
        b.branch(each_term)

        b.position_at_end(each_term)
        j, k = b.phi(_I64), b.phi(_I64)
        sums = [[b.phi(form) for form in forms] for _ in bases]
        w = _panel_row(o, kind, panel, k)
        added = [
            _multiply_add(o, kind, s, x, b.add(start, j), w)
            for s, start in zip(sums, starts, strict=True)
        ]
        next_j, next_k = b.add(j, o.number(1)), b.add(k, o.number(1))
        b.cbranch(b.icmp_signed("<", next_j, run), each_term, run_done)

        b.position_at_end(run_done)
        next_r = b.add(r, o.number(1))
        b.cbranch(b.icmp_signed("<", next_r, runs), each_run, done)

        zeros = [[ir.Constant(form, [0] * form.count) for form in forms] for _ in bases]
        _join(before, run_done, [r, first_k], [o.number(0)] * 2, [next_r, next_k])
        _join(each_run, each_term, [j, k], [o.number(0), first_k], [next_j, next_k])
        for outer, inner, zero, new in zip(carried, sums, zeros, added, strict=True):
            _join(before, run_done, outer, zero, new)
            _join(each_run, each_term, inner, outer, new)
        b.position_at_end(done)
        for row, total in enumerate(added):
            _write(o, kind, total, out, row)

    return tile


def _join(
    before: ir.Block,
    back: ir.Block,
    phis: list[ir.Value],
    first: list[ir.Value],
    again: list[ir.Value],
) -> None:
    for phi, start, new in zip(phis, first, again, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(new, back)


_tile_0, _tile_1, _tile_2 = (_tile(kind) for kind in range(3))
_BASES = types.Array(types.int64, 1, "C", readonly=True)
# Rows whose left operand is used with every panel before the next: it stays in the second-level
# cache.
_CHUNK = 48


@compiled(index, index, _BASES, index, index, index, index, word, OutWords2)
def product(kind, x, base, runs, run, stride, panels, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """out[r, c] = sum_k x[r, k] w[k, c] & mask; `x` and `panels` are addresses."""
    rows, columns = out.shape
    width, height = (16, 4) if kind == 0 else (8, 3)
    step = run * runs * (64 if kind == 0 else 96 if kind == 1 else 128)
    narrow, wide = np.empty((4, 16), np.uint32), np.empty((4, 8), np.uint64)
    target = narrow.ctypes.data if kind == 0 else wide.ctypes.data
    for first in range(0, rows, _CHUNK):
        last = min(first + _CHUNK, rows)
        for p in range((columns + width - 1) // width):
            panel, left = panels + p * step, min(width, columns - p * width)
            for r in range(first, last, height):
                # Past the last row the tile repeats it; the result there is not written.
                a, b = base[r], base[min(r + 1, rows - 1)]
                c, d = base[min(r + 2, rows - 1)], base[min(r + 3, rows - 1)]
                if kind == 0:
                    _tile_0(x, a, b, c, d, runs, run, stride, panel, target)
                    for i in range(min(height, last - r)):
                        for j in range(left):
                            out[r + i, p * width + j] = np.uint64(narrow[i, j]) & mask
                    continue
                if kind == 1:
                    _tile_1(x, a, b, c, d, runs, run, stride, panel, target)
                else:
                    _tile_2(x, a, b, c, d, runs, run, stride, panel, target)
                for i in range(min(height, last - r)):
                    if left == 8:  # a constant length is one or two vectors
                        for j in range(8):
                            out[r + i, p * width + j] = wide[i, j] & mask
                    else:
                        for j in range(left):
                            out[r + i, p * width + j] = wide[i, j] & mask


@compiled(index, index, index, index, index, word, OutLanes3)
def products(kind, x, run, panels, step, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """out[b] = x[b] @ w[b] & mask: addresses of x (b, rows, run) and of panels, `step` apart."""
    rows = out.shape[1]
    base = np.arange(rows) * run
    matrix_bytes = rows * run * (4 if kind == 0 else 8)
    for s in range(out.shape[0]):
        product(kind, x + s * matrix_bytes, base, 1, run, 0, panels + s * step, mask, out[s])
