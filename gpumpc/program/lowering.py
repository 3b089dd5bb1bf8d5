"""graph + params -> program: which steps a layer becomes, and how many bits each value has.

A product is one modulo 2^k; truncation leaves K = k - shift bits; ReLU and clamp lift their result
to the ring of the next product in their own last round; a value without activation is lifted where
that is needed, once.
"""

import dataclasses
from collections.abc import Sequence

from gpumpc.errors import PlanError
from gpumpc.nn import graph as g
from gpumpc.params import Params
from gpumpc.program.program import Program, Value, WeightSpec, Width, Widths
from gpumpc.protocols import linear, pooling, relu
from gpumpc.protocols.linear import Convolution, MatMul
from gpumpc.protocols.ranking.argmax import Argmax
from gpumpc.protocols.ranking.positions import Negate, Positions
from gpumpc.protocols.ranking.shuffle import Shuffle
from gpumpc.protocols.ranking.topk import TopK
from gpumpc.protocols.step import Shape, Step
from gpumpc.protocols.truncation import Lift, Truncate

_JOINS: dict[type[g.Layer], type[Step]]
_JOINS = {g.Add: pooling.Add, g.Concat: pooling.Concat, g.Flatten: pooling.Flatten}


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

    Raises PlanError where scales do not fit, as of summands averaged over different windows.
    """
    return _Compiler(graph, params, batch_size, output_bits, widths or {}).program()


class _Compiler:
    """Walks the graph once backwards, for the bits needed, and once forwards, for the steps."""

    def __init__(
        self,
        graph: g.Graph,
        params: Params,
        batch_size: int,
        output_bits: int | None,
        widths: Widths,
    ) -> None:
        self.graph, self.params, self.batch_size, self.widths = graph, params, batch_size, widths
        self.shapes = {name: (batch_size, *shape) for name, shape in graph.shapes().items()}
        self.consumers: dict[str, list[g.AnyLayer]] = {layer.name: [] for layer in graph.layers}
        for layer in graph.layers:
            for name in layer.inputs:
                self.consumers[name].append(layer)
        self.needed = self._needed_bits(output_bits)
        self.steps: list[Step] = []
        self.values: dict[str, Value] = {}
        self.lifted: dict[str, str] = {}
        self.opened: dict[str, str] = {}
        self.weights: dict[str, WeightSpec] = {}

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
        if isinstance(layer, (g.Conv2d, g.Linear)):
            return self._width(layer.name).ring_bits
        if isinstance(layer, (g.ReLU, g.Clamp, g.MaxPool, g.Argmax, g.TopK)):
            # These compare values of any width, but a clamp's result is as wide as its constant,
            # with no room for a difference, nor for a sum on the way here.
            truncated = Width(self.params.ring_bits - self.params.frac_bits, 0)
            return self.widths.get(layer.name, truncated).ring_bits
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
            case g.MaxPool():
                self._max_pool(layer)
            case g.AvgPool():
                self._avg_pool(layer)
            case g.Argmax():
                self._argmax(layer)
            case g.TopK():
                self._top_k(layer)
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

    def _add(self, step: Step, value: Value) -> None:
        """Append a step that makes this value."""
        self.steps.append(step)
        self.values[step.output] = value

    def _at_bits(self, name: str, bits: int) -> str:
        """Name of the value with at least `bits` bits: itself, or its lift."""
        value = self.values[name]
        if value.bits >= bits:
            return name
        if name not in self.lifted:
            target = self.lifted[name] = f"{name}/lift"
            lift = Lift(target, (name,), target, value.shape, value.bits, bits)
            self._add(lift, dataclasses.replace(value, bits=bits))
        return self.lifted[name]

    def _operand(self, name: str) -> str:
        """Name of the value as an operand: lifted, and opened once where weights are private."""
        readers = (r.name for r in self.consumers[name] if isinstance(r, (g.Conv2d, g.Linear)))
        ring_bits = max(self._width(reader).ring_bits for reader in readers)
        source = self._at_bits(name, ring_bits)
        if self.params.weights == "public":
            return source
        if source not in self.opened:
            target = self.opened[source] = f"{name}/open"
            shape = self.values[source].shape
            self.steps.append(linear.Open(target, (source,), target, shape, ring_bits))
        return self.opened[source]

    def _product(self, layer: g.Conv2d | g.Linear) -> None:
        width, f = self._width(layer.name), self.params.frac_bits
        ring_bits = width.ring_bits
        [name] = layer.inputs
        source = self.values[name]
        shape, operator = _operator(layer, source.shape)
        out, frac = self.shapes[layer.name], source.frac + width.weight_frac
        scales = float(2**width.weight_frac) / source.divisor, float(2**frac)
        self.weights[layer.name] = WeightSpec(shape, shape[-1:], ring_bits, *scales)
        product = Value(out, ring_bits, frac)
        # A product that only a selection reads, or nobody, is not truncated.
        is_final = all(isinstance(r, (g.Argmax, g.TopK)) for r in self.consumers[layer.name])
        target = layer.name if is_final else f"{layer.name}/product"
        place = target, (self._operand(name),), target, source.shape, layer.name
        kind = linear.PublicProduct if self.params.weights == "public" else linear.PrivateProduct
        self._add(kind(*place, operator, out, ring_bits, frac), product)
        if not is_final:
            # Every layer works at scale 2^f.
            shift = frac - f
            truncated = dataclasses.replace(product, bits=ring_bits - shift, frac=f)
            self._add(Truncate(layer.name, (target,), layer.name, out, ring_bits, shift), truncated)

    def _compared_bits(self, name: str) -> int:
        """Bits in which a value is compared: never more than a truncated product has."""
        return min(self.values[name].bits, self.params.ring_bits - self.params.frac_bits)

    def _activation(self, layer: g.ReLU | g.Clamp) -> None:
        [name] = layer.inputs
        source, bits, high = self.values[name], self._compared_bits(name), self.needed[layer.name]
        if isinstance(layer, g.ReLU):
            step = relu.ReLU(layer.name, layer.inputs, layer.name, source.shape, bits, high)
            return self._add(step, dataclasses.replace(source, bits=max(bits, high)))
        top = round(layer.high * source.scale)
        if not 0 < top < 1 << (bits - 2):
            raise PlanError(
                f"layer '{layer.name}' clamps at {layer.high}, outside its ring of {bits} bits at "
                f"scale {source.scale:g}",
                "the constant must be positive and leave room above it",
                "choose a larger k or a smaller f",
            )
        clamp = relu.Clamp(layer.name, layer.inputs, layer.name, source.shape, bits, high, top)
        self._add(clamp, dataclasses.replace(source, bits=clamp.out_bits))

    def _max_pool(self, layer: g.MaxPool) -> None:
        [name] = layer.inputs
        bits = self._compared_bits(name)
        top, bottom, left, right = layer.padding
        windows = (
            pooling.Window(2, layer.window[1], layer.stride[1], left, right),
            pooling.Window(1, layer.window[0], layer.stride[0], top, bottom),
        )
        source = self.values[name]
        step = pooling.MaxPool(layer.name, (name,), layer.name, source.shape, bits, windows)
        self._add(step, dataclasses.replace(source, shape=self.shapes[layer.name], bits=bits))

    def _avg_pool(self, layer: g.AvgPool) -> None:
        source = self.values[layer.inputs[0]]
        frac, divisor = pooling.averaged(source.frac, source.divisor, layer.window)
        place = layer.name, layer.inputs, layer.name, source.shape
        step = pooling.SumPool(*place, layer.window, layer.stride)
        self._add(step, Value(self.shapes[layer.name], source.bits, frac, divisor))

    def _argmax(self, layer: g.Argmax) -> None:
        source = self.values[layer.inputs[0]]
        step = Argmax(layer.name, layer.inputs, layer.name, source.shape, source.bits)
        self._add(step, Value(self.shapes[layer.name], step.index_bits, 0))

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
        self._add(step, Value(selected, id_bits, 0))

    def _join(self, layer: g.AnyLayer) -> None:
        sources = [self.values[name] for name in layer.inputs]
        scales = {(source.frac, source.divisor) for source in sources}
        if len(scales) > 1:
            raise PlanError(
                f"layer '{layer.name}' joins values of different scales",
                "they were averaged over windows of different sizes",
                "average them alike, or put a convolution between",
            )
        names = self._summands(layer) if isinstance(layer, g.Add) else layer.inputs
        bits = min(self.values[name].bits for name in names)
        value = dataclasses.replace(sources[0], shape=self.shapes[layer.name], bits=bits)
        self._add(_JOINS[type(layer)](layer.name, names, layer.name, sources[0].shape), value)

    def _summands(self, layer: g.Add) -> tuple[str, ...]:
        """Operands of a sum, lifted instead of it where one has the bits that the sum needs.

        This costs the same, and a lift takes values of half the ring only: summands span less.
        """
        needed = self.needed[layer.name]
        widest = max(self.values[self.lifted.get(name, name)].bits for name in layer.inputs)
        if widest < needed:
            return layer.inputs
        return tuple(self._at_bits(name, needed) for name in layer.inputs)


def _operator(
    layer: g.Conv2d | g.Linear, shape: Sequence[int]
) -> tuple[Shape, MatMul | Convolution]:
    """Weight shape and operator of a layer whose input has this shape."""
    if isinstance(layer, g.Linear):
        return (shape[-1], layer.out_features), MatMul()
    weight = (*layer.kernel, shape[-1] // layer.groups, layer.out_channels)
    return weight, Convolution(layer.kernel, layer.stride, layer.padding, layer.groups)
