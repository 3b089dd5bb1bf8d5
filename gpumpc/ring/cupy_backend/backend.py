"""The GPU backend as one object."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpumpc.ring.cupy_backend.device import CupyDevice, Device, Words
from gpumpc.ring.cupy_backend.fused import Fused
from gpumpc.ring.cupy_backend.operands import Operand


class CupyBackend(Fused):
    """Words are arrays of the device; operands are words, limb planes, or both."""

    def __init__(self, device: Device | None = None) -> None:
        super().__init__(device or CupyDevice())
        # `cupy`, or the name of the device that stands for it.
        self.name = self.device.name

    def fork(self) -> CupyBackend:
        return CupyBackend(self.device.fork())

    def synchronize(self) -> None:
        self.device.synchronize()

    def upload(self, host: npt.ArrayLike) -> Words:
        return self.uploaded(np.asarray(host, dtype=np.uint64))

    def download(self, words: Words | Operand) -> npt.NDArray[np.uint64]:
        plain = words.words if isinstance(words, Operand) else self.words(words)
        return self.device.download(plain)
