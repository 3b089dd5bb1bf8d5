"""How a loop becomes machine code: once, before any timing, and kept on disk.

Every loop names its argument types, so it is compiled, or read from the cache, when its module is
imported: no later call waits for a compiler. Numba keeps the code beside the
sources, or in the user's cache folder where the installation cannot be written; where there is
neither, it is compiled again by every process.

The cache knows when the file of a function changes and nothing else: a loop calls only functions of
its own file.
"""

import inspect
from collections.abc import Callable

import llvmlite.binding
import numba
from llvmlite import ir
from numba import extending, types
from numba.core import config
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature

word = types.uint64
index = types.int64
# Inputs may be read-only, as views of received messages are.
Words = types.Array(types.uint64, 1, "C", readonly=True)
Words2 = types.Array(types.uint64, 2, "C", readonly=True)
Lanes3 = types.Array(types.uint64, 3, "C", readonly=True)
Bytes = types.Array(types.uint8, 1, "C", readonly=True)
OutWords = types.Array(types.uint64, 1, "C")
OutWords2 = types.Array(types.uint64, 2, "C")
OutLanes3 = types.Array(types.uint64, 3, "C")
OutBytes = types.Array(types.uint8, 1, "C")


def has_feature(name: str) -> bool:
    """Whether code is made for a processor with this feature (Numba's environment may say so)."""
    if config.CPU_FEATURES is not None:
        return f"+{name}" in config.CPU_FEATURES.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get(name, False))


def repeated(builder: ir.IRBuilder, scalar: ir.Value, form: ir.Type) -> ir.Value:
    """A vector of this form, the scalar in every place."""
    nothing = ir.Constant(form, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), form.count), [0] * form.count)
    )


def intrinsic(
    result: types.Type, *parameters: types.Type
) -> Callable[[Callable[..., ir.Value]], Callable[..., int]]:
    """A function for loops that emits its own LLVM code: (builder, *arguments) -> value or None."""

    def make(emit: Callable[..., ir.Value]) -> Callable[..., int]:
        def generate(
            context: BaseContext,
            builder: ir.IRBuilder,
            signature: Signature,
            arguments: list[ir.Value],
        ) -> ir.Value:
            value = emit(builder, *arguments)
            return context.get_dummy_value() if value is None else value

        def typed(*_: object) -> tuple[Signature, Callable[..., ir.Value]]:
            return result(*parameters), generate

        # Numba reads the number of arguments from the signature, the typing context first.
        names = ("typing_context", *(f"argument{i}" for i in range(len(parameters))))
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typed.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]  # inspect reads it
        typed.__name__ = emit.__name__
        made: Callable[..., int] = extending.intrinsic(typed)
        return made

    return make


def compiled(*arguments: types.Type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A loop over arrays of these types, without the interpreter's lock.

    Its result is what it wrote.
    """

    def compile_loop(function: Callable[..., None]) -> Callable[..., None]:
        signature = types.void(*arguments)
        loop: Callable[..., None]
        try:
            loop = numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            loop = numba.njit(signature, nogil=True)(function)
        return loop

    return compile_loop
