"""How many fraction bits a network needs, for a declared error of its output.

Two roundings make the error: of weights, which is small beside a layer's weights where they have
enough fraction bits for their size, and of activations, at 2^f. Each bit more halves both. So the
error is measured at a first guess, which tells how many bits are missing, and measured again.
"""

import hashlib
import math
from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadValue, OutOfRange, PlanError
from gpumpc.nn import graph as g
from gpumpc.nn.plaintext import Arrays, evaluate_float
from gpumpc.params import Params
from gpumpc.program.compiler import TRACED, Calibrated, compile_graph
from gpumpc.program.integers import evaluate_fixed, integer_weights
from gpumpc.program.lowering import compile_program
from gpumpc.program.plan import PlanRecord, Weights
from gpumpc.ring.choose import choose_backend
from gpumpc.ring.prg import expand

Floats = npt.NDArray[np.float64]

WIDEST_RING = 62
_FIRST_FRAC = 13
_TRIALS = 5
_SAMPLES = 8
# Side of the squares of one grey level in a made-up image: coarse ones differ more in the mean.
_SQUARES = (32, 16, 8, 4, 2, 1)


def compile_within(
    error: float,
    name: str,
    graph: g.Graph,
    weights: Arrays,
    params: Params,
    calibration: Calibrated | None = None,
) -> tuple[PlanRecord, Weights]:
    """A plan of the fewest fraction bits found whose measured `PlanRecord.error` is `error` or
    less, each layer's weights with the fraction bits that their size asks for.

    Args:
        error: largest error of an output entry, as a part of the spread of the outputs.
        calibration: measures bounds, and its first images the error; None: certified bounds, and
            the error of made-up images in the declared range.

    Raises:
        PlanError: the error cannot be reached in rings of 62 bits; says what can.
        BadValue: all images give one output, so that nothing can be measured.
    """
    if not isinstance(error, (int, float)) or not 0 < error < 1:
        why = "it is a part of the outputs' spread, between 0 and 1"
        raise BadValue(f"an error of {error!r} was asked for", why, "give a part, such as 0.01")
    images = _images(graph.input) if calibration is None else calibration.samples[:_SAMPLES]
    frac_bits, measured_at, best = _FIRST_FRAC, 0, math.inf
    for _ in range(_TRIALS):
        bits = {"ring_bits": _ring_bits(graph), "frac_bits": frac_bits}
        params = msgspec.structs.replace(params, **bits)
        try:
            plan, salted = compile_graph(
                name,
                graph,
                weights,
                params,
                calibration=calibration,
                weight_fracs=_weight_fracs(graph, weights, frac_bits),
            )
        except (PlanError, OutOfRange):
            if best == math.inf:
                raise
            # Too many bits: the middle tells more of what can be reached.
            frac_bits = (measured_at + frac_bits) // 2
        else:
            best, measured_at = output_error(plan, weights, images), frac_bits
            if best <= error:
                return msgspec.structs.replace(plan, error=best), salted
            more = max(1, math.ceil(math.log2(best / error)))
            frac_bits = min(frac_bits + more, (WIDEST_RING - 1) // 2)
        if frac_bits == measured_at:
            break
    raise _unreachable(error, best)


def output_error(plan: PlanRecord, weights: Arrays, images: npt.NDArray[np.floating]) -> float:
    """Largest error that fixed point makes in an entry of the output, as a part of the spread.

    The spread is an entry's standard deviation over the images, averaged over entries. Of a network
    that ends in a selection, the values are meant that it selects from. A truncation on shares has
    twice the variance of one to nearest, with which this is computed: hence a factor of sqrt(2).

    Raises BadValue where all images give one output.
    """
    layers = plan.graph.layers
    is_selection = isinstance(layers[-1], (g.Argmax, g.TopK))
    graph = g.Graph(layers[:-1]) if is_selection else plan.graph
    pairs = list(_both(graph, plan, weights, images))
    exact, fixed = (np.concatenate(side) for side in zip(*pairs, strict=True))
    spread = float(exact.std(axis=0).mean())
    if spread <= 1e-12 * float(np.abs(exact).max()):  # the rounding of float64
        why = "an error is told as a part of the spread of the outputs"
        hint = "give other samples: bounds=gpumpc.Calibrated(samples)"
        raise BadValue("the images that the error is measured on give one output", why, hint)
    return float(np.abs(fixed - exact).max()) / spread * math.sqrt(2)


def _both(
    graph: g.Graph, plan: PlanRecord, weights: Arrays, images: npt.NDArray[np.floating]
) -> Iterator[tuple[Floats, Floats]]:
    """The output in float64 and in fixed point, a few images at a time."""
    backend = choose_backend()
    for start in range(0, len(images), TRACED):
        part = np.asarray(images[start : start + TRACED], dtype=np.float64)
        program = compile_program(graph, plan.params, len(part), None, plan.widths)
        fixed = evaluate_fixed(program, integer_weights(program, weights), part, backend)
        yield evaluate_float(graph, weights, part), fixed


def _ring_bits(graph: g.Graph) -> int:
    """The widest ring; a selection of the best k appends an index to its values."""
    last = graph.output
    if not isinstance(last, g.TopK):
        return WIDEST_RING
    [n_classes] = graph.shapes()[last.inputs[0]]
    return WIDEST_RING - max(1, (n_classes - 1).bit_length())


def _weight_fracs(graph: g.Graph, weights: Arrays, frac_bits: int) -> dict[str, int]:
    """Fraction bits of each layer's weights: f - 1 bits below their root mean square."""
    fracs = {}
    for layer in graph.layers:
        if isinstance(layer, (g.Conv2d, g.Linear)):
            weight = weights[f"{layer.name}.weight"]
            mean = float(np.mean(np.square(weight), dtype=np.float64)) or 1.0
            fracs[layer.name] = max(4, math.ceil(frac_bits - 1 - math.log2(mean) / 2))
    return fracs


def _images(source: g.Input) -> Floats:
    """Made-up inputs in the declared range, the same on every run: grey squares of many sizes."""
    shape = (_SAMPLES, *source.shape)
    key = hashlib.sha256(b"gpumpc images that errors are measured on").digest()
    grey = expand("chacha20", key, math.prod(shape)).astype(np.float64).reshape(shape) / 255
    if len(source.shape) == 3:
        for image, side in zip(grey, _SQUARES * 2, strict=False):
            rows, columns = (np.arange(size) // side * side for size in image.shape[:2])
            image[:] = image[rows][:, columns]
    return source.low + (source.high - source.low) * grey


def _unreachable(error: float, best: float) -> PlanError:
    return PlanError(
        f"an output error of {error:g} cannot be reached; {best:.2g} can",
        f"values with more fraction bits do not fit rings of {WIDEST_RING} bits",
        f"ask for error={best * 1.05:.2g}, or calibrate the bounds on samples, which leaves more "
        "bits: bounds=gpumpc.Calibrated(samples)",
    )
