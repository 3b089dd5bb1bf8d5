"""A network's weights as ring elements; the mode `fixed`, a program in the clear on integers."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from gpumpc.program.program import Program
from gpumpc.protocols.step import Clear
from gpumpc.ring.backend import Backend, Words
from gpumpc.ring.fixed_point import decode, encode, signed

LayerIntegers = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]
Integers = Mapping[str, LayerIntegers]

# Entries that are rounded, or bounded, at a time: 32 MiB of float64.
BLOCK_ENTRIES = 1 << 22


class _EncodedWeights(Mapping[str, LayerIntegers]):
    """(weight, bias) by layer, made when it is asked for and kept by nobody.

    The integers of a whole network take twice the memory of its float32 weights.
    """

    def __init__(self, program: Program, weights: Mapping[str, npt.NDArray[np.floating]]) -> None:
        self._specs, self._weights = program.weights, weights

    def __getitem__(self, layer: str) -> LayerIntegers:
        spec = self._specs[layer]
        parts = ("weight", spec.weight_scale), ("bias", spec.bias_scale)
        weight, bias = (
            _encoded(
                self._weights[f"{layer}.{part}"], scale, spec.bits, f"the {part} of layer '{layer}'"
            )
            for part, scale in parts
        )
        return weight, bias

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def integer_weights(program: Program, weights: Mapping[str, npt.NDArray[np.floating]]) -> Integers:
    """(weight, bias) of every layer, rounded to the program's scales, modulo 2^k.

    A layer's integers are made each time they are asked for. That raises BadValue for NaN,
    OutOfRange for a weight that does not fit the ring.
    """
    return _EncodedWeights(program, weights)


def row_blocks(n_rows: int, row_entries: int) -> Iterator[slice]:
    """Slices that cover `n_rows` rows, each of about BLOCK_ENTRIES entries, at least one row."""
    step = max(1, BLOCK_ENTRIES // max(1, row_entries))
    return (slice(start, start + step) for start in range(0, n_rows, step))


def _encoded(
    values: npt.NDArray[np.floating], scale: float, bits: int, name: str
) -> npt.NDArray[np.uint64]:
    """`encode` by blocks, so that no second copy of a large array is made."""
    words = np.empty(values.shape, dtype=np.uint64)
    for rows in row_blocks(len(values), values[:1].size):
        words[rows] = encode(values[rows], scale, bits, name)
    return words


class _Uploaded(Mapping[str, tuple[Words, Words]]):
    """A layer's integers at the backend, made when its step needs them and kept by nobody."""

    def __init__(self, backend: Backend, integers: Integers) -> None:
        self._backend, self._integers = backend, integers

    def __getitem__(self, layer: str) -> tuple[Words, Words]:
        weight, bias = self._integers[layer]
        return self._backend.upload(weight), self._backend.upload(bias)

    def __iter__(self) -> Iterator[str]:
        return iter(self._integers)

    def __len__(self) -> int:
        return len(self._integers)


def evaluate_fixed(
    program: Program, weights: Integers, x: npt.NDArray[np.float64], backend: Backend
) -> npt.NDArray[np.float64]:
    """The program in the clear, truncations to nearest: real input (B, ..) in, real result out."""
    lifted = signed(encode_input(program, x), program.input.bits).view(np.uint64)
    result = program.plain(Clear(backend, _Uploaded(backend, weights)), backend.upload(lifted))
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
