"""The oracle: every layer of a secure run, bit for bit, from the formulas and the seeds alone.

Written from the protocol book (sections 2 to 8), not from the engine: its ring arithmetic, its
convolution, its scales and its rounding are its own. From the package it takes the layer records,
the key derivation and the stream cipher, no more.

Why seeds suffice when weights are private. With E = X - A and F = W - Bm, all modulo 2^k,

    z_0 = E o W_0 + A_0 o F + C_0 + b_0,    W_0 = F + Bm_0,

and everything on the right is X, W, or drawn from a seed that the oracle is given: A and Bm from
both roots, C_0 from server 0's, b_0 from the weight owner's. The product Z = X o W + b is exact, so
z_1 = Z - z_0; truncated by s bits that is ((z_0 + 2^s - 1) mod 2^k >> s) + (z_1 mod 2^k >> s).
Every other layer is exact on the value: its shares do not matter. With public weights z_0 = X_0 o W
depends on the share of X that the protocol before left: the oracle declines.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gpumpc.nn import graph as g
from gpumpc.offline.seeds import SESSION_BYTES, SeedTree, weight_session
from gpumpc.params import Params
from gpumpc.ring.prg import expand, word_bytes
from tests.oracle.moved_entries import mixed, moved

Words = npt.NDArray[np.uint64]  # ring elements; they wrap modulo 2^64, and 2^k divides that
Ints = npt.NDArray[np.int64]  # the signed values they stand for
Product = g.Conv2d | g.Linear
Integer = TypeVar("Integer", np.uint64, np.int64)


@dataclasses.dataclass(frozen=True, repr=False)
class Seeds:
    """Everything random or fresh that a run depends on.

    Attributes:
        roots: each server's secret with the dealer.
        weight_seed: what the model's owner sent to server 0.
        version, pair_id: the digest of the weights and the name of this sharing of them.
        session_id: of the batches.
    """

    roots: tuple[bytes, bytes]
    weight_seed: bytes
    version: str
    weight_sharing_id: str
    session_id: bytes


@dataclasses.dataclass(frozen=True)
class Scale:
    """A ring value v stands for v / (2^frac * divisor)."""

    frac: int
    divisor: int = 1

    @property
    def units(self) -> float:
        """Ring units per real unit."""
        return float(2**self.frac * self.divisor)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a batch must look like.

    Attributes:
        values: the signed value of every layer by name, batch first.
        products: the signed value of every product before its truncation, by layer.
        shares: both servers' shares of it, modulo 2^k.
        opened: E = X - A modulo 2^k of every value that a product reads, by that value's name.
    """

    values: dict[str, Ints]
    products: dict[str, Ints]
    shares: dict[str, tuple[Words, Words]]
    opened: dict[str, Words]


# ring


def reduced(words: Words, bits: int) -> Words:
    """Modulo 2^bits."""
    return words & np.uint64((1 << bits) - 1)


def signed(words: Words, bits: int) -> Ints:
    """The representative in [-2^(bits-1), 2^(bits-1)): the top bit counts -2^(bits-1)."""
    words = reduced(words, bits)
    top = np.uint64(1 << (bits - 1))
    return ((words ^ top) - top).view(np.int64)


def draw(
    params: Params, tree: SeedTree, step: str, name: str, shape: Sequence[int], bits: int
) -> Words:
    """Uniform words modulo 2^bits: the low bits of the little-endian words of the name's stream."""
    size = word_bytes(bits)
    stream = expand(params.cipher, tree.key(step, name), math.prod(shape) * size)
    return reduced(stream.view(f"<u{size}").astype(np.uint64).reshape(shape), bits)


def truncated(z_0: Words, z_1: Words, k: int, shift: int) -> Ints:
    """((z_0 + 2^s - 1) mod 2^k >> s) + (z_1 mod 2^k >> s), a share sum modulo 2^(k - s)."""
    s = np.uint64(shift)
    raised = z_0 + np.uint64((1 << shift) - 1)
    return signed((reduced(raised, k) >> s) + (reduced(z_1, k) >> s), k - shift)


