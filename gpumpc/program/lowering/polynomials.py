"""Functions of one number: the argument at its own scale, the polynomial, and back to 2^f."""

import itertools

from gpumpc.errors import PlanError
from gpumpc.nn import graph as g
from gpumpc.program.lowering.builder import Builder
from gpumpc.program.program import Value
from gpumpc.protocols import local
from gpumpc.protocols.functions.piecewise import Coefficients, Piecewise, value_at
from gpumpc.protocols.smooth.approximate import approximate
from gpumpc.protocols.smooth.cells import Pieces
from gpumpc.protocols.smooth.decimals import FUNCTIONS
from gpumpc.protocols.smooth.local_polynomials import Smooth

# Tables are as good as fits: see `gpumpc.nn.functions.ERROR`.
_ERROR_BITS = 10
# Bits of precision of a public factor that takes a divisor out of a scale.
FACTOR_BITS = 12


def function(builder: Builder, layer: g.Function, bits: int) -> None:
    """Append the steps of a function whose argument has so many bits.

    A table is a third to a half of the cost of a fit, where there is one and the argument has room
    for it.
    """
    pieces = _table(builder, layer, bits)
    if pieces is None:
        _fitted(builder, layer, bits)
        return
    name, needed = layer.name, builder.needed[layer.name]
    is_line = pieces.tail is not None and pieces.tail.is_identity
    value = builder.values[layer.inputs[0]]
    place = name, layer.inputs, name, value.shape, bits
    step = Smooth(*place, max(needed, bits) if is_line else needed, pieces)
    builder.add(step, Value(value.shape, step.out_bits, value.frac))


def _table(builder: Builder, layer: g.Function, bits: int) -> Pieces | None:
    """The table of a function, if there is one for this argument."""
    value = builder.values[layer.inputs[0]]
    other = layer.kind == "elu" and layer.parameter != 1
    if layer.kind not in FUNCTIONS or other or value.divisor != 1:
        return None
    try:
        pieces = approximate(layer.kind, value.frac, _ERROR_BITS)
    except PlanError:  # none is good enough at this scale
        return None
    return pieces if bits >= pieces.window_bits + 2 else None


def _fitted(builder: Builder, layer: g.Function, bits: int) -> None:
    """The steps of the fit that the layer carries."""
    argument = _argument(builder, layer, bits)
    value = builder.values[argument]
    # Never more bits than leave the result in 62; the plan's bounds are checked against these.
    bits = next((b for b in range(value.bits, 1, -1) if _result_bits(layer, b) <= 62), 0)
    if not bits:
        what = f"layer '{layer.name}' has an argument of {value.bits} bits at scale 2^{layer.frac}"
        raise PlanError(what, "two are the least", "choose a larger k")
    high = _result_bits(layer, bits)
    thresholds, segments = _inside(layer, bits)
    shift = layer.out_frac - builder.params.frac_bits
    left, needed = high - max(shift, 0), builder.needed[layer.name]
    names = [f"{layer.name}/exact", f"{layer.name}/truncated", f"{layer.name}/finer"]
    target = names.pop(0)
    place = target, (argument,), target, value.shape, bits
    step = Piecewise(*place, high, layer.out_frac, thresholds, segments)
    builder.add(step, Value(value.shape, high, layer.out_frac))
    last = shift if left >= needed else 0
    if shift > 0:
        builder.truncate(target, layer.name if last else names[0], shift)
    elif shift < 0:
        name = layer.name if last else names[1]
        finer = local.Scale(name, (target,), name, value.shape, 1 << -shift, 0, -shift)
        builder.add(finer, Value(value.shape, high, builder.params.frac_bits))
    source = builder.steps[-1].output
    if source != layer.name:
        # A sum on the way to the next product needs the room that its readers ask for.
        builder.lift(source, layer.name, max(left + 1, needed))


def _argument(builder: Builder, layer: g.Function, bits: int) -> str:
    """Name of the argument at scale 2^frac, in as few bits as it has."""
    [source] = layer.inputs
    value = builder.values[source]
    shift = value.frac - layer.frac
    factor = 1
    if value.divisor != 1:
        more = max(0, FACTOR_BITS + value.divisor.bit_length() - max(0, shift))
        shift, factor = shift + more, round(2**more / value.divisor)
    elif shift < 0:
        shift, factor = 0, 1 << -shift
    name = source
    if factor != 1:
        width = min(bits + factor.bit_length(), builder.params.ring_bits)
        name = builder.at_bits(source, width)
        value = builder.values[name]
        scaled, frac = f"{layer.name}/scaled", layer.frac + shift
        step = local.Scale(scaled, (name,), scaled, value.shape, factor, 0, frac - value.frac)
        builder.add(step, Value(value.shape, value.bits, frac))
        name, bits = scaled, value.bits
    if shift == 0:
        return name
    target = f"{layer.name}/argument"
    builder.truncate(name, target, shift, bits)
    return target


def _inside(layer: g.Function, bits: int) -> tuple[tuple[int, ...], tuple[Coefficients, ...]]:
    """The thresholds that an argument of so many bits can reach, and their segments."""
    half = 1 << (bits - 1)
    below = sum(theta <= -half for theta in layer.thresholds)
    thresholds = tuple(theta for theta in layer.thresholds if -half < theta < half)
    return thresholds, layer.segments[below : below + len(thresholds) + 1]


def _result_bits(layer: g.Function, bits: int) -> int:
    """Bits of the largest value at the ends of segments, sign included, and one for the inside."""
    thresholds, segments = _inside(layer, bits)
    half = 1 << (bits - 1)
    edges = itertools.pairwise((-half, *thresholds, half))
    ends = (
        abs(value_at(segment, x))
        for segment, (low, high) in zip(segments, edges, strict=True)
        for x in (low, high - 1)
    )
    return max(ends).bit_length() + 2
