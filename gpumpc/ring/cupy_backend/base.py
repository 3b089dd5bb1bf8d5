"""What the parts of the backend share: the device, the launcher, and arrays as kernels take
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpumpc.errors import BadShape, InputError
from gpumpc.ring.backend import Words
from gpumpc.ring.cupy_backend.device import Device
from gpumpc.ring.cupy_backend.launcher import Launcher
from gpumpc.ring.fixed_point import mask

BLOCK = 1024  # elements of one block of the element-wise kernels
THREADS = 256


def blocks_of(n: int, per_block: int) -> int:
    """Blocks that cover n."""
    return -(-n // per_block)


def keep(bits: int) -> int:
    """2^bits - 1, as kernels take a modulus."""
    if not 0 <= bits <= 64:
        raise InputError(f"{bits} bits of a word were asked for", "a word has 64", "choose 0 to 64")
    return int(mask(bits))


def quad_blocks(n_bytes: int) -> int:
    """Blocks of the kernels that write four bytes of a plane a thread, and count them in 32 bits.

    Raises BadShape.
    """
    if n_bytes >= 4 << 32:
        raise BadShape(
            f"a plane of {n_bytes} bytes",
            "kernels count them in fours, in 32 bits",
            "use a smaller batch",
        )
    return blocks_of(n_bytes, 4 * THREADS)


class Base:
    """Device, launcher, and the few conversions."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.launch = Launcher(device)

    def words(self, value: Any) -> Words:
        """Contiguous words on the device; host arrays are copied there.

        Raises InputError for another type.
        """
        self.device.enter()
        if not self.device.owns(value):
            value = self.device.upload(np.ascontiguousarray(value))
        if value.dtype != np.uint64:
            raise InputError(
                f"an array of {value.dtype} was used as ring elements",
                "they are uint64",
                "convert it first",
            )
        return self.device.arrays.ascontiguousarray(value)

    def new(self, shape: Sequence[int], dtype: type = np.uint64) -> Any:
        """An array that a kernel is about to write."""
        self.device.enter()
        return self.device.empty(tuple(shape), dtype)

    def target(self, shape: Sequence[int], out: Words | None) -> Words:
        """`out` if a kernel can write it, or a new array that `deliver` copies. Raises BadShape."""
        if out is None:
            return self.new(shape)
        if not self.device.owns(out) or out.dtype != np.uint64 or tuple(out.shape) != tuple(shape):
            raise BadShape(
                f"'out' is no array of {tuple(shape)} words of this device",
                hint="pass one of the input's shape",
            )
        return out if out.flags.c_contiguous else self.new(shape)

    def deliver(self, written: Words, out: Words | None) -> Words:
        """What was asked for: `out`, if it was given."""
        if out is None or written is out:
            return written
        out[...] = written
        return out

    def broadcast(self, *values: Words) -> list[Words]:
        """Arrays of the shape that NumPy's rules give them. Raises BadShape where there is none."""
        arrays = self.device.arrays
        try:
            return [arrays.ascontiguousarray(value) for value in arrays.broadcast_arrays(*values)]
        except ValueError as error:
            shapes = [tuple(value.shape) for value in values]
            raise BadShape(f"shapes {shapes} do not go together", hint="make them fit") from error

    def same_shape(self, what: str, *arrays: Any) -> None:
        """Raises BadShape unless all arrays have the first one's shape."""
        shapes = [tuple(array.shape) for array in arrays]
        if any(shape != shapes[0] for shape in shapes):
            raise BadShape(
                f"{what} was asked of shapes {shapes}",
                "it works element by element",
                "use arrays of one shape",
            )

    def each(self, name: str, inputs: Sequence[Words], out: Words, *scalars: int) -> Words:
        """Launch an element-wise kernel: inputs, out, n, scalars."""
        n = math.prod(out.shape)
        self.launch(name, blocks_of(n, BLOCK), *inputs, out, n, *scalars)
        return out
