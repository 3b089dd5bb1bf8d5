"""Does every value fit its ring? Interval bounds on the integers the program really computes with.

*certified*: bounds follow from the input's declared range and the integer weights, channel by
channel; no input in range can exceed them. *calibrated*: the bounds of each product are the largest
values of sample images, times 2^guard; an input unlike the samples may wrap unnoticed. A value that
does not fit is refused here, before anything is shared.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gpumpc.errors import PlanError
from gpumpc.program.integers import BLOCK_ENTRIES, Integers, row_blocks
from gpumpc.program.program import Program
from gpumpc.protocols import linear, local, pooling, relu
from gpumpc.protocols.functions.piecewise import Piecewise, value_at
from gpumpc.protocols.matrices import MatrixProducts, OpenMatrices
from gpumpc.protocols.ranking.argmax import Argmax
from gpumpc.protocols.ranking.positions import Negate, Positions
from gpumpc.protocols.ranking.shuffle import Shuffle
from gpumpc.protocols.ranking.topk import TopK
from gpumpc.protocols.smooth.local_polynomials import Smooth
from gpumpc.protocols.step import Clear, Step
from gpumpc.protocols.truncation import Lift, Truncate
from gpumpc.ring.backend import as_backend
from gpumpc.ring.fixed_point import signed
from gpumpc.ring.numpy_backend import NumpyBackend

Floats = npt.NDArray[np.float64]
Product = linear.PrivateProduct | linear.PublicProduct
# A matrix, or a factor that stands for that multiple of the identity matrix.
Factor = float | Floats


def _slack(n: int) -> float:
    """A float64 sum of n products errs by at most n 2^-53 of the sum of their magnitudes (Higham
    2002, section 3.1). Bounds are widened by twice that fraction and more: rounding can never make
    one too tight.
    """
    return max(n, 1 << 12) * 2.0**-52


# Arguments at which a table is looked at.
_PROBES = 1 << 12


@dataclasses.dataclass(frozen=True)
class Interval:
    """Integer bounds by channel (last axis): low <= v <= high."""

    low: Floats
    high: Floats

    @property
    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest bound of all channels."""
        return float(self.low.min()), float(self.high.max())

    @property
    def magnitude(self) -> float:
        """Largest absolute value."""
        return max(abs(end) for end in self.extremes)

    def with_zero(self) -> Interval:
        """Widened to contain zero, as padding does."""
        return Interval(np.minimum(self.low, 0), np.maximum(self.high, 0))

    def plus(self, other: Interval) -> Interval:
        """Bounds of a sum."""
        return Interval(self.low + other.low, self.high + other.high)

    def times(self, factor: Factor) -> Interval:
        """Bounds of v @ matrix, v a row of channels, or of a multiple of v."""
        if isinstance(factor, float):
            ends = self.low * factor, self.high * factor
            scaled = Interval(np.minimum(*ends), np.maximum(*ends))
        else:
            # Any v is the centre plus something of at most the radius.
            sizes = np.abs(factor)
            centre = (self.low / 2 + self.high / 2) @ factor
            radius = (self.high / 2 - self.low / 2) @ sizes
            scaled = Interval(centre - radius, centre + radius)
        return scaled.widened(self.rounding(factor))

    def rounding(self, factor: Factor) -> Floats:
        """More than the rounding of v @ M for any |M| <= |factor|."""
        sizes = np.maximum(np.abs(self.low), np.abs(self.high))
        product = sizes * abs(factor) if isinstance(factor, float) else sizes @ np.abs(factor)
        return np.asarray(product * _slack(len(sizes)))

    def widened(self, by: Floats) -> Interval:
        """Both ends moved outward."""
        return Interval(self.low - by, self.high + by)

    def slackened(self) -> Interval:
        """Widened by more than the rounding of a short sum."""
        return self.widened(self.rounding(1.0))


