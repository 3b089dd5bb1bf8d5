"""Does every value fit its ring? Bounds of values beside the range that each step is exact for."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from gpumpc.errors import RangeTooWide
from gpumpc.program.bounds.ranges import Interval
from gpumpc.program.program import Program
from gpumpc.protocols import linear, pooling, relu
from gpumpc.protocols.functions.piecewise import Piecewise
from gpumpc.protocols.matrices import MatrixProducts
from gpumpc.protocols.ranking.argmax import Argmax
from gpumpc.protocols.ranking.positions import Negate
from gpumpc.protocols.smooth.local_polynomials import Smooth
from gpumpc.protocols.step import Step
from gpumpc.protocols.truncation import Lift, Truncate

Extremes = tuple[float, float]
Limit = tuple[Step, Extremes, int]


def check_fits(program: Program, bounds: Mapping[str, Interval | Extremes]) -> None:
    """Raises RangeTooWide, naming all steps whose values leave the range they are exact for."""

    def of(name: str) -> Extremes:
        # A lift or an opening has its input's bounds, and exists in some programs of a graph only.
        while name not in bounds:
            name = name.rpartition("/")[0]
        found = bounds[name]
        return found.extremes if isinstance(found, Interval) else found

    limits = [limit for step in program.steps for limit in _limits(step, of)]
    if program.steps and not program.result_is_index:
        # No later step checks a sum at the end.
        limits.append((program.steps[-1], of(program.output), program.result.bits - 1))
    if beyond := [limit for limit in limits if not _fits(*limit[1:])]:
        raise _too_wide(beyond)


def _limits(step: Step, of: Callable[[str], Extremes]) -> Iterator[Limit]:
    """What a step is exact for: values within (low, high) must have |v| < 2^bits."""
    low, high = of(step.inputs[0])
    match step:
        case (
            linear.PrivateProduct()
            | linear.PublicProduct()
            | linear.BeaverProduct()
            | MatrixProducts()
        ):
            yield step, of(step.output), step.ring_bits - 1
        case Truncate():
            # exact for -2^(k-1) <= x <= 2^(k-1) - 2^shift
            yield step, (low, high + 2.0**step.shift), step.ring_bits - 1
        case Lift():
            yield step, (low, high), step.low - 2
        case relu.ReLU():
            yield step, (low, high), step.bits - 1
        case Piecewise():
            yield step, (low, high), step.bits - 1
            yield step, of(step.output), step.high - 1
        case Smooth():
            p = step.pieces
            room = 2.0**p.window_bits, 2.0**p.width_bits
            yield step, (low - p.low - room[0], high - p.low + room[1]), step.bits - 1
            yield step, of(step.output), step.out_bits - 2
        case relu.Clamp():
            yield step, (low - step.top, high), step.bits - 1
        case pooling.MaxPool() | Argmax() | Negate():
            # a difference, or keys that must differ by less than half of their ring
            yield step, (low, high), step.bits - 2


def _fits(extremes: Extremes, bits: int) -> bool:
    """Whether every value v has |v| < 2^bits (the low end may reach it)."""
    return extremes[0] >= -(2.0**bits) and extremes[1] < 2.0**bits


def _too_wide(beyond: Sequence[Limit]) -> RangeTooWide:
    """The error for these steps, the one that lacks most bits first."""

    def lacking(limit: Limit) -> float:
        _, (low, high), bits = limit
        return math.log2(max(-low, high)) - bits

    worst = sorted(beyond, key=lacking, reverse=True)
    step, (low, high), bits = worst[0]
    reached = math.log2(max(-low, high))
    what = f"layer '{step.name}' may reach 2^{reached:.2f} ring units, with room below 2^{bits}"
    names = dict.fromkeys(other.name.partition("/")[0] for other, _, _ in worst)
    names.pop(step.name.partition("/")[0])
    if names:
        what += f"; these do not fit either, the worst first: {', '.join(names)}"
    return RangeTooWide(
        what,
        "the bounds of its inputs and weights allow it",
        "choose a larger k or a smaller f: params=gpumpc.Params(ring_bits=.., frac_bits=..); "
        "or calibrate a network's bounds on samples: bounds=gpumpc.Calibrated(samples)",
    )
