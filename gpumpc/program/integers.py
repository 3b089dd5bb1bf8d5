"""A network's weights as ring elements; the mode `fixed`, a program in the clear on integers."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gpumpc.program.program import Program
from gpumpc.protocols.step import Clear
from gpumpc.ring.backend import Backend
from gpumpc.ring.fixed_point import decode, encode, signed

Integers = dict[str, tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]


def integer_weights(program: Program, weights: Mapping[str, npt.NDArray[np.floating]]) -> Integers:
    """(weight, bias) of every layer, rounded to the program's scales, modulo 2^k.

    Raises BadValue for NaN, OutOfRange for a weight that does not fit the ring.
    """

    def encoded(layer: str, part: str, scale: float, bits: int) -> npt.NDArray[np.uint64]:
        return encode(weights[f"{layer}.{part}"], scale, bits, f"the {part} of layer '{layer}'")

    return {
        layer: (
            encoded(layer, "weight", spec.weight_scale, spec.bits),
            encoded(layer, "bias", spec.bias_scale, spec.bits),
        )
        for layer, spec in program.weights.items()
    }


def evaluate_fixed(
    program: Program, weights: Integers, x: npt.NDArray[np.float64], backend: Backend
) -> npt.NDArray[np.float64]:
    """The program in the clear, truncations to nearest: real input (B, ..) in, real result out."""
    loaded = {name: (backend.upload(w), backend.upload(b)) for name, (w, b) in weights.items()}
    lifted = signed(encode_input(program, x), program.input.bits).view(np.uint64)
    result = program.plain(Clear(backend, loaded), backend.upload(lifted))
    return decode_result(program, backend.download(result))


def encode_input(program: Program, x: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Real input as ring words modulo 2^bits of the program's input."""
    return encode(x, program.input.scale, program.input.bits, "the input")


def decode_result(program: Program, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Ring words of the result as reals; an index (never negative) is read unsigned."""
    result = program.result
    if program.result_is_index:
        return np.asarray(words & np.uint64((1 << result.bits) - 1), dtype=np.float64)
    return decode(words, result.scale, result.bits)
