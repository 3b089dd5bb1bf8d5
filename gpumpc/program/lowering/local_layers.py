"""Layers that each server computes alone: entries moved, or multiplied by public numbers."""

import dataclasses
from collections.abc import Collection

from gpumpc.nn import graph as g
from gpumpc.params import Params
from gpumpc.program.lowering.builder import Builder
from gpumpc.protocols import local
from gpumpc.protocols.step import Step


def arrange(builder: Builder, layer: g.Arrangement) -> None:
    """Append the step that moves the entries."""
    [name] = layer.inputs
    value, out = builder.values[name], builder.shapes[layer.name]
    place = layer.name, layer.inputs, layer.name, value.shape
    step: Step
    match layer:
        case g.Flatten() | g.Reshape():
            step = local.Reshape(*place, out)
        case g.Permute():
            step = local.Permute(*place, (0, *(axis + 1 for axis in layer.axes)))
        case g.Take():
            step = local.Take(*place, layer.axis + 1, layer.indices)
    builder.add(step, dataclasses.replace(value, shape=out))


def public_frac(layer: g.Scale | g.Mix, frac_bits: int) -> int:
    """Fraction bits of public factors: as few as make them exact, or as many as hide it."""
    if isinstance(layer, g.Scale):
        return _fraction_bits([layer.factor], frac_bits)
    terms = max(map(len, layer.weights))
    extra = (terms - 1).bit_length()
    factors = {weight for row in layer.weights for weight in row}
    return _fraction_bits(factors, frac_bits + extra)


def public_bits(layer: g.Scale | g.Mix, needed: int, params: Params) -> int:
    """Bits that the layer needs of its input: a truncation takes those of public fractions."""
    return min(needed + public_frac(layer, params.frac_bits), params.ring_bits)


def scale_or_mix(builder: Builder, layer: g.Scale | g.Mix) -> None:
    """Public factors times shares; then the bits of their fractions are cut off."""
    shift = public_frac(layer, builder.params.frac_bits)
    source = builder.at_bits(
        layer.inputs[0], public_bits(layer, builder.needed[layer.name], builder.params)
    )
    value = builder.values[source]
    target = f"{layer.name}/scaled" if shift else layer.name
    place, unit = (target, (source,), target, value.shape), 2**shift
    step: Step
    if isinstance(layer, g.Scale):
        offset = round(layer.offset * value.scale * unit)
        step = local.Scale(*place, round(layer.factor * unit), offset, shift)
    else:
        weights = tuple(tuple(round(w * unit) for w in row) for row in layer.weights)
        step = local.Mix(*place, layer.axis + 1, layer.taps, weights, shift)
    out = builder.shapes[layer.name]
    builder.add(step, dataclasses.replace(value, shape=out, frac=value.frac + shift))
    if shift:
        builder.truncate(target, layer.name, shift)


def _fraction_bits(factors: Collection[float], most: int) -> int:
    """The fewest fraction bits that hold all factors exactly, or `most` where that takes more."""
    for bits in range(most):
        if all((factor * 2**bits).is_integer() for factor in map(float, factors)):
            return bits
    return most
