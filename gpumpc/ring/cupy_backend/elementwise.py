"""Local steps: reductions, constants, signs, indices, windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpumpc.errors import BadShape, InputError
from gpumpc.ring.backend import Pair, Words
from gpumpc.ring.cupy_backend.base import BLOCK, Base, blocks_of, keep


class Local(Base):
    """What one server does alone."""

    def truncate(
        self, words: Words, k: int, shift: int, party: int, out: Words | None = None
    ) -> Words:
        if not 0 <= shift < 64 or k < shift:
            raise InputError(
                f"a share modulo 2^{k} cannot be shifted by {shift}",
                hint="shift by fewer bits than it has",
            )
        words = self.words(words)
        round_up = (1 << shift) - 1 if party == 0 else 0
        target = self.target(words.shape, out)
        return self.deliver(self.each("truncate", [words], target, round_up, keep(k), shift), out)

    def reduce(self, words: Words, bits: int, out: Words | None = None) -> Words:
        words = self.words(words)
        target = self.target(words.shape, out)
        return self.deliver(self.each("affine", [words], target, 1, 0, keep(bits)), out)

    def add_constant(self, words: Words, value: int, bits: int) -> Words:
        words = self.words(words)
        return self.each("affine", [words], self.new(words.shape), 1, value % (1 << 64), keep(bits))

    def scale(self, words: Words, factor: int, bits: int) -> Words:
        words = self.words(words)
        return self.each(
            "affine", [words], self.new(words.shape), factor % (1 << 64), 0, keep(bits)
        )

    def sign_extend(self, words: Words, bits: int) -> Words:
        words = self.words(words)
        return self.each("signed_shift", [words], self.new(words.shape), 64 - bits, 64 - bits)

    def shift_signed(self, words: Words, shift: int) -> Words:
        words = self.words(words)
        return self.each("signed_shift", [words], self.new(words.shape), 0, shift)

    def argmax_signed(self, words: Words) -> Words:
        words = self.words(words)
        if not words.shape or not words.shape[-1]:
            raise BadShape(
                f"the largest of no entries, in shape {tuple(words.shape)}",
                hint="pass one entry at least",
            )
        out = self.new(words.shape[:-1])
        rows = math.prod(out.shape)
        self.launch("argmax_signed", blocks_of(rows, 8), words, out, rows, words.shape[-1])
        return out

    def smallest_signed(self, words: Words, k: int) -> Words:
        # In the clear only, for `plain`: the library's sort serves.
        ordered = self.device.arrays.sort(self.words(words).view(np.int64), axis=-1)
        return self.device.arrays.ascontiguousarray(ordered[..., :k]).view(np.uint64)

    def zeros(self, shape: Sequence[int]) -> Words:
        self.device.enter()
        return self.device.arrays.zeros(shape, dtype=np.uint64)

    def counting(self, n: int) -> Words:
        self.device.enter()
        return self.device.arrays.arange(n, dtype=np.uint64)

    def _index(self, index: Any, length: int) -> Any:
        """A host index on the device, every entry checked."""
        host = np.ascontiguousarray(index, dtype=np.int64)
        if host.size and not (0 <= int(host.min()) and int(host.max()) < length):
            raise BadShape(f"an index reaches outside {length} entries", hint="use indices from 0")
        self.device.enter()
        return self.device.upload(host)

    def gather(self, words: Words, index: Any) -> Words:
        words = self.words(words)
        rows, length = words.shape
        places = self._index(index, length)
        if len(places) != rows:
            raise BadShape(
                f"an index of {len(places)} rows for {rows} rows", hint="give every row its indices"
            )
        out = self.new(places.shape)
        return self.each("gather", [words, places], out, length, max(1, places.shape[1]))

    def take(self, words: Words, index: Sequence[int], axis: int) -> Words:
        words = self.words(words)
        axis %= words.ndim
        length = words.shape[axis]
        places = self._index(index, length)
        out = self.new((*words.shape[:axis], len(places), *words.shape[axis + 1 :]))
        inner = max(1, math.prod(words.shape[axis + 1 :]))
        return self.each("take_axis", [words, places], out, length, max(1, len(places)), inner)

    def concat(self, parts: Sequence[Words], axis: int) -> Words:
        return self.device.arrays.concatenate([self.words(part) for part in parts], axis=axis)

    def window_sum(self, words: Words, window: Pair, stride: Pair) -> Words:
        words = self.words(words)
        (b, h, w, c), (kh, kw), (sy, sx) = words.shape, window, stride
        if kh > h or kw > w:
            raise BadShape(
                f"a window {window} does not fit an image of {(h, w)}", hint="use a smaller window"
            )
        ho, wo = (h - kh) // sy + 1, (w - kw) // sx + 1
        out = self.new((b, ho, wo, c))
        n = math.prod(out.shape)
        self.launch(
            "window_sum", blocks_of(n, BLOCK), words, out, n, h, w, c, ho, wo, kh, kw, sy, sx
        )
        return out