def bilinear(layer: Product, x: Words, w: Words) -> Words:
    """x o w modulo 2^64: numpy multiplies and adds 64-bit integers, and both wrap."""
    if isinstance(layer, g.Linear):
        return np.asarray(x @ w)
    top, bottom, left, right = layer.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    # out[b, r, c] = sum over taps (i, j) of padded[b, r * stride + i, c * stride + j] . w[i, j]
    terms = [
        _channels(window, w[i, j], layer.groups)
        for i, row in enumerate(_taps(padded, 1, layer.kernel[0], layer.stride[0]))
        for j, window in enumerate(_taps(row, 2, layer.kernel[1], layer.stride[1]))
    ]
    return np.asarray(np.add.reduce(terms))


def _taps(x: npt.NDArray[Integer], axis: int, size: int, stride: int) -> list[npt.NDArray[Integer]]:
    """For each offset in a window, what all windows along an axis read there."""
    count = (x.shape[axis] - size) // stride + 1
    return [np.take(x, [stride * n + offset for n in range(count)], axis) for offset in range(size)]


def _channels(x: Words, w: Words, groups: int) -> Words:
    """(.., Cin) times (Cin / groups, Cout): outputs of a group read the inputs of that group."""
    depth, width = w.shape[0], w.shape[1] // groups
    if depth == 1:
        return np.asarray(np.repeat(x, width, axis=-1) * w[0])
    flat = x.reshape(-1, x.shape[-1])
    inputs = np.split(flat, groups, axis=1)
    outputs = [np.ascontiguousarray(part) for part in np.split(w, groups, axis=1)]
    parts = [part @ weight for part, weight in zip(inputs, outputs, strict=True)]
    return np.concatenate(parts, axis=1).reshape(*x.shape[:-1], -1)


# scales


def kept(graph: g.Graph, layer: Product) -> bool:
    """Whether a product is not truncated: only an argmax or a top-k reads it, or no layer."""
    readers = [reader for reader in graph.layers if layer.name in reader.inputs]
    return all(isinstance(reader, g.Argmax | g.TopK) for reader in readers)


def scales(graph: g.Graph, f: int) -> dict[str, Scale]:
    """The scale of every layer's value."""
    found: dict[str, Scale] = {}
    for layer in graph.layers:
        match layer:
            case g.Input():
                found[layer.name] = Scale(f)
            case g.Conv2d() | g.Linear():
                source = found[layer.inputs[0]]
                untruncated = source.frac + math.ceil(math.log2(source.divisor))
                found[layer.name] = Scale(f + (untruncated if kept(graph, layer) else 0))
            case g.AvgPool():
                source, area = found[layer.inputs[0]], math.prod(layer.window)
                power = area.bit_length() - 1
                if area == 1 << power:
                    found[layer.name] = Scale(source.frac + power, source.divisor)
                else:
                    found[layer.name] = Scale(source.frac, source.divisor * area)
            case g.Argmax() | g.TopK():
                found[layer.name] = Scale(0)
            case g.Multiply():
                divisors = [found[name].divisor for name in layer.inputs]
                found[layer.name] = Scale(f, math.prod(divisors))
            case _:
                found[layer.name] = found[layer.inputs[0]]
    return found


def quantised(values: npt.ArrayLike, units: float) -> Ints:
    """Reals as integers: round(v * units), ties to even."""
    return np.rint(np.asarray(values, dtype=np.float64) * units).astype(np.int64)


def integer_weights(
    graph: g.Graph, f: int, weights: Mapping[str, npt.NDArray[np.floating]]
) -> dict[str, Ints]:
    """Weights at scale 2^f over their operand's divisor; biases at the product's scale."""
    at, integers = scales(graph, f), dict[str, Ints]()
    for layer in graph.layers:
        if isinstance(layer, g.Conv2d | g.Linear):
            source, weight, bias = at[layer.inputs[0]], f"{layer.name}.weight", f"{layer.name}.bias"
            # A divisor takes this many bits of a weight, so that it gets as many more.
            w = f + math.ceil(math.log2(source.divisor))
            integers[weight] = quantised(weights[weight], 2.0**w / source.divisor)
            integers[bias] = quantised(weights[bias], 2.0 ** (source.frac + w))
    return integers


# the oracle


@dataclasses.dataclass(frozen=True, repr=False)
class _Static:
    """One layer's weights: in the clear, and what the seeds say of their sharing, modulo 2^k."""

    weight: Words
    bias: Words
    opened: Words  # F
    weight_0: Words  # W_0
    bias_0: Words