@dataclasses.dataclass(frozen=True)
class Affine:
    """v = sum_j sources[j] @ factors[j] + rest, pixel by pixel.

    Where layers without an activation follow one another (project, add, expand), their matrices are
    multiplied before bounds are taken, which is much tighter than an interval a layer.
    """

    sources: tuple[Interval, ...]
    factors: tuple[Factor, ...]
    rest: Interval

    @classmethod
    def of(cls, interval: Interval) -> Affine:
        """A new source: a value of which only bounds are known."""
        zeros = np.zeros_like(interval.low)
        return cls((interval,), (1.0,), Interval(zeros, zeros))

    @functools.cached_property
    def interval(self) -> Interval:
        """Bounds by channel."""
        total = self.rest
        for source, factor in zip(self.sources, self.factors, strict=True):
            total = total.plus(source.times(factor))
        return total

    def times(self, matrix: Floats, bias: Floats) -> Affine:
        """v @ matrix + bias."""
        rest = self.rest.times(matrix).plus(Interval(bias, bias))
        for source, factor in zip(self.sources, self.factors, strict=True):
            # factor @ matrix is rounded too, and its terms may cancel.
            rest = rest.widened(source.rounding(_composed(_size(factor), np.abs(matrix))))
        return Affine(self.sources, tuple(_composed(f, matrix) for f in self.factors), rest)

    def plus(self, other: Affine) -> Affine:
        """The sum; a source that both have is counted once."""
        own = zip(self.sources, self.factors, strict=True)
        terms = {id(source): (source, factor) for source, factor in own}
        for source, factor in zip(other.sources, other.factors, strict=True):
            known = terms.get(id(source))
            terms[id(source)] = (source, factor if known is None else _added(known[1], factor))
        sources, factors = zip(*terms.values(), strict=True)
        return Affine(sources, factors, self.rest.plus(other.rest))

    def scaled(self, scale: float, error: float) -> Affine:
        """scale * v, at most `error` off."""
        rest = self.rest.times(scale).widened(np.full_like(self.rest.low, error))
        return Affine(self.sources, tuple(factor * scale for factor in self.factors), rest)


def _composed(first: Factor, then: Floats) -> Floats:
    return first * then if isinstance(first, float) else first @ then


def _size(factor: Factor) -> Factor:
    return abs(factor) if isinstance(factor, float) else np.asarray(np.abs(factor))


def _added(a: Factor, b: Factor) -> Factor:
    if isinstance(a, float):
        return a + b if isinstance(b, float) else _added(b, a)
    return a + (b * np.eye(len(a)) if isinstance(b, float) else b)


def bounds_of(
    program: Program,
    weights: Integers,
    low: float,
    high: float,
    measured: Mapping[str, float] | None = None,
) -> dict[str, Interval]:
    """Bounds of every value by name, which do not depend on any ring: see `fits.check_fits`.

    Args:
        low, high: declared real range of the input.
        measured: largest |product| in real units by layer, guard included; None: certified mode.
    """
    [(name, value)] = program.inputs.items()
    ones = np.ones(value.shape[-1] if len(value.shape) > 1 else 1)
    source = Interval(np.floor(ones * low * value.scale), np.ceil(ones * high * value.scale))
    bounds = {name: Affine.of(source)}
    for step in program.steps:
        inputs = [bounds[name] for name in step.inputs]
        bounds[step.output] = _bounds(step, inputs, weights, measured)
    return {name: affine.interval for name, affine in bounds.items()}


def _bounds(
    step: Step, inputs: list[Affine], weights: Integers, measured: Mapping[str, float] | None
) -> Affine:
    """Bounds of a step's value."""
    affine = inputs[0]
    match step:
        case linear.PrivateProduct() | linear.PublicProduct():
            return _product(step, affine, weights, measured)
        case linear.BeaverProduct() | MatrixProducts():
            return Affine.of(_beaver(step, inputs[0].interval, inputs[1].interval, measured))
        case Truncate():
            # floor(v / 2^shift), or that plus one
            return affine.scaled(2.0**-step.shift, 1.0)
        case Lift() | linear.Open() | linear.OpenRepeated() | OpenMatrices():
            return affine
        case local.Add():
            return affine.plus(inputs[1])
        case _:
            return Affine.of(_interval(step, [a.interval for a in inputs]))


