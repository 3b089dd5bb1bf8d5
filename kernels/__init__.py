"""CUDA sources, one op a file; found, inlined and compiled by `gpumpc.ring.kernels`."""