class Oracle:
    """Predicts batches of one network under private weights.

    Args:
        weights: signed integers by `NAME.weight` and `NAME.bias`, at the scales of
            `integer_weights`.
        ks: bits of the product of a layer, where they are not k.
    """

    def __init__(
        self,
        graph: g.Graph,
        params: Params,
        weights: Mapping[str, Ints],
        seeds: Seeds,
        ks: Mapping[str, int] | None = None,
    ) -> None:
        if params.weights != "private":
            raise ValueError(
                "with public weights the rounding depends on shares that no seed alone determines"
            )
        self.graph, self.params, self.seeds = graph, params, seeds
        self.scales, self._ks = scales(graph, params.frac_bits), ks or {}
        session = weight_session(seeds.version, seeds.weight_sharing_id)
        masks = [SeedTree(root, session, 0) for root in seeds.roots]
        owner = SeedTree(seeds.weight_seed, bytes(SESSION_BYTES), 0)
        self._static = {
            layer.name: self._static_of(layer.name, weights, masks, owner)
            for layer in graph.layers
            if isinstance(layer, g.Conv2d | g.Linear)
        }

    def _static_of(
        self, name: str, weights: Mapping[str, Ints], masks: list[SeedTree], owner: SeedTree
    ) -> _Static:
        weight, bias = (weights[f"{name}.{part}"].view(np.uint64) for part in ("weight", "bias"))
        k = self.k_of(name)
        bm_0, bm_1 = (draw(self.params, tree, name, "Bm", weight.shape, k) for tree in masks)
        # F = W - Bm;  W_0 = F + Bm_0
        opened = reduced(weight - bm_0 - bm_1, k)
        bias_0 = draw(self.params, owner, name, "bias", bias.shape, k)
        return _Static(weight, bias, opened, reduced(opened + bm_0, k), bias_0)

    def k_of(self, layer: str) -> int:
        """Bits of a layer's product."""
        return self._ks.get(layer, self.params.ring_bits)

    def opened_bits(self, name: str) -> int:
        """Bits in which a value is opened: as many as the widest product that reads it has."""
        readers = [layer for layer in self.graph.layers if name in layer.inputs]
        products = g.Conv2d | g.Linear | g.Multiply
        return max(self.k_of(r.name) for r in readers if isinstance(r, products))

    def predict(self, x: Ints, batch_index: int) -> Prediction:
        """All layers of the batch of this number, on integer inputs (B, *shape) with padding."""
        trees = [SeedTree(root, self.seeds.session_id, batch_index) for root in self.seeds.roots]
        run = _Batch(self, trees[0], trees[1])
        for layer in self.graph.layers:
            run.found.values[layer.name] = run.value(layer, x)
        return run.found