def _interval(step: Step, inputs: list[Interval]) -> Interval:
    """Bounds of a step that is not affine, or moves values between places."""
    x = inputs[0]
    match step:
        case relu.ReLU():
            return Interval(np.maximum(x.low, 0), np.maximum(x.high, 0))
        case relu.Clamp():
            return Interval(np.clip(x.low, 0, step.top), np.clip(x.high, 0, step.top))
        case pooling.MaxPool() | Shuffle() | TopK():
            return x  # of keys, the bounds of the values inside
        case Argmax():
            return Interval(np.zeros(1), np.full(1, step.shape[1] - 1.0))
        case Negate():
            return Interval(-x.high, -x.low)
        case Positions():
            return Interval(np.zeros(1), np.full(1, 2.0**step.id_bits - 1))
        case pooling.SumPool():
            area = step.window[0] * step.window[1]
            return Interval(x.low * area, x.high * area)
        case local.Concat():
            lows, highs = [i.low for i in inputs], [i.high for i in inputs]
            return Interval(np.concatenate(lows), np.concatenate(highs))
        case local.Arrangement():
            return _arranged(step, x)
        case local.Scale():
            ends = x.low * step.factor + step.offset, x.high * step.factor + step.offset
            return Interval(np.minimum(*ends), np.maximum(*ends)).slackened()
        case local.Mix():
            return _mixed(step, x)
        case Piecewise():
            return _function(step, x)
        case Smooth():
            return _table(step, x)
        case _:
            hint = "this is a bug: please report it"
            raise PlanError(f"no range rule for step '{step.name}'", hint=hint)


def _arranged(step: local.Arrangement, x: Interval) -> Interval:
    """Bounds of every entry go where the entry goes; then by channel again."""
    match step:
        case local.Permute() if step.axes[-1] == len(step.axes) - 1:
            return x
        case local.Take() if step.axis < len(step.shape) - 1:
            return x.with_zero() if min(step.indices) < 0 else x
        case local.Reshape() if step.out_shape[-1] == step.shape[-1]:
            return x
    backend = as_backend(NumpyBackend())

    def moved(side: Floats) -> Floats:
        entries = np.ascontiguousarray(np.broadcast_to(side, step.shape)).view(np.uint64)
        places = backend.download(step.arranged(backend, backend.upload(entries)))
        return places.view(np.float64).reshape(-1, places.shape[-1])

    return Interval(moved(x.low).min(axis=0), moved(x.high).max(axis=0))


def _mixed(step: local.Mix, x: Interval) -> Interval:
    matrix = np.zeros((len(step.taps), step.shape[step.axis]))
    for row, taps, weights in zip(matrix, step.taps, step.weights, strict=True):
        np.add.at(row, list(taps), weights)
    if step.axis == len(step.shape) - 1:
        return x.times(matrix.T)
    positive, negative = (
        side.sum(axis=1)[:, None] for side in (np.maximum(matrix, 0), np.minimum(matrix, 0))
    )
    low = (positive * x.low + negative * x.high).min(axis=0)
    return Interval(low, (positive * x.high + negative * x.low).max(axis=0)).slackened()


def _beaver(
    step: linear.BeaverProduct | MatrixProducts,
    x: Interval,
    y: Interval,
    measured: Mapping[str, float] | None,
) -> Interval:
    """A product of two values; its step is called after the layer, `LAYER/product`."""
    if isinstance(step, MatrixProducts):
        # Every entry of a row of X meets one of a column of Y.
        ones, terms = np.ones(step.out_shape[-1]), step.shape[-1]
        x, y = (Interval(ones * side.low.min(), ones * side.high.max()) for side in (x, y))
    else:
        terms = 1
    corners = [x.low * y.low, x.low * y.high, x.high * y.low, x.high * y.high]
    low, high = np.minimum.reduce(corners) * terms, np.maximum.reduce(corners) * terms
    bounds = Interval(low, high).slackened()
    if measured is None:
        return bounds
    limit = np.ceil(measured[step.name.removesuffix("/product")] * step.scale)
    return Interval(np.maximum(bounds.low, -limit), np.minimum(bounds.high, limit))


def _function(step: Piecewise, x: Interval) -> Interval:
    """Values at the ends of every segment that can be reached, and where its slope is zero."""
    low, high = math.floor(x.low.min()), math.ceil(x.high.max())
    edges = itertools.pairwise((low, *step.thresholds, high + 1))
    values: list[int] = []
    for coefficients, (first, after) in zip(step.segments, edges, strict=True):
        start, stop = max(first, low), min(after - 1, high)
        if start <= stop:
            slope = [i * c for i, c in enumerate(coefficients)][1:]
            flat = np.roots([float(c) for c in reversed(slope)])
            places = {start, stop, *(math.floor(root.real) for root in flat)}
            inside = {min(max(place + more, start), stop) for place in places for more in (0, 1)}
            values += [value_at(coefficients, place) for place in inside]
    ones = np.ones_like(x.low)
    return Interval(ones * float(min(values)), ones * float(max(values))).slackened()


