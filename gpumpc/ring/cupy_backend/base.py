"""The device, the launcher, and arrays as kernels take them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadFrame, BadShape, InputError
from gpumpc.ring.cupy_backend.device import Device, DeviceArray
from gpumpc.ring.cupy_backend.launcher import Launcher
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.values import Shaped

BLOCK = 1024  # elements of one block of the element-wise kernels
THREADS = 256


def blocks_of(n: int, per_block: int) -> int:
    """Blocks that cover n."""
    return -(-n // per_block)


def bit_mask(bits: int) -> int:
    """2^bits - 1, as kernels take a modulus. Raises InputError beyond a word's 64 bits."""
    if not 0 <= bits <= 64:
        raise InputError(f"{bits} bits of a word were asked for", "a word has 64", "choose 0 to 64")
    return int(mask(bits))


def quad_blocks(n_bytes: int) -> int:
    """Blocks of kernels that write four bytes of a plane a thread. Raises BadShape past 32 bits."""
    if n_bytes >= 4 << 32:
        why = "kernels count them in fours, in 32 bits"
        raise BadShape(f"a plane of {n_bytes} bytes", why, "use a smaller batch")
    return blocks_of(n_bytes, 4 * THREADS)


class Base:
    """Conversions and element-wise launches that all operations share."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.launch = Launcher(device)

    def words(self, value: DeviceArray | npt.NDArray[np.uint64]) -> DeviceArray:
        """Contiguous words on the device, host arrays copied. Raises InputError for other types."""
        self.device.enter()
        array = value if self.device.owns(value) else self.uploaded(np.asarray(value))
        if array.dtype != np.uint64:
            what = f"an array of {array.dtype} was used as ring elements"
            raise InputError(what, "they are uint64", "convert it first")
        return self.contiguous(array)

    def uploaded(self, host: npt.NDArray[np.generic]) -> DeviceArray:
        """A host array on the device."""
        self.device.enter()
        return self.device.upload(np.ascontiguousarray(host))

    def received(self, packed: memoryview, n_bytes: int) -> DeviceArray:
        """The bytes of a message on the device. Raises BadFrame where their number is another."""
        buffer = np.frombuffer(packed, dtype=np.uint8)
        if buffer.size != n_bytes:
            raise BadFrame(f"{buffer.size} packed bytes arrived where {n_bytes} were expected")
        return self.uploaded(buffer)

    def contiguous(self, array: DeviceArray) -> DeviceArray:
        """The array itself, or a contiguous copy."""
        found: DeviceArray = self.device.arrays.ascontiguousarray(array)
        return found

    def new(self, shape: Sequence[int], dtype: type = np.uint64) -> DeviceArray:
        """An array that a kernel is about to write."""
        self.device.enter()
        return self.device.empty(tuple(shape), dtype)

    def zeros(self, shape: Sequence[int]) -> DeviceArray:
        self.device.enter()
        array: DeviceArray = self.device.arrays.zeros(shape, dtype=np.uint64)
        return array

    def concat(self, parts: Sequence[DeviceArray], axis: int) -> DeviceArray:
        words = [self.words(part) for part in parts]
        joined: DeviceArray = self.device.arrays.concatenate(words, axis=axis)
        return joined

    def broadcast(self, *values: DeviceArray) -> list[DeviceArray]:
        """Arrays of the shape that NumPy's rules give them. Raises BadShape where there is none."""
        try:
            arrays = self.device.arrays.broadcast_arrays(*values)
        except ValueError as error:
            shapes = [tuple(value.shape) for value in values]
            raise BadShape(f"shapes {shapes} do not go together", hint="make them fit") from error
        return [self.contiguous(array) for array in arrays]

    def same_shape(self, what: str, *arrays: Shaped) -> None:
        """Raises BadShape unless all arrays have the first one's shape."""
        shapes = [tuple(array.shape) for array in arrays]
        if any(shape != shapes[0] for shape in shapes):
            why, hint = "it works element by element", "use arrays of one shape"
            raise BadShape(f"{what} was asked of shapes {shapes}", why, hint)

    def elementwise(
        self, name: str, inputs: Sequence[DeviceArray], out: DeviceArray, *scalars: int
    ) -> DeviceArray:
        """Launch an element-wise kernel: inputs, out, n, scalars."""
        n = math.prod(out.shape)
        self.launch(name, blocks_of(n, BLOCK), *inputs, out, n, *scalars)
        return out

    def elementwise_into(
        self, out: DeviceArray | None, name: str, words: DeviceArray, *scalars: int
    ) -> DeviceArray:
        """An element-wise kernel of one input that writes `out` where it is given.

        Raises BadShape where `out` is of another shape or type.
        """
        words = self.words(words)
        if out is None:
            return self.elementwise(name, [words], self.new(words.shape), *scalars)
        is_words = self.device.owns(out) and out.dtype == np.uint64
        if not is_words or tuple(out.shape) != tuple(words.shape):
            what = f"'out' is not an array of {tuple(words.shape)} words of this device"
            raise BadShape(what, hint="pass one of the input's shape")
        if out.flags.c_contiguous:
            return self.elementwise(name, [words], out, *scalars)
        out[...] = self.elementwise(name, [words], self.new(words.shape), *scalars)
        return out
