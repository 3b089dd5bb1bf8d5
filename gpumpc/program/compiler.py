"""From a network to a plan: quantise, check that values fit their rings, commit to the weights."""

import dataclasses
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.errors import PlanError, RangeTooWide
from gpumpc.nn.graph import Conv2d, Graph, Linear, MatMul, Multiply
from gpumpc.nn.plaintext import Arrays, evaluate_float
from gpumpc.params import Params
from gpumpc.program.bounds.fits import check_fits
from gpumpc.program.bounds.ranges import Interval, bounds_of
from gpumpc.program.integers import integer_weights
from gpumpc.program.lowering import compile_program
from gpumpc.program.plan import PlanRecord, Preprocessing, Weights, make_plan
from gpumpc.program.program import Program, Width
from gpumpc.program.widths import plan_widths

GUARD_BITS = 3
TRACED = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrated:
    """Bounds measured on sample inputs, for networks whose certified bounds are too wide.

    An input unlike the samples may overflow a ring, and then gives a wrong result unnoticed.

        plan = gpumpc.compile(model, example, bounds=gpumpc.Calibrated(samples))

    Attributes:
        samples: inputs (B, H, W, C) within the plan's input range.
        guard_bits: a value may grow to 2^guard_bits times the largest one among the samples.
    """

    samples: npt.NDArray[np.floating]
    guard_bits: int = GUARD_BITS

    def _measured(self, graph: Graph, weights: Arrays) -> dict[str, float]:
        """Largest |product| by layer in real units over the samples, times 2^guard_bits."""
        largest: dict[str, float] = {}
        # All values of a batch are in memory at once: few images a batch.
        for start in range(0, len(self.samples), TRACED):
            images = self.samples[start : start + TRACED]
            trace = evaluate_float(graph, weights, images, trace=True)
            for layer in graph.layers:
                if isinstance(layer, (Conv2d, Linear, Multiply, MatMul)):
                    value = float(np.abs(trace[layer.name]).max())
                    largest[layer.name] = max(largest.get(layer.name, 0.0), value)
        return {name: value * 2.0**self.guard_bits for name, value in largest.items()}


def compile_graph(
    name: str,
    graph: Graph,
    weights: Arrays,
    params: Params,
    *,
    calibration: Calibrated | None = None,
    preprocessing: Preprocessing | None = None,
    weight_fracs: Mapping[str, int] | None = None,
) -> tuple[PlanRecord, Weights]:
    """Make a plan whose every value provably fits its ring or, calibrated, fitted it on samples.

    Args:
        calibration: measures bounds; None: certified bounds.
        weight_fracs: fraction bits of a layer's weights, where they are not f.

    Raises:
        RangeTooWide: a layer's values do not fit.
        BadShape, BadValue, OutOfRange: weights or samples that cannot be used.
    """
    arrays = dict(weights)
    fracs = dict(weight_fracs or {})
    widths = {layer: Width(params.ring_bits, frac) for layer, frac in fracs.items()}
    program = compile_program(graph, params, 1, widths=widths)
    integers = integer_weights(program, arrays)
    measured = calibration._measured(graph, arrays) if calibration else None
    source = graph.input
    found = bounds_of(program, integers, source.low, source.high, measured)
    _check_fits(program, found, graph, widths)
    result = found[program.output]
    # |v| (1 + 1/32) < 2^(bits - 2): one bit more than the value needs, and room for rounding, so
    # that a stored share can be truncated and lifted. An index is unsigned and has its own width.
    output_bits = min(program.result.bits, int(result.magnitude * 33 / 32).bit_length() + 2)
    plan, salted = make_plan(name, graph, arrays, params, preprocessing)
    fields = {
        "output_bits": output_bits,
        "bounds": "calibrated" if calibration else "certified",
        "guard_bits": calibration.guard_bits if calibration else 0,
        "widths": plan_widths(graph, params, arrays, found, output_bits, fracs),
    }
    return msgspec.structs.replace(plan, **fields), salted


def _check_fits(
    program: Program, found: Mapping[str, Interval], graph: Graph, widths: Mapping[str, Width]
) -> None:
    """`check_fits`, with the smallest k that is enough in the hint, if any is."""
    try:
        check_fits(program, found)
    except RangeTooWide as refusal:
        params = program.params
        enough = next(
            (
                k
                for k in range(params.ring_bits + 1, 63)
                if _fits_in(k, graph, params, found, widths)
            ),
            None,
        )
        hint = "calibrate the bounds on samples: bounds=gpumpc.Calibrated(samples)"
        if enough is None:
            hint += f"; no k up to 62 is enough at f = {params.frac_bits}"
        else:
            given = f"gpumpc.Params(ring_bits={enough}, frac_bits={params.frac_bits})"
            hint = f"k = {enough} is enough: params={given}; or {hint}"
        raise RangeTooWide(refusal.what, refusal.why, hint) from refusal


def _fits_in(
    ring_bits: int,
    graph: Graph,
    params: Params,
    found: Mapping[str, Interval],
    widths: Mapping[str, Width],
) -> bool:
    """Whether all values fit with another k: their bounds depend on f alone."""
    wide = {name: msgspec.structs.replace(w, ring_bits=ring_bits) for name, w in widths.items()}
    other = msgspec.structs.replace(params, ring_bits=ring_bits)
    try:
        check_fits(compile_program(graph, other, 1, widths=wide), found)
    except PlanError:
        return False
    return True


def program_of(plan: PlanRecord, batch_size: int) -> Program:
    """The program every party walks for this plan and batch size."""
    return compile_program(plan.graph, plan.params, batch_size, plan.output_bits, plan.widths)