def _table(step: Smooth, x: Interval) -> Interval:
    """Values all over the window and at the ends of the argument; what lies between differs little:
    no function of a table is steeper than 5/4.
    """
    pieces = step.pieces
    stride = max(1, (1 << pieces.window_bits) // _PROBES)
    window = np.arange(pieces.low, pieces.low + (1 << pieces.window_bits), stride)
    ends = [math.floor(x.low.min()), math.ceil(x.high.max())]
    arguments = np.concatenate([np.clip(window, *ends), ends]).astype(np.int64)
    backend = as_backend(NumpyBackend())
    words = step.plain(Clear(backend, {}), backend.upload(arguments.view(np.uint64)))
    values = backend.download(words).view(np.int64)
    ones = np.ones_like(x.low)
    # The step and `plain` may differ by the error of the table, and by one in a truncation.
    apart = 2.0 ** (pieces.out_frac - 8) + 1.25 * stride
    return Interval(ones * (values.min() - apart), ones * (values.max() + apart))


def _product(
    step: Product, x: Affine, weights: Integers, measured: Mapping[str, float] | None
) -> Affine:
    weight, bias_words = weights[step.layer]
    bias = _reals(bias_words, step)
    # A larger matrix is not composed with others: its bounds are sound all the same.
    if measured is None and _is_pointwise(step) and weight.size <= BLOCK_ENTRIES:
        return x.times(_reals(weight, step).reshape(weight.shape[-2:]), bias)
    bounds = _windowed(step, x.interval, weight).plus(Interval(bias, bias))
    if measured is not None:
        limit = np.full_like(bounds.low, np.ceil(measured[step.layer] * 2.0**step.frac))
        bounds = Interval(np.maximum(bounds.low, -limit), np.minimum(bounds.high, limit))
    return Affine.of(bounds)


def _reals(words: npt.NDArray[np.uint64], step: Product) -> Floats:
    return signed(words, step.ring_bits).astype(np.float64)


def _is_pointwise(step: Product) -> bool:
    """Whether an output pixel depends on one input pixel, by a matrix over channels."""
    operator = step.operator
    if isinstance(operator, linear.Convolution):
        # A stride reads other pixels than another layer may: their sum must not cancel.
        one_pixel = operator.kernel == operator.stride == (1, 1) and not any(operator.padding)
        return operator.groups == 1 and one_pixel
    return True


def _windowed(step: Product, x: Interval, words: npt.NDArray[np.uint64]) -> Interval:
    """Bounds of a product over a window, each tap at its worst, without the bias."""
    groups = 1
    if isinstance(step.operator, linear.Convolution):
        groups = step.operator.groups
        x = x.with_zero() if any(step.operator.padding) else x
    # (.., Cin / groups, Cout) -> (taps, Cin / groups, groups, Cout / groups)
    taps = words.reshape(-1, words.shape[-2], groups, words.shape[-1] // groups)
    low, high = (side.reshape(groups, -1).T[:, :, None] for side in (x.low, x.high))
    bottom, top, sizes = np.zeros((3, *taps.shape[2:]))
    for rows in row_blocks(taps.shape[1], taps[:, :1].size):
        block = _reals(taps[:, rows], step)
        positive, negative = np.maximum(block, 0).sum(axis=0), np.minimum(block, 0).sum(axis=0)
        least, most = low[rows], high[rows]
        top += (positive * most + negative * least).sum(axis=0)
        bottom += (positive * least + negative * most).sum(axis=0)
        farthest = np.maximum(np.abs(least), np.abs(most))
        sizes += (farthest * (positive - negative)).sum(axis=0)
    # positive and negative are sums as well, of as many terms as there are taps.
    slack = _slack(taps.shape[0] * taps.shape[1])
    return Interval(bottom.reshape(-1), top.reshape(-1)).widened(sizes.reshape(-1) * slack)
