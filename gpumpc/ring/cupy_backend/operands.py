"""Operands of products: words, limb planes, or both, each made from the other when needed.

Limb planes are what the tensor-core kernels read: planes[l] holds byte l of every word, rows padded
with zeros to a multiple of 32. A left operand keeps its last axis innermost ("rows"), a right
operand its first axes ("columns").
"""

from __future__ import annotations

import math
import threading
from typing import cast

import numpy as np

from gpumpc.ring.cupy_backend.base import BLOCK, Base, blocks_of, quad_blocks
from gpumpc.ring.cupy_backend.device import DeviceArray, Words

SLICE = 32
KERNEL_LIMBS = (4, 5, 6, 8)


def limbs_for(bits: int) -> int:
    """Limbs of the smallest kernel that is exact modulo 2^bits."""
    return next(limbs for limbs in KERNEL_LIMBS if 8 * limbs >= bits)


def padded(n: int) -> int:
    """The next multiple of 32."""
    return -(-n // SLICE) * SLICE


class Operand:
    """Words of `shape` modulo 2^bits in one form or both. Values do not print."""

    def __init__(
        self,
        base: Base,
        shape: tuple[int, ...],
        bits: int,
        words: Words | None = None,
        rows: DeviceArray | None = None,
    ) -> None:
        self._base, self.shape, self.bits = base, shape, bits
        self._words, self._rows = words, rows
        self._columns: tuple[DeviceArray, bool] | None = None
        # Several threads read static weights, and a plane that was replaced might still be read.
        self._making = threading.RLock()

    def for_products_of(self, base: Base) -> Operand:
        """Itself, or, for another backend than its own, an operand that waits for its stream."""
        return self if base is self._base else _Foreign(self, base)

    def __repr__(self) -> str:
        return f"Operand(shape={self.shape}, bits={self.bits}, <secret>)"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def words(self) -> Words:
        """As words."""
        with self._making:
            if self._words is None:
                # An operand has one of its forms from the start.
                rows = cast(DeviceArray, self._rows)
                out, n = self._base.new(self.shape), math.prod(self.shape)
                limbs, n_rows, width = rows.shape
                sizes = n_rows, self.shape[-1], width, limbs
                self._base.launch("join_rows", blocks_of(n, BLOCK), rows, out, *sizes)
                self._words = out
            return self._words

    def rows(self, limbs: int) -> DeviceArray:
        """Planes (limbs or more, rows, padded last axis)."""
        with self._making:
            if self._rows is None or len(self._rows) < limbs:
                depth = self.shape[-1]
                n_rows, width = math.prod(self.shape[:-1]), padded(depth)
                planes = self._base.new((limbs, n_rows, width), np.uint8)
                blocks, sizes = quad_blocks(n_rows * width), (n_rows, depth, width, limbs)
                self._base.launch("split_rows", blocks, self.words, planes, *sizes)
                self._rows = planes
            return self._rows

    def columns(self, limbs: int, flat: bool = False) -> DeviceArray:
        """Planes (limbs or more, columns, taps * padded depth) of ([kh, kw,] depth, columns).

        `flat` takes the taps as part of the depth, as gathered windows do.
        """
        with self._making:
            if self._columns is None or len(self._columns[0]) < limbs or self._columns[1] != flat:
                *taps, depth, n = self.shape
                n_taps = math.prod(taps)
                if flat:
                    depth, n_taps = depth * n_taps, 1
                width = padded(depth)
                planes = self._base.new((limbs, n, n_taps * width), np.uint8)
                blocks = blocks_of(n, 32) * (width // SLICE) * n_taps
                sizes = n_taps, depth, width, n, limbs
                self._base.launch("split_columns", blocks, self.words, planes, *sizes)
                self._columns = planes, flat
            return self._columns[0]


class _Foreign(Operand):
    """An operand of another stream: reading waits for it, then makes the own stream current."""

    def __init__(self, of: Operand, reader: Base) -> None:
        super().__init__(reader, of.shape, of.bits)
        self._of = of

    @property
    def words(self) -> Words:
        """As words."""
        return self._waited_for(self._of.words)

    def rows(self, limbs: int) -> DeviceArray:
        """As `Operand`."""
        return self._waited_for(self._of.rows(limbs))

    def columns(self, limbs: int, flat: bool = False) -> DeviceArray:
        """As `Operand`."""
        return self._waited_for(self._of.columns(limbs, flat))

    def _waited_for(self, array: DeviceArray) -> DeviceArray:
        self._of._base.device.synchronize()
        self._base.device.enter()
        return array
