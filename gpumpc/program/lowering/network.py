"""graph + params -> program: which steps a layer becomes, and how many bits each value has.

A product is one modulo 2^k; truncation leaves K = k - shift bits; ReLU and clamp lift their result
to the ring of the next product in their own last round; a value without activation is lifted where
that is needed, once.
"""

import dataclasses
import math
from collections.abc import Sequence

from gpumpc.errors import PlanError
from gpumpc.nn import graph as g
from gpumpc.params import Params
from gpumpc.program.lowering.builder import Builder
from gpumpc.program.lowering.local_layers import arrange, public_bits, scale_or_mix
from gpumpc.program.lowering.polynomials import FACTOR_BITS, function
from gpumpc.program.program import Program, Value, WeightSpec, Width, Widths
from gpumpc.protocols import linear, local, pooling, relu
from gpumpc.protocols.linear import Convolution, MatMul
from gpumpc.protocols.matrices import MatrixProducts, OpenMatrices
from gpumpc.protocols.ranking.argmax import Argmax
from gpumpc.protocols.ranking.positions import Negate, Positions
from gpumpc.protocols.ranking.shuffle import Shuffle
from gpumpc.protocols.ranking.topk import TopK
from gpumpc.protocols.step import Shape, Step

_JOINS: dict[type[g.Layer], type[Step]]
_JOINS = {g.Add: local.Add, g.Concat: local.Concat}
_MULTIPLYING = (g.Conv2d, g.Linear, g.Multiply)
_BILINEAR = (*_MULTIPLYING, g.MatMul)
# Axes of one item that a layer works on; any before them are one batch to it.
_IMAGE, _ROW = 3, 1
# Divisors up to this one stay in the scale of a join.
_EXACT_DIVISOR = 64


def compile_program(
    graph: g.Graph,
    params: Params,
    batch_size: int,
    output_bits: int | None = None,
    widths: Widths | None = None,
) -> Program:
    """The program of a graph for a fixed batch size.

    Args:
        output_bits: bits of the revealed value, sign included; None for all bits of its ring.
        widths: of its layers; any other layer computes in k bits with weights at 2^f.

    Raises PlanError where a constant or a key does not fit its ring.
    """
    return _Compiler(graph, params, batch_size, output_bits, widths or {}).program()


