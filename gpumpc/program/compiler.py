"""From a network to a plan: quantise, check that every value fits its ring, commit to the
weights."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.errors import PlanError
from gpumpc.nn.graph import Conv2d, Graph, Linear
from gpumpc.nn.plaintext import evaluate_float
from gpumpc.params import Params
from gpumpc.program.integers import integer_weights
from gpumpc.program.lowering import compile_program
from gpumpc.program.plan import Bounds, PlanRecord, Preprocessing, Weights, make_plan
from gpumpc.program.program import Program, Width
from gpumpc.program.ranges import bounds_of, check_fits
from gpumpc.program.widths import plan_widths

GUARD_BITS = 3


def compile_graph(
    name: str,
    graph: Graph,
    weights: Mapping[str, npt.NDArray[np.floating]],
    params: Params,
    *,
    bounds: Bounds = "certified",
    samples: npt.NDArray[np.floating] | None = None,
    guard_bits: int = GUARD_BITS,
    preprocessing: Preprocessing | None = None,
    weight_fracs: Mapping[str, int] | None = None,
) -> tuple[PlanRecord, Weights]:
    """Make a plan whose every value provably fits its ring, or, calibrated, fitted it on the
    samples.

    Args:
        samples: inputs (B, *shape) that stand for the world; needed for `calibrated` bounds.
        weight_fracs: fraction bits of a layer's weights, where they are not f.
        guard_bits: how many bits above what the samples reached a value may grow (calibrated only).

    Raises:
        RangeTooWide: a layer's values do not fit.
        PlanError: `calibrated` without samples.
        BadShape, BadValue, OutOfRange: weights or samples that cannot be used.
    """
    arrays = dict(weights)
    fracs = dict(weight_fracs or {})
    program = compile_program(
        graph,
        params,
        1,
        widths={layer: Width(params.ring_bits, frac) for layer, frac in fracs.items()},
    )
    integers = integer_weights(program, arrays)
    measured = None
    if bounds == "calibrated":
        measured = _measure(graph, arrays, samples, guard_bits)
    source = graph.input
    found = bounds_of(program, integers, source.low, source.high, measured)
    check_fits(program, found)
    result = found[program.output]
    # |v| (1 + 1/32) < 2^(bits - 2): one bit more than the value needs, and room for rounding, so
    # that a share at rest can be truncated and lifted. An index is not signed and brings its own
    # width.
    output_bits = min(program.result.bits, int(result.magnitude * 33 / 32).bit_length() + 2)
    plan, salted = make_plan(name, graph, arrays, params, preprocessing)
    fields = {
        "output_bits": output_bits,
        "bounds": bounds,
        "guard_bits": guard_bits if measured is not None else 0,
        "widths": plan_widths(graph, params, integers, found, output_bits, fracs),
    }
    return msgspec.structs.replace(plan, **fields), salted


def program_of(plan: PlanRecord, batch_size: int) -> Program:
    """The program every party walks for this plan and batch size."""
    return compile_program(plan.graph, plan.params, batch_size, plan.output_bits, plan.widths)


def _measure(
    graph: Graph,
    weights: dict[str, npt.NDArray[np.floating]],
    samples: npt.NDArray[np.floating] | None,
    guard_bits: int,
) -> dict[str, float]:
    """Largest |product| by layer in real units over the samples, times 2^guard_bits."""
    if samples is None:
        raise PlanError(
            "calibrated bounds were asked for without samples",
            "they are measured on sample images",
            "pass samples, or leave bounds at 'certified'",
        )
    trace = evaluate_float(graph, weights, samples, trace=True)
    products = [layer.name for layer in graph.layers if isinstance(layer, (Conv2d, Linear))]
    return {name: float(np.abs(trace[name]).max()) * 2.0**guard_bits for name in products}