class _Batch:
    """One walk through the graph."""

    def __init__(self, oracle: Oracle, tree_0: SeedTree, tree_1: SeedTree) -> None:
        self.oracle, self.params = oracle, oracle.params
        self.trees = tree_0, tree_1
        self.found = Prediction({}, {}, {}, {})
        self.masks_0: dict[str, Words] = {}

    def value(self, layer: g.AnyLayer, x: Ints) -> Ints:
        """One layer's signed value."""
        inputs = [self.found.values[name] for name in layer.inputs]
        match layer:
            case g.Input():
                return x
            case g.Conv2d() | g.Linear():
                return self._product(layer, inputs[0])
            case g.ReLU():
                return np.asarray(np.maximum(inputs[0], 0))
            case g.Clamp():
                units = self.oracle.scales[layer.inputs[0]].units
                return np.clip(inputs[0], 0, round(layer.high * units))
            case g.MaxPool():
                return _pooled(inputs[0], layer.window, layer.stride, layer.padding, np.maximum)
            case g.AvgPool():
                return _pooled(inputs[0], layer.window, layer.stride, (0, 0, 0, 0), np.add)
            case g.Add():
                return inputs[0] + inputs[1]
            case g.Concat():
                return np.concatenate(inputs, axis=-1)
            case g.Flatten() | g.Reshape() | g.Permute() | g.Take():
                return moved(layer, inputs[0])
            case g.Scale():
                return inputs[0] * int(layer.factor) + self._offset(layer)
            case g.Mix():
                return mixed(layer, inputs[0])
            case g.MatMul():
                raise ValueError("products of two values are checked through g.Multiply")
            case g.Function():
                raise ValueError("the argument is truncated from shares that no seed alone gives")
            case g.Multiply():
                return self._multiplied(layer, *inputs)
            case g.Argmax():
                # The lowest index on ties, by numpy's rule and by the protocol's.
                return np.asarray(inputs[0].argmax(axis=-1))
            case g.TopK():
                return np.asarray((-inputs[0]).argsort(axis=-1, kind="stable")[:, : layer.k])

    def _open(self, name: str, x: Words, bits: int = 0) -> tuple[Words, Words]:
        """(A_0, E) of a value; the products that read it share both.

        With `bits`, of an operand that one product opens for itself.
        """
        if name not in self.masks_0:
            step, k = (name, bits) if bits else (f"{name}/open", self.oracle.opened_bits(name))
            a_0, a_1 = (draw(self.params, tree, step, "A", x.shape, k) for tree in self.trees)
            self.masks_0[name] = a_0
            # E = X - A
            self.found.opened[name] = reduced(x - a_0 - a_1, k)
        return self.masks_0[name], self.found.opened[name]

    def _product(self, layer: Product, value: Ints) -> Ints:
        k, static = self.oracle.k_of(layer.name), self.oracle._static[layer.name]
        keep = kept(self.oracle.graph, layer)
        x = value.view(np.uint64)
        a_0, e = self._open(layer.inputs[0], x)
        # Z = X o W + b
        z = reduced(bilinear(layer, x, static.weight) + static.bias, k)
        step = layer.name if keep else f"{layer.name}/product"
        c_0 = draw(self.params, self.trees[0], step, "C", z.shape, k)
        # z_0 = E o W_0 + A_0 o F + C_0 + b_0;  z_1 = Z - z_0
        products = bilinear(layer, e, static.weight_0) + bilinear(layer, a_0, static.opened)
        z_0 = reduced(products + c_0 + static.bias_0, k)
        z_1 = reduced(z - z_0, k)
        self.found.shares[layer.name] = z_0, z_1
        self.found.products[layer.name] = signed(z, k)
        if keep:
            return self.found.products[layer.name]
        source = self.oracle.scales[layer.inputs[0]]
        return truncated(z_0, z_1, k, source.frac + math.ceil(math.log2(source.divisor)))

    def _offset(self, layer: g.Scale) -> int:
        """Factors with a fraction are refused: what is truncated then, no seed alone gives."""
        if layer.factor != int(layer.factor):
            raise ValueError(f"layer '{layer.name}' has a factor that is no integer")
        return round(layer.offset * self.oracle.scales[layer.inputs[0]].units)

    def _multiplied(self, layer: g.Multiply, x: Ints, y: Ints) -> Ints:
        k, [left, right] = self.oracle.params.ring_bits, layer.inputs
        a_0, e = self._open(left, x.view(np.uint64))
        if x.shape == y.shape:
            b_0, f = self._open(right, y.view(np.uint64))
        else:
            factor = f"{layer.name}/factor"
            b_0, f = self._open(factor, y.view(np.uint64), k)
            self.found.opened[factor] = np.broadcast_to(f, x.shape)
        c_0 = draw(self.params, self.trees[0], f"{layer.name}/product", "C", x.shape, k)
        # Z = X Y;  z_0 = E (F + B_0) + A_0 F + C_0
        z = reduced((x * y).view(np.uint64), k)
        z_0 = reduced(e * (f + b_0) + a_0 * f + c_0, k)
        z_1 = reduced(z - z_0, k)
        self.found.shares[layer.name] = z_0, z_1
        self.found.products[layer.name] = signed(z, k)
        fracs = [self.oracle.scales[name].frac for name in layer.inputs]
        return truncated(z_0, z_1, k, sum(fracs) - self.params.frac_bits)


def _pooled(x: Ints, window: g.Pair, stride: g.Pair, padding: g.Padding, combine: np.ufunc) -> Ints:
    """Sum or maximum over windows; padding is smaller than any value, so it never wins."""
    top, bottom, left, right = padding
    lowest = np.iinfo(np.int64).min
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=lowest)
    rows = combine.reduce(_taps(padded, 1, window[0], stride[0]))
    return np.asarray(combine.reduce(_taps(rows, 2, window[1], stride[1])))
