"""Does every value fit its ring? Interval bounds on the integers the program really computes with.

*certified*: bounds follow from the input's declared range and the integer weights, channel by channel; no input in range
can exceed them. *calibrated*: the bounds of each product are what sample images reached, times 2^guard; an input outside
the calibrated world may wrap unnoticed. A value that does not fit is refused here, before anything is shared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gpumpc.errors import PlanError, RangeTooWide
from gpumpc.nn.integers import Integers
from gpumpc.nn.program import Program
from gpumpc.protocols import linear, pooling, relu
from gpumpc.protocols.argmax import Argmax
from gpumpc.protocols.step import Step
from gpumpc.protocols.truncation import Lift, Truncate
from gpumpc.ring.fixed_point import signed

Floats = npt.NDArray[np.float64]
# Sums of products are taken in float64, each rounding up to 2^-53 of its size: this much is added for safety.
_SLACK = 1 + 2.0**-40


@dataclasses.dataclass(frozen=True)
class Interval:
    """Integer bounds by channel (last axis): low <= v <= high."""

    low: Floats
    high: Floats

    @property
    def magnitude(self) -> float:
        """Largest absolute value."""
        return float(max(np.abs(self.low).max(), np.abs(self.high).max()))

    def with_zero(self) -> Interval:
        """Widened to contain zero, as padding does."""
        return Interval(np.minimum(self.low, 0), np.maximum(self.high, 0))


def check_ranges(
    program: Program, weights: Integers, low: float, high: float, measured: Mapping[str, float] | None = None
) -> Interval:
    """Bounds of the program's result. Raises RangeTooWide naming the first step that does not fit.

    Args:
        low, high: declared real range of the input.
        measured: calibrated mode: largest |product| in real units by layer, guard included; None for certified mode.
    """
    [(name, value)] = program.inputs.items()
    ones = np.ones(value.shape[-1] if len(value.shape) > 1 else 1)
    bounds = {name: Interval(np.floor(ones * low * value.scale), np.ceil(ones * high * value.scale))}
    for step in program.steps:
        bounds[step.output] = _bounds(step, [bounds[name] for name in step.inputs], weights, measured)
    return bounds[program.output]


def _bounds(step: Step, inputs: list[Interval], weights: Integers, measured: Mapping[str, float] | None) -> Interval:
    x = inputs[0]
    match step:
        case linear.PrivateProduct() | linear.PublicProduct():
            result = _product(step, x, weights)
            if measured is not None:
                limit = np.full_like(result.low, np.ceil(measured[step.layer] * 2.0**step.frac))
                result = Interval(np.maximum(result.low, -limit), np.minimum(result.high, limit))
            return _fits(step, result, step.k - 1)
        case Truncate():
            # exact for -2^(k-1) <= x <= 2^(k-1) - 2^shift
            _fits(step, Interval(x.low, x.high + 2.0**step.shift), step.k - 1)
            return Interval(np.floor(x.low / 2.0**step.shift), np.floor(x.high / 2.0**step.shift) + 1)
        case Lift():
            return _fits(step, x, step.low - 2)
        case relu.ReLU():
            _fits(step, x, step.bits - 1)
            return Interval(np.maximum(x.low, 0), np.maximum(x.high, 0))
        case relu.Clamp():
            _fits(step, Interval(x.low - step.top, x.high), step.bits - 1)
            return Interval(np.clip(x.low, 0, step.top), np.clip(x.high, 0, step.top))
        case pooling.MaxPool():
            return _fits(step, x, step.bits - 2)
        case Argmax():
            _fits(step, x, step.bits - 2)
            return Interval(np.zeros(1), np.full(1, step.shape[1] - 1.0))
        case pooling.SumPool():
            area = step.window[0] * step.window[1]
            return Interval(x.low * area, x.high * area)
        case pooling.Add():
            return Interval(x.low + inputs[1].low, x.high + inputs[1].high)
        case pooling.Concat():
            return Interval(np.concatenate([i.low for i in inputs]), np.concatenate([i.high for i in inputs]))
        case pooling.Flatten():
            times = int(np.prod(step.shape[1:])) // len(x.low)
            return Interval(np.tile(x.low, times), np.tile(x.high, times))
        case linear.Open():
            return _fits(step, x, step.bits - 1)
        case _:
            raise PlanError(f"no range rule for step '{step.name}'", "", "this is a bug: please report it")


def _product(step: linear.PrivateProduct | linear.PublicProduct, x: Interval, weights: Integers) -> Interval:
    spec_weight, spec_bias = weights[step.layer]
    weight = signed(spec_weight, step.k).astype(np.float64)
    bias = signed(spec_bias, step.k).astype(np.float64)
    groups = 1
    if isinstance(step.operator, linear.Convolution):
        groups = step.operator.groups
        x = x.with_zero() if any(step.operator.padding) else x
    # (.., Cin / groups, Cout) -> (taps, groups, Cin / groups, Cout / groups)
    per_group = weight.shape[-1] // groups
    split = weight.reshape(-1, weight.shape[-2], groups, per_group).transpose(0, 2, 1, 3)
    positive, negative = np.maximum(split, 0).sum(axis=0), np.minimum(split, 0).sum(axis=0)
    low, high = x.low.reshape(groups, -1, 1), x.high.reshape(groups, -1, 1)
    top = (positive * high + negative * low).sum(axis=1).reshape(-1)
    bottom = (positive * low + negative * high).sum(axis=1).reshape(-1)
    return Interval(bottom * _SLACK ** np.sign(-bottom) + bias, top * _SLACK ** np.sign(top) + bias)


def _fits(step: Step, interval: Interval, bits: int) -> Interval:
    """The interval, if every value v of it has |v| < 2^bits (the lower end may reach it)."""
    if interval.low.min() < -(2.0**bits) or interval.high.max() >= 2.0**bits:
        reached = np.log2(interval.magnitude)
        raise RangeTooWide(
            f"layer '{step.name}' may reach 2^{reached:.2f} ring units, and has room below 2^{bits}",
            "the bounds of its inputs and weights allow it",
            "choose a larger k or a smaller f, or compile with bounds='calibrated' and sample images",
        )
    return interval
