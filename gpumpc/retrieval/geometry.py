"""The geometry of an index over a plan's results: their dimension, bits and scale."""

from typing import get_args

from gpumpc.errors import PlanError
from gpumpc.params import one_of
from gpumpc.program.program import Program
from gpumpc.protocols.local import Add, Arrangement, Concat
from gpumpc.protocols.pooling import MaxPool, SumPool
from gpumpc.protocols.truncation import Truncate
from gpumpc.retrieval.programs import Geometry, Metric


def geometry_of(program: Program, metric: Metric) -> Geometry:
    """The geometry of an index over a plan's results.

    Features are truncated and lifted, so |v| (1 + 1/32) < 2^(bits-2) must hold. `compile_graph`
    chooses `output_bits` so, unless the ring of the result is too small for it. How large values
    get is not known here, so a result with all the bits of its ring is refused.

    Raises PlanError for results that are not vectors, or that may lack the two spare bits.
    """
    one_of("metric", metric, get_args(Metric))
    result = program.result
    if len(result.shape) != 2 or program.result_is_index:
        raise PlanError(
            "this plan's results cannot be indexed",
            "an index holds vectors",
            "compile the network up to its features",
        )
    room = _ring_of(program, program.output)
    if not 3 <= result.bits < room:
        raise PlanError(
            f"this plan's results have {result.bits} bits, in a ring of {room}",
            "an index needs results that leave two bits free, and these may not",
            "compile the network again, with a larger k if that does not help",
        )
    return Geometry(result.shape[1], metric, result.bits, result.frac, result.divisor)


def _ring_of(program: Program, name: str) -> int:
    """The most bits that a value can have, whatever its readers need."""
    made = {step.output: step for step in program.steps}
    if name not in made:
        return program.inputs[name].bits
    step = made[name]
    match step:
        case Truncate():
            return step.ring_bits - step.shift
        case MaxPool():
            return step.bits
        case SumPool() | Add() | Concat() | Arrangement():
            return min(_ring_of(program, source) for source in step.inputs)
    # Products, and activations, which their last round lifts to the ring of the next product.
    return program.params.ring_bits
