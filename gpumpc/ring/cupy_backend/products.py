"""Products modulo 2^bits: which kernel a shape is sent to, and how long sums are cut.

Tensor cores multiply bytes: from 16 rows, columns and terms on they win over the integer pipe by
far. A short left operand is bound by reading the right one; depthwise windows share nothing; groups
and tiny shapes stay on the integer pipe.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from gpumpc.errors import BadShape
from gpumpc.ring.backend import Padding, Pair
from gpumpc.ring.cupy_backend.base import BLOCK, THREADS, Base, bit_mask, blocks_of, quad_blocks
from gpumpc.ring.cupy_backend.device import DeviceArray, Words
from gpumpc.ring.cupy_backend.operands import SLICE, Operand, limbs_for, padded

Pairs = Sequence[tuple[Operand | Words, Operand | Words]]
TILE = 64
FEWEST = 16  # rows, columns and terms from which tensor cores are used
FEW_ROWS = 8  # what `distances` holds in registers
# Terms of one launch, from the bound of kernels/limb_mma.cuh.
MAX_TERMS = {4: 1 << 30, 5: 66048, 6: 33024, 8: 16512}


@dataclasses.dataclass(frozen=True)
class _Addends:
    """Words of the result's shape, and a bias a column, that the last kernel adds."""

    plus: Words | None
    bias: Words | None


@dataclasses.dataclass(frozen=True)
class Window:
    """Geometry of a convolution."""

    image: tuple[int, int, int, int]
    kernel: Pair
    stride: Pair
    padding: Padding
    channels: int

    @property
    def steps(self) -> tuple[int, int, int, int]:
        """Stride and padding as kernels take them: rows and columns."""
        return *self.stride, self.padding[0], self.padding[2]

    @property
    def out(self) -> tuple[int, int, int, int]:
        """Shape of the result. Raises BadShape where the window does not fit."""
        (b, h, w, _), (kh, kw) = self.image, self.kernel
        top, bottom, left, right = self.padding
        rows, columns = h + top + bottom - kh, w + left + right - kw
        if rows < 0 or columns < 0 or min(self.stride) < 1 or min(self.padding) < 0:
            what = f"a window {self.kernel} does not fit an image of {(h, w)}"
            raise BadShape(what, f"padding {self.padding}", "pad more")
        return b, rows // self.stride[0] + 1, columns // self.stride[1] + 1, self.channels


