"""The GPU backend: every operation of the contract as a kernel of `kernels/`, bound and checked
here.

`device` alone knows CuPy. A test swaps it for a device that executes the same kernels on the CPU;
everything else here is what runs on a GPU.
"""

from gpumpc.ring.cupy_backend.backend import CupyBackend

__all__ = ["CupyBackend"]