class _Compiler(Builder):
    """Walks the graph once backwards, for the bits needed, and once forwards, for the steps."""

    def __init__(
        self,
        graph: g.Graph,
        params: Params,
        batch_size: int,
        output_bits: int | None,
        widths: Widths,
    ) -> None:
        super().__init__(graph, params, batch_size)
        self.widths = widths
        self.consumers: dict[str, list[g.AnyLayer]] = {layer.name: [] for layer in graph.layers}
        for layer in graph.layers:
            for name in layer.inputs:
                self.consumers[name].append(layer)
        self.needed = self._needed_bits(output_bits)
        self.opened: dict[str, str] = {}

    def program(self) -> Program:
        for layer in self.graph.layers:
            self._layer(layer)
        source, name = self.graph.input.name, self.graph.output.name
        bits = min(self.needed[name], self.values[name].bits)
        result = dataclasses.replace(self.values[name], bits=bits)
        inputs = {source: self.values[source]}
        return Program(tuple(self.steps), inputs, name, result, self.weights, self.params)

    # backwards

    def _needed_bits(self, output_bits: int | None) -> dict[str, int]:
        """Bits that the readers of each value need of it."""
        needed = {layer.name: 1 for layer in self.graph.layers}
        needed[self.graph.output.name] = output_bits or self.params.ring_bits
        for layer in reversed(self.graph.layers):
            for name in layer.inputs:
                needed[name] = max(needed[name], self._needed_by(layer, needed))
        return needed

    def _needed_by(self, layer: g.AnyLayer, needed: dict[str, int]) -> int:
        if isinstance(layer, _BILINEAR):
            return self._width(layer.name).ring_bits
        if isinstance(layer, (g.ReLU, g.Clamp, g.Function, g.MaxPool, g.Argmax, g.TopK)):
            # These compare values of any width, but a clamp's result is as wide as its constant,
            # with no room for a difference, nor for a sum on the way here.
            truncated = Width(self.params.ring_bits - self.params.frac_bits, 0)
            return self.widths.get(layer.name, truncated).ring_bits
        if isinstance(layer, (g.Scale, g.Mix)):
            return public_bits(layer, needed[layer.name], self.params)
        return needed[layer.name]

    def _width(self, product: str) -> Width:
        """Ring and weight scale of a product."""
        return self.widths.get(product, Width(self.params.ring_bits, self.params.frac_bits))

    # forwards

    def _layer(self, layer: g.AnyLayer) -> None:
        match layer:
            case g.Input():
                self._input(layer)
            case g.Conv2d() | g.Linear():
                self._product(layer)
            case g.ReLU() | g.Clamp():
                self._activation(layer)
            case g.Function():
                function(self, layer, self._compared_bits(layer.inputs[0]))
            case g.MaxPool():
                self._max_pool(layer)
            case g.AvgPool():
                self._avg_pool(layer)
            case g.Argmax():
                self._argmax(layer)
            case g.TopK():
                self._top_k(layer)
            case g.Flatten() | g.Reshape() | g.Permute() | g.Take():
                arrange(self, layer)
            case g.Scale() | g.Mix():
                scale_or_mix(self, layer)
            case g.Multiply():
                self._multiply(layer)
            case g.MatMul():
                self._matrix_products(layer)
            case _:
                self._join(layer)

    def _input(self, layer: g.Input) -> None:
        bits = self.params.ring_bits if layer.bits is None else layer.bits
        if layer.bits is None and self.widths:
            bits = min(bits, self.needed[layer.name])
        if bits > self.params.ring_bits:
            what = f"shares of {bits} bits do not fit a ring of {self.params.ring_bits}"
            raise PlanError(what, hint="choose a larger k")
        frac = self.params.frac_bits if layer.frac is None else layer.frac
        self.values[layer.name] = Value(self.shapes[layer.name], bits, frac, layer.divisor)

    def _operand(self, name: str, axes: int | None, bits: int) -> str:
        """Name of the value as an operand: lifted, and opened once for all products.

        A layer with weights takes a batch of items of so many `axes`; public weights need no
        opening. `bits`: that one product needs.
        """
        readers = (r.name for r in self.consumers.get(name, ()) if isinstance(r, _MULTIPLYING))
        ring_bits = max((self._width(reader).ring_bits for reader in readers), default=bits)
        source = self.at_bits(name, ring_bits)
        if axes is not None:
            source = self.folded(source, axes)
            if self.params.weights == "public":
                return source
        if source not in self.opened:
            target = self.opened[source] = f"{source.replace('/lift', '')}/open"
            shape = self.values[source].shape
            self.steps.append(linear.Open(target, (source,), target, shape, ring_bits))
        return self.opened[source]

    def _multiply(self, layer: g.Multiply) -> None:
        """Two shared values; where one is smaller, it is opened before it is repeated."""
        bits, out = self._width(layer.name).ring_bits, self.shapes[layer.name]
        first, second = (self._undivided(name) for name in layer.inputs)
        x, y = self.values[first], self.values[second]
        left, right = self._operand(first, None, bits), ""
        if y.shape == out:
            right = self._operand(second, None, bits)
        else:
            source, right = self.at_bits(second, bits), f"{layer.name}/factor"
            self.steps.append(linear.OpenRepeated(right, (source,), right, y.shape, bits, out))
        target = f"{layer.name}/product"
        place = target, (left, right), target, out
        product = Value(out, bits, x.frac + y.frac, x.divisor * y.divisor)
        step = linear.BeaverProduct(*place, linear.Elementwise(), out, bits, product.scale)
        self.add(step, product)
        self.truncate(target, layer.name, product.frac - self.params.frac_bits)

    def _matrix_products(self, layer: g.MatMul) -> None:
        """Leading axes count matrices; each operand is opened for this layer."""
        bits, out = self._width(layer.name).ring_bits, self.shapes[layer.name]
        opened, values = [], []
        for side, name in zip(("left", "right"), layer.inputs, strict=True):
            source = self.folded(self.at_bits(self._undivided(name), bits), 2)
            value, target = self.values[source], f"{layer.name}/{side}"
            self.steps.append(OpenMatrices(target, (source,), target, value.shape, bits))
            opened.append(target)
            values.append(value)
        x, y = values
        shape, target = (x.shape[0], *out[-2:]), f"{layer.name}/product"
        product = Value(shape, bits, x.frac + y.frac, x.divisor * y.divisor)
        place = target, tuple(opened), target, x.shape
        self.add(MatrixProducts(*place, shape, bits, product.scale), product)
        cut = layer.name if shape == out else f"{layer.name}/truncated"
        self.truncate(target, cut, product.frac - self.params.frac_bits)
        if cut != layer.name:
            self.reshape(layer.name, cut, out)

    def _product(self, layer: g.Conv2d | g.Linear) -> None:
        width, f = self._width(layer.name), self.params.frac_bits
        ring_bits = width.ring_bits
        [name] = layer.inputs
        axes = _ROW if isinstance(layer, g.Linear) else _IMAGE
        operand = self._operand(name, axes, ring_bits)
        source = self.values[name]
        folded = (math.prod(source.shape[:-axes]), *source.shape[-axes:])
        shape, operator = _operator(layer, folded)
        # An average left its divisor in the scale: weights take it out, and keep their precision.
        weight_frac = width.weight_frac + (source.divisor - 1).bit_length()
        out, frac = self.shapes[layer.name], source.frac + weight_frac
        rows = (folded[0], *out[-axes:])
        scales = float(2**weight_frac) / source.divisor, float(2**frac)
        self.weights[layer.name] = WeightSpec(shape, shape[-1:], ring_bits, *scales)
        # A product that only a selection reads, or nobody, is not truncated.
        is_final = all(isinstance(r, (g.Argmax, g.TopK)) for r in self.consumers[layer.name])
        shift = 0 if is_final else frac - f  # every layer works at scale 2^f
        names = [f"{layer.name}/product", f"{layer.name}/truncated"]
        names = names[: (shift > 0) + (rows != out)] + [layer.name]
        target = names.pop(0)
        place = target, (operand,), target, folded, layer.name
        kind = linear.PublicProduct if self.params.weights == "public" else linear.PrivateProduct
        product = Value(rows, ring_bits, frac)
        self.add(kind(*place, operator, rows, ring_bits, frac), product)
        if shift:
            self.truncate(target, names.pop(0), shift)
        if rows != out:
            self.reshape(layer.name, self.steps[-1].output, out)

    def _compared_bits(self, name: str) -> int:
        """Bits in which a value is compared: never more than a truncated product has."""
        return min(self.values[name].bits, self.params.ring_bits - self.params.frac_bits)

    def _activation(self, layer: g.ReLU | g.Clamp) -> None:
        [name] = layer.inputs
        source, bits, high = self.values[name], self._compared_bits(name), self.needed[layer.name]
        if isinstance(layer, g.ReLU):
            step = relu.ReLU(layer.name, layer.inputs, layer.name, source.shape, bits, high)
            return self.add(step, dataclasses.replace(source, bits=max(bits, high)))
        top = round(layer.high * source.scale)
        if not 0 < 4 * top < 1 << bits:
            raise PlanError(
                f"layer '{layer.name}' clamps at {layer.high}, outside its ring of {bits} bits at "
                f"scale {source.scale:g}",
                "the constant must be positive and leave room above it",
                "choose a larger k or a smaller f",
            )
        clamp = relu.Clamp(layer.name, layer.inputs, layer.name, source.shape, bits, high, top)
        self.add(clamp, dataclasses.replace(source, bits=clamp.out_bits))

    def _max_pool(self, layer: g.MaxPool) -> None:
        [name] = layer.inputs
        bits = self._compared_bits(name)
        top, bottom, left, right = layer.padding
        windows = (
            pooling.Window(2, layer.window[1], layer.stride[1], left, right),
            pooling.Window(1, layer.window[0], layer.stride[0], top, bottom),
        )
        source = self.folded(name, _IMAGE)
        value = self.values[source]
        out, target = self.shapes[layer.name], self._pooled_name(layer)
        step = pooling.MaxPool(target, (source,), target, value.shape, bits, windows)
        rows = (value.shape[0], *out[-_IMAGE:])
        self.add(step, dataclasses.replace(value, shape=rows, bits=bits))
        if target != layer.name:
            self.reshape(layer.name, target, out)

    def _pooled_name(self, layer: g.Pool) -> str:
        """The pooled value's name, before it gets leading axes back."""
        return layer.name if len(self.shapes[layer.name]) == _IMAGE + 1 else f"{layer.name}/pooled"

    def _avg_pool(self, layer: g.AvgPool) -> None:
        [name] = layer.inputs
        source = self.folded(name, _IMAGE)
        value = self.values[source]
        frac, divisor = pooling.averaged(value.frac, value.divisor, layer.window)
        out, target = self.shapes[layer.name], self._pooled_name(layer)
        step = pooling.SumPool(target, (source,), target, value.shape, layer.window, layer.stride)
        self.add(step, Value((value.shape[0], *out[-_IMAGE:]), value.bits, frac, divisor))
        if target != layer.name:
            self.reshape(layer.name, target, out)

    def _argmax(self, layer: g.Argmax) -> None:
        source = self.values[layer.inputs[0]]
        step = Argmax(layer.name, layer.inputs, layer.name, source.shape, source.bits)
        self.add(step, Value(self.shapes[layer.name], step.index_bits, 0))

    def _top_k(self, layer: g.TopK) -> None:
        """Keys -value * 2^id_bits + index, shuffled; of the k smallest, the indices alone."""
        source, name = self.values[layer.inputs[0]], layer.name
        bits, id_bits = source.bits, max(1, (source.shape[1] - 1).bit_length())
        if bits + id_bits > 62:
            why, hint = "they must fit 62 bits", f"choose a k of at most {62 - id_bits}"
            raise PlanError(f"layer '{name}' needs keys of {bits} + {id_bits} bits", why, hint)
        selected, shape = (source.shape[0], layer.k), source.shape
        negated, shuffled, best = (f"{name}/{part}" for part in ("negated", "shuffled", "best"))
        self.steps += [
            Negate(negated, layer.inputs, negated, shape, bits),
            Shuffle(shuffled, (negated,), shuffled, shape, bits, id_bits),
            TopK(best, (shuffled,), best, shape, bits + id_bits, layer.k),
        ]
        step = Positions(name, (best,), name, selected, id_bits)
        self.add(step, Value(selected, id_bits, 0))

    def _join(self, layer: g.AnyLayer) -> None:
        inputs = self._at_one_scale(layer.inputs)
        names = self._summands(inputs, layer.name) if isinstance(layer, g.Add) else inputs
        sources = [self.values[name] for name in names]
        bits = min(source.bits for source in sources)
        value = dataclasses.replace(sources[0], shape=self.shapes[layer.name], bits=bits)
        self.add(_JOINS[type(layer)](layer.name, names, layer.name, sources[0].shape), value)

    def _at_one_scale(self, names: Sequence[str]) -> tuple[str, ...]:
        """The values at the fewest fraction bits of any, and the least common divisor.

        Averages leave other scales. A truncation is as exact as a product's, and takes bits off; a
        divisor is multiplied in, which is exact.
        """
        if math.lcm(*(self.values[name].divisor for name in names)) > _EXACT_DIVISOR:
            names = [self._undivided(name) for name in names]
        frac = min(self.values[name].frac for name in names)
        divisor = math.lcm(*(self.values[name].divisor for name in names))
        return tuple(self._at_scale(name, frac, divisor) for name in names)

    def _undivided(self, name: str) -> str:
        """The value at divisor 1, to a part in 2^12: a public factor is multiplied in and cut off.

        Small divisors stay in the scale, which is exact; large ones would fill the ring.
        """
        value, target = self.values[name], f"{name}/undivided"
        if value.divisor <= _EXACT_DIVISOR:
            return name
        if target not in self.values:
            shift = FACTOR_BITS + value.divisor.bit_length()
            factor = round(2**shift / value.divisor)
            needed = value.bits - value.divisor.bit_length() + shift + 1
            source = self.at_bits(name, min(needed, self.params.ring_bits))
            wide, scaled = self.values[source], f"{name}/scaled"
            step = local.Scale(scaled, (source,), scaled, wide.shape, factor, 0, shift, 1)
            frac = wide.frac + shift
            self.add(step, dataclasses.replace(wide, frac=frac, divisor=1))
            self.truncate(scaled, target, shift)
        return target

    def _at_scale(self, name: str, frac: int, divisor: int) -> str:
        value = self.values[name]
        shift, factor = value.frac - frac, divisor // value.divisor
        if shift:
            name, source = f"{name}/by{shift}", name
            if name not in self.values:
                self.truncate(source, name, shift)
        if factor > 1:
            name, source = f"{name}/times{factor}", name
            value = self.values[source]
            scaled = dataclasses.replace(value, divisor=divisor)
            step = local.Scale(name, (source,), name, value.shape, factor, 0, 0, divisor)
            if name not in self.values:
                self.add(step, scaled)
        return name

    def _summands(self, names: tuple[str, ...], total: str) -> tuple[str, ...]:
        """Operands of a sum, lifted instead of it where one has the bits that the sum needs.

        This costs the same, and a lift takes values of half the ring only: summands span less.
        """
        needed = self.needed[total]
        widest = max(self.values[self.lifted.get(name, name)].bits for name in names)
        return names if widest < needed else tuple(self.at_bits(name, needed) for name in names)


def _operator(
    layer: g.Conv2d | g.Linear, shape: Sequence[int]
) -> tuple[Shape, MatMul | Convolution]:
    """Weight shape and operator of a layer whose input has this shape."""
    if isinstance(layer, g.Linear):
        return (shape[-1], layer.out_features), MatMul()
    weight = (*layer.kernel, shape[-1] // layer.groups, layer.out_channels)
    return weight, Convolution(layer.kernel, layer.stride, layer.padding, layer.groups)