class Products(Base):
    """The contract's `Products`; plain words serve as operands too."""

    def operand(self, words: Operand | Words, bits: int) -> Operand:
        if isinstance(words, Operand):
            return words.for_products_of(self)
        words = self.words(words)
        return Operand(self, tuple(words.shape), bits, words)

    def _both_words(self, x: Operand | Words, y: Operand | Words, bits: int) -> tuple[Words, Words]:
        return self.operand(x, bits).words, self.operand(y, bits).words

    def static(self, words: Words, bits: int) -> Operand:
        return self.operand(words, bits)

    def multiply(self, x: Operand | Words, w: Operand | Words, bits: int) -> Words:
        left, right = self._both_words(x, w, bits)
        if left.shape != right.shape:
            left, right = self.broadcast(left, right)
        return self.elementwise("product", [left, right], self.new(left.shape), bit_mask(bits))

    def row_dot(self, x: Operand | Words, y: Operand | Words, bits: int) -> Words:
        left, right = self._both_words(x, y, bits)
        self.same_shape("a dot product of rows", left, right)
        rows, depth = left.shape
        out = self.new((rows,))
        self.launch("row_dot", blocks_of(rows, 8), left, right, out, rows, depth, bit_mask(bits))
        return out

    # matrix products

    def matmul(self, x: Operand | Words, w: Operand | Words, bits: int) -> Words:
        return self.matmul_sum([(x, w)], bits)

    def matmul_sum(
        self, pairs: Pairs, bits: int, plus: Words | None = None, bias: Words | None = None
    ) -> Words:
        operands = [(self.operand(x, bits), self.operand(w, bits)) for x, w in pairs]
        (m, depth), (depth_w, n) = operands[0][0].shape, operands[0][1].shape
        shapes = [(x.shape, w.shape) for x, w in operands]
        if depth != depth_w or any(pair != ((m, depth), (depth, n)) for pair in shapes):
            raise BadShape(f"a product of shapes {shapes}", hint="make them fit")
        out, addends = self.new((m, n)), self._addends((m, n), plus, bias)
        sizes = m, depth, n, bit_mask(bits)
        if m <= FEW_ROWS:
            blocks = blocks_of(n, THREADS)
            for (x, w), term, column_bias in self._chain(operands, out, addends):
                self.launch("distances", blocks, x.words, w.words, out, term, column_bias, *sizes)
            return out
        if min(m, n, depth) < FEWEST:
            blocks = blocks_of(m, TILE) * blocks_of(n, TILE)
            for (x, w), term, column_bias in self._chain(operands, out, addends):
                self.launch("ring_gemm", blocks, x.words, w.words, out, term, column_bias, *sizes)
            return out
        limbs = limbs_for(bits)
        planes = [(x.rows(limbs), w.columns(limbs)) for x, w in operands]
        self._limb_gemm(limbs, planes, out, (m, n, padded(depth)), bits, addends)
        return out

    def sum_of(self, x: Operand | Words, y: Operand | Words, bits: int) -> Operand:
        left, right = self._both_words(x, y, bits)
        self.same_shape("a sum of operands", left, right)
        words = self.elementwise("add", [left, right], self.new(left.shape), bit_mask(bits))
        return self.operand(words, bits)

    def _addends(self, shape: tuple[int, ...], plus: Words | None, bias: Words | None) -> _Addends:
        """Checked for a result of this shape. Raises BadShape."""
        if bias is not None:
            bias = self.words(bias)
            if bias.shape != shape[-1:]:
                what = f"a bias of shape {tuple(bias.shape)} for rows of {shape[-1:]}"
                raise BadShape(what, "it has an entry a column", "make it fit")
        if plus is not None:
            plus = self.words(plus)
            if tuple(plus.shape) != shape:
                what = f"{tuple(plus.shape)} words were to be added to {shape}"
                raise BadShape(what, hint="make them fit")
        return _Addends(plus, bias)

    @staticmethod
    def _chain(
        operands: list[tuple[Operand, Operand]], out: Words, addends: _Addends
    ) -> Iterator[tuple[tuple[Operand, Operand], Words | None, Words | None]]:
        """Launches that add up: each takes the sum so far, the first `plus`, the last the bias."""
        for i, pair in enumerate(operands):
            yield pair, out if i else addends.plus, addends.bias if i + 1 == len(operands) else None

    def _cut(self, limbs: int, n_pairs: int, slices: int) -> Iterator[tuple[int, int]]:
        """(first slice, how many) of each launch."""
        most = MAX_TERMS[limbs] // SLICE // n_pairs
        return ((first, min(most, slices - first)) for first in range(0, slices, most))

    def _limb_gemm(
        self,
        limbs: int,
        planes: list[tuple[DeviceArray, DeviceArray]],
        out: Words,
        sizes: tuple[int, int, int],
        bits: int,
        addends: _Addends,
    ) -> None:
        m, n, width = sizes
        slices = width // SLICE
        pointers = [*planes[0], *(planes[1] if len(planes) > 1 else (None, None))]
        term, name = addends.plus, f"limb_gemm_l{limbs}"
        blocks = blocks_of(m, TILE) * blocks_of(n, TILE)
        for first, count in self._cut(limbs, len(planes), slices):
            bias = addends.bias if first + count == slices else None
            part = first, count, bit_mask(bits)
            self.launch(name, blocks, *pointers, out, term, bias, m, n, width, *part)
            term = out

    # convolutions

    def conv2d(
        self,
        x: Operand | Words,
        w: Operand | Words,
        stride: Pair,
        padding: Padding,
        groups: int,
        bits: int,
    ) -> Words:
        return self.conv2d_sum([(x, w)], stride, padding, groups, bits)

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
        operands = [(self.operand(x, bits), self.operand(w, bits)) for x, w in pairs]
        image, (kh, kw, per_group, c_out) = operands[0][0].shape, operands[0][1].shape
        if image[3] != per_group * groups or c_out % groups:
            what = f"a convolution of {image} with {(kh, kw, per_group, c_out)} in {groups} groups"
            raise BadShape(what, hint="make them fit")
        for x, w in operands[1:]:
            self.same_shape("a sum of convolutions", operands[0][0], x)
            self.same_shape("a sum of convolutions", operands[0][1], w)
        window = Window((image[0], image[1], image[2], image[3]), (kh, kw), stride, padding, c_out)
        out, addends = self.new(window.out), self._addends(window.out, plus, bias)
        if groups > 1 and per_group == 1 and c_out == groups:
            self._depthwise(operands, window, out, bits, addends)
        elif groups > 1 or min(math.prod(window.out[:3]), c_out, kh * kw * per_group) < FEWEST:
            self._ring_conv(operands, window, groups, out, bits, addends)
        else:
            self._limb_conv(operands, window, out, bits, addends)
        return out

    def _depthwise(
        self,
        operands: list[tuple[Operand, Operand]],
        window: Window,
        out: Words,
        bits: int,
        addends: _Addends,
    ) -> None:
        (_, h, w, c), (_, ho, wo, _) = window.image, window.out
        n = math.prod(window.out)
        place = (n, h, w, c, ho, wo, *window.kernel, *window.steps, bit_mask(bits))
        blocks = blocks_of(n, BLOCK)
        for (x, weight), term, bias in self._chain(operands, out, addends):
            self.launch("depthwise", blocks, x.words, weight.words, out, term, bias, *place)

    def _ring_conv(
        self,
        operands: list[tuple[Operand, Operand]],
        window: Window,
        groups: int,
        out: Words,
        bits: int,
        addends: _Addends,
    ) -> None:
        (_, ho, wo, c_out), (kh, kw) = window.out, window.kernel
        rows = math.prod(window.out[:3])
        blocks = blocks_of(rows, TILE) * blocks_of(c_out // groups, TILE) * groups
        place = (*window.image, ho, wo, c_out, kw, kh * kw, *window.steps, groups, bit_mask(bits))
        for (x, weight), term, bias in self._chain(operands, out, addends):
            self.launch("ring_conv", blocks, x.words, weight.words, out, term, bias, *place)

    def _limb_conv(
        self,
        operands: list[tuple[Operand, Operand]],
        window: Window,
        out: Words,
        bits: int,
        addends: _Addends,
    ) -> None:
        limbs, (b, h, w, c) = limbs_for(bits), window.image
        (_, ho, wo, c_out), (kh, kw) = window.out, window.kernel
        rows, width = b * ho * wo, padded(c)
        is_flat = (kh, kw, window.stride, window.padding) == (1, 1, (1, 1), (0, 0, 0, 0))
        # A product already, or channels that padding would more than double: gather windows.
        if is_flat or 2 * c <= width:
            planes = []
            for x, y in operands:
                left = x.rows(limbs) if is_flat else self._windows(x, window, limbs)
                planes.append((left, y.columns(limbs, True)))
            self._limb_gemm(limbs, planes, out, (rows, c_out, padded(kh * kw * c)), bits, addends)
            return
        planes = [(x.rows(limbs), y.columns(limbs)) for x, y in operands]
        pointers = [*planes[0], *(planes[1] if len(planes) > 1 else (None, None))]
        place = (b, h, w, width, ho, wo, c_out, kw, kh * kw, *window.steps)
        blocks, slices = blocks_of(rows, TILE) * blocks_of(c_out, TILE), kh * kw * width // SLICE
        term, name = addends.plus, f"limb_conv_l{limbs}"
        for first, count in self._cut(limbs, len(operands), slices):
            bias = addends.bias if first + count == slices else None
            part = first, count, bit_mask(bits)
            self.launch(name, blocks, *pointers, out, term, bias, *place, *part)
            term = out

    def _windows(self, x: Operand, window: Window, limbs: int) -> DeviceArray:
        """Planes (limbs, pixels, padded kh kw c): every window a row."""
        (b, h, w, c), (_, ho, wo, _), (kh, kw) = window.image, window.out, window.kernel
        rows, width = b * ho * wo, padded(kh * kw * c)
        planes = self.new((limbs, rows, width), np.uint8)
        place = (rows, h, w, c, ho, wo, kh, kw, *window.steps, width, limbs)
        self.launch("split_windows", quad_blocks(rows * width), x.words, planes, *place)
        return planes
