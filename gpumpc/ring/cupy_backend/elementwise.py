"""Arithmetic on words: reductions, constants, signs, indices, windows."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, InputError
from gpumpc.ring.backend import Pair
from gpumpc.ring.cupy_backend.base import BLOCK, Base, bit_mask, blocks_of
from gpumpc.ring.cupy_backend.device import DeviceArray, Words


class Elementwise(Base):
    """The contract's `Arithmetic`, and `truncate`."""

    def truncate(
        self, words: Words, k: int, shift: int, party: int, out: Words | None = None
    ) -> Words:
        if not 0 <= shift < 64 or k < shift:
            hint = "shift by fewer bits than it has"
            raise InputError(f"a share modulo 2^{k} cannot be shifted by {shift}", hint=hint)
        round_up = (1 << shift) - 1 if party == 0 else 0
        return self.elementwise_into(out, "truncate", words, round_up, bit_mask(k), shift)

    def reduce(self, words: Words, bits: int, out: Words | None = None) -> Words:
        return self.elementwise_into(out, "affine", words, 1, 0, bit_mask(bits))

    def add_constant(self, words: Words, value: int, bits: int) -> Words:
        return self.elementwise_into(None, "affine", words, 1, value % (1 << 64), bit_mask(bits))

    def scale(self, words: Words, factor: int, bits: int) -> Words:
        return self.elementwise_into(None, "affine", words, factor % (1 << 64), 0, bit_mask(bits))

    def sign_extend(self, words: Words, bits: int) -> Words:
        return self.elementwise_into(None, "signed_shift", words, 64 - bits, 64 - bits)

    def shift_signed(self, words: Words, shift: int) -> Words:
        return self.elementwise_into(None, "signed_shift", words, 0, shift)

    def argmax_signed(self, words: Words) -> Words:
        words = self.words(words)
        if not words.shape or not words.shape[-1]:
            what = f"the largest of no entries, in shape {tuple(words.shape)}"
            raise BadShape(what, hint="pass one entry at least")
        out = self.new(words.shape[:-1])
        rows = math.prod(out.shape)
        self.launch("argmax_signed", blocks_of(rows, 8), words, out, rows, words.shape[-1])
        return out

    def smallest_signed(self, words: Words, k: int) -> Words:
        # Only `plain` sorts, in the clear, so the library's sort serves.
        ordered: Words = self.device.arrays.sort(self.words(words).view(np.int64), axis=-1)
        return self.contiguous(ordered[..., :k]).view(np.uint64)

    def counting(self, n: int) -> Words:
        self.device.enter()
        array: Words = self.device.arrays.arange(n, dtype=np.uint64)
        return array

    def _index(self, index: npt.ArrayLike, length: int) -> DeviceArray:
        """A host index on the device, every entry checked."""
        host = np.ascontiguousarray(index, dtype=np.int64)
        if host.size and not (0 <= int(host.min()) and int(host.max()) < length):
            raise BadShape(f"an index reaches outside {length} entries", hint="use indices from 0")
        return self.uploaded(host)

    def gather(self, words: Words, index: npt.NDArray[np.int64]) -> Words:
        words = self.words(words)
        rows, length = words.shape
        places = self._index(index, length)
        if len(places) != rows:
            hint = "give every row its indices"
            raise BadShape(f"an index of {len(places)} rows for {rows} rows", hint=hint)
        out = self.new(places.shape)
        return self.elementwise("gather", [words, places], out, length, max(1, places.shape[1]))

    def take(self, words: Words, index: Sequence[int], axis: int) -> Words:
        words = self.words(words)
        axis %= words.ndim
        length = words.shape[axis]
        places = self._index(index, length)
        out = self.new((*words.shape[:axis], len(places), *words.shape[axis + 1 :]))
        scalars = length, max(1, len(places)), max(1, math.prod(words.shape[axis + 1 :]))
        return self.elementwise("take_axis", [words, places], out, *scalars)

    def permute(self, words: Words, axes: Sequence[int]) -> Words:
        turned = self.device.arrays.transpose(self.words(words), axes)
        return self.contiguous(turned)

    def window_sum(self, words: Words, window: Pair, stride: Pair) -> Words:
        words = self.words(words)
        (b, h, w, c), (kh, kw), (sy, sx) = words.shape, window, stride
        if kh > h or kw > w:
            what = f"a window {window} does not fit an image of {(h, w)}"
            raise BadShape(what, hint="use a smaller window")
        ho, wo = (h - kh) // sy + 1, (w - kw) // sx + 1
        out = self.new((b, ho, wo, c))
        n = math.prod(out.shape)
        place = n, h, w, c, ho, wo, kh, kw, sy, sx
        self.launch("window_sum", blocks_of(n, BLOCK), words, out, *place)
        return out
