"""An operand of products: words, limb planes, or both, each made from the other when it is first
needed.

Limb planes are what the tensor-core kernels read: planes[l] holds byte l of every word, rows padded
with zeros to a multiple of 32. A left operand keeps its last axis innermost ("rows"), a right
operand its first axes ("columns").
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from gpumpc.ring.backend import Words
from gpumpc.ring.cupy_backend.base import Base, blocks_of, quad_blocks

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
        self, base: Base, shape: tuple[int, ...], bits: int, words: Words | None, rows: Any = None
    ) -> None:
        self._base, self.shape, self.bits = base, shape, bits
        self._words, self._rows = words, rows
        self._columns: tuple[Any, bool] | None = None
        # Static weights are read by several threads; a plane that was replaced might still be read.
        self._making = threading.RLock()

    def seen_by(self, base: Base) -> Operand:
        """For products of `base`: itself, or what waits for the stream that makes a form when it is
        first needed.
        """
        return self if base is self._base else _Foreign(self, base)

    def __repr__(self) -> str:
        return f"Opened(shape={self.shape}, bits={self.bits}, <secret>)"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def words(self) -> Words:
        """As words."""
        with self._making:
            if self._words is None:
                base, depth = self._base, self.shape[-1]
                out = base.new(self.shape)
                limbs, n_rows, width = self._rows.shape
                n = math.prod(self.shape)
                base.launch(
                    "join_rows", blocks_of(n, 1024), self._rows, out, n_rows, depth, width, limbs
                )
                self._words = out
            return self._words

    def rows(self, limbs: int) -> Any:
        """Planes (limbs or more, rows, padded last axis)."""
        with self._making:
            if self._rows is None or len(self._rows) < limbs:
                depth = self.shape[-1]
                n_rows, width = math.prod(self.shape[:-1]), padded(depth)
                planes = self._base.new((limbs, n_rows, width), np.uint8)
                blocks = quad_blocks(n_rows * width)
                self._base.launch(
                    "split_rows", blocks, self.words, planes, n_rows, depth, width, limbs
                )
                self._rows = planes
            return self._rows

    def columns(self, limbs: int, flat: bool = False) -> Any:
        """Planes (limbs or more, columns, taps * padded depth) of (depth, columns) or (kh, kw,
        depth, columns).

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
                self._base.launch(
                    "split_columns", blocks, self.words, planes, n_taps, depth, width, n, limbs
                )
                self._columns = planes, flat
            return self._columns[0]


class _Foreign(Operand):
    """An operand of another stream, such as a static weight: that one is waited for, and the
    reader's is current again.
    """

    def __init__(self, of: Operand, reader: Base) -> None:
        super().__init__(reader, of.shape, of.bits, None)
        self._of = of

    @property
    def words(self) -> Words:
        """As words."""
        return self._settled(self._of.words)

    def rows(self, limbs: int) -> Any:
        """As `Opened`."""
        return self._settled(self._of.rows(limbs))

    def columns(self, limbs: int, flat: bool = False) -> Any:
        """As `Opened`."""
        return self._settled(self._of.columns(limbs, flat))

    def _settled(self, array: Any) -> Any:
        self._of._base.device.synchronize()
        self._base.device.enter()
        return array
