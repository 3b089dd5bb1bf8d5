"""The GPU backend: every operation of the contract as a launch of a kernel of `kernels/`.

`device` alone knows CuPy. Tests swap it for a device that executes the same kernels on the CPU; all
other code here is the same on both.
"""

from gpumpc.ring.cupy_backend.backend import CupyBackend

__all__ = ["CupyBackend"]
