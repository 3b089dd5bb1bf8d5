"""How a loop becomes machine code: once, before any timing, and kept on disk.

Every loop names its argument types, so it is compiled, or read from the cache, when its module is
imported: whoever holds a backend waits for no compiler later. Numba keeps the code beside the
sources, or in the user's cache folder where the installation cannot be written; where there is
neither, it is compiled again by every process.

The cache knows when the file of a function changes and nothing else: a loop calls only functions of
its own file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import config

word = types.uint64
index = types.int64
# Inputs may be read-only: the views of what came over the wire are.
Words = types.Array(types.uint64, 1, "C", readonly=True)
Words2 = types.Array(types.uint64, 2, "C", readonly=True)
Lanes3 = types.Array(types.uint64, 3, "C", readonly=True)
Bytes = types.Array(types.uint8, 1, "C", readonly=True)
OutWords = types.Array(types.uint64, 1, "C")
OutWords2 = types.Array(types.uint64, 2, "C")
OutLanes3 = types.Array(types.uint64, 3, "C")
OutBytes = types.Array(types.uint8, 1, "C")


def has_feature(name: str) -> bool:
    """Whether code is made for a processor with this feature: this machine's, or what Numba's
    environment names instead.
    """
    if config.CPU_FEATURES is not None:
        return f"+{name}" in config.CPU_FEATURES.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get(name, False))


def repeated(builder: Any, scalar: Any, form: Any) -> Any:
    """A vector of this form, the scalar in every place."""
    nothing = ir.Constant(form, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), form.count), [0] * form.count)
    )


def compiled(*arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """A loop over arrays of these types, without the interpreter's lock.

    Its result is what it wrote.
    """

    def compile_loop(function: Callable[..., Any]) -> Any:
        signature = types.void(*arguments)
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return numba.njit(signature, nogil=True)(function)

    return compile_loop
