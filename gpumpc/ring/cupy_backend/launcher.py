"""Launches with every argument checked against the kernel's declaration, and counted."""

import collections

import numpy as np

from gpumpc.errors import BadShape, InputError
from gpumpc.ring import kernels
from gpumpc.ring.cupy_backend.device import Argument, Device, DeviceArray

MAX_BLOCKS = (1 << 31) - 1
_BUG = "this is a bug in the backend: please report it"


class Launcher:
    """Calls kernels of one device.

    `launched` counts them by name: tests ask which kernel a shape was sent to.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.launched: collections.Counter[str] = collections.Counter()

    def __call__(self, name: str, blocks: int, *arguments: DeviceArray | int | None) -> None:
        """Run a kernel; nothing happens where there are no blocks. Raises InputError, BadShape."""
        kernel = kernels.catalogue()[name]
        if len(arguments) != len(kernel.parameters):
            what = f"{name} takes {len(kernel.parameters)} arguments and got {len(arguments)}"
            raise InputError(what, hint=_BUG)
        pairs = zip(kernel.parameters, arguments, strict=True)
        checked = [self._checked(name, *pair) for pair in pairs]
        if blocks > MAX_BLOCKS:
            why, hint = "a launch has fewer than 2^31", "use a smaller batch"
            raise BadShape(f"{name} would need {blocks} blocks", why, hint)
        if blocks > 0:
            self.launched[name] += 1
            self.device.launch(kernel, blocks, checked)

    def _checked(self, name: str, parameter: kernels.Parameter, value: object) -> Argument:
        where = f"argument '{parameter.name}' of {name}"
        if not parameter.is_pointer:
            return _scalar(where, parameter.dtype, value)
        if value is None:
            return None
        if not self.device.owns(value):
            raise InputError(f"{where} is not an array of this device", hint=_BUG)
        if value.dtype != parameter.dtype:
            raise InputError(f"{where} holds {value.dtype}, not {parameter.dtype}", hint=_BUG)
        if not value.flags.c_contiguous:
            raise BadShape(f"{where} is not contiguous", hint=_BUG)
        return value


def _scalar(where: str, dtype: np.dtype, value: object) -> np.generic:
    """A scalar of exactly this type: a kernel reads as many bytes as it declares."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        limits = np.iinfo(dtype)
        if limits.min <= int(value) <= limits.max:
            scalar: np.generic = dtype.type(value)
            return scalar
    raise InputError(f"{where} is not a number of type {dtype}", hint=_BUG)
