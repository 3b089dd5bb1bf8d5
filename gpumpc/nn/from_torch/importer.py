"""Walks a traced module node by node, with the state that the operators' handlers share.

Torch puts channels first, plans put them last, and a plan's value may keep any order of axes for as
long as nobody needs another: `Traced` says which. Permutations of axes so cost nothing by
themselves; `ordered` makes one real where an operator asks for it.
"""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from gpumpc.errors import BadValue, PlanError, UnsupportedOperator
from gpumpc.nn.from_torch.nodes import Arguments, bind, module_of, refuse, shape_of, tensors_of
from gpumpc.nn.graph import Graph, Input, Permute, Reshape, Shape
from gpumpc.nn.passes import FloatArray, RawLayer, Weights, raw_shape, simplify

CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")


@dataclasses.dataclass(frozen=True)
class Traced:
    """Where a traced value lies.

    Attributes:
        record: name of the record that makes it.
        order: axis j of the record's items is torch's axis `order[j]`, the batch not counted.
        batch: torch's axis of the batch; most operators take a value only where it comes first.
    """

    record: str
    order: tuple[int, ...]
    batch: int = 0


Result = Traced | tuple[Traced, ...]
Handler = Callable[["Importer", fx.Node, Arguments], Result]


# A tensor of more entries is not copied to float64: VGG-16 has one of 411 MB.
LARGE_ENTRIES = 1 << 20


class Importer:
    """The state of one import: where each traced value lies, and what has been refused."""

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        handlers: dict[str, Handler],
        views: frozenset[str],
    ) -> None:
        self.program, self.handlers, self.views = program, handlers, views
        self.layers: list[RawLayer] = []
        self.shapes: dict[str, Shape] = {}
        self.weights: Weights = {}
        self.found: dict[fx.Node, Result] = {}
        self.tensors = tensors_of(program)
        # node -> the node whose memory it may share
        self.memory: dict[fx.Node, fx.Node] = {}
        self.taken: set[str] = set()
        self.refused: list[UnsupportedOperator] = []

    def run(self, low: float, high: float) -> tuple[Graph, Weights]:
        """Graph and arrays; input values lie in [low, high].

        Raises what `graph_from_torch` raises; UnsupportedOperator names all that are not supported.
        """
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, low, high)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._output(node)
        return simplify(self.layers, self.weights)

    def _placeholder(self, node: fx.Node, low: float, high: float) -> None:
        if node.name in self.tensors:
            return
        if self.layers or len(shape_of(node)) < 2:
            raise PlanError(
                f"the model's input '{node.name}' of shape {shape_of(node)} cannot be shared",
                "a plan has one input, a batch of images (B, C, H, W), vectors (B, C) or the like",
                "wrap the model in a module that takes one such tensor",
            )
        item = shape_of(node)[1:]
        order = channels_last(len(item))
        shape = tuple(item[axis] for axis in order)
        self.found[node] = self.emit(Input(self.unique("input"), (), shape, low, high), order)
        self.memory[node] = node

    def _call(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            self._get_item(node)
            return
        if not any(self.is_traced(source) for source in node.all_input_nodes):
            self._constant(node)
            return
        if node.meta.get("val") is None:
            return  # a check of torch's own that makes no value
        name = str(node.target).removeprefix("aten.").split(".")[0]
        plain = name if name in self.handlers else name.removesuffix("_")
        try:
            handler = self.handlers.get(plain)
            if handler is None or not str(node.target).startswith("aten."):
                refuse(node, "it has no private counterpart here", _hint(self.handlers))
            if any(_is_unknown(self.found.get(source)) for source in node.all_input_nodes):
                found = self._unknown(node)
            else:
                found = handler(self, node, bind(node))
            if plain != name and isinstance(found, Traced):
                self._rebind(node, found)
        except UnsupportedOperator as error:
            self.refused.append(error)
            found = self._unknown(node)
        self.found[node] = found
        source = next((arg for arg in node.args if isinstance(arg, fx.Node)), node)
        shares = plain in self.views or plain != name
        self.memory[node] = self.memory.get(source, source) if shares else node

    def _constant(self, node: fx.Node) -> None:
        """Compute what depends on parameters and constants alone, as torch does."""

        def known(source: fx.Node) -> torch.Tensor:
            return self.tensors[source.name][1]

        args, kwargs = fx.map_arg((node.args, node.kwargs), known)
        with torch.no_grad():
            compute: Any = node.target
            value: Any = compute(*args, **kwargs)
        if isinstance(value, torch.Tensor):
            first = next((self.tensors[i.name][0] for i in node.all_input_nodes), node.name)
            self.tensors[node.name] = first, value

    def _unknown(self, node: fx.Node) -> Result:
        """A stand-in for a refused value, so that what follows is looked at too."""
        values = node.meta["val"]
        if isinstance(values, list | tuple):
            return tuple(Traced("", tuple(range(value.dim() - 1))) for value in values)
        return Traced("", tuple(range(len(shape_of(node)) - 1)))

    def _get_item(self, node: fx.Node) -> None:
        """One of several results, as of a split."""
        source, index = node.all_input_nodes[0], int(str(node.args[1]))
        parts = self.found.get(source)
        if not node.users:
            return
        if isinstance(parts, tuple) and index < len(parts):
            self.found[node], self.memory[node] = parts[index], self.memory[source]
            return
        try:
            refuse(source, f"its result number {index} is read", "read the values alone")
        except UnsupportedOperator as error:
            self.refused.append(error)
            self.found[node], self.memory[node] = self._unknown(node), node

    def _rebind(self, node: fx.Node, result: Traced) -> None:
        """An operator in place: later readers of its first operand read the result."""
        changed = node.args[0]
        if not isinstance(changed, fx.Node):
            return
        old, memory = self.value(node, changed), self.memory[changed]
        later = set(_after(node))
        for other, found in self.found.items():
            if self.memory.get(other) is not memory:
                continue
            if found == old:
                self.found[other] = result
            elif later & set(other.users):
                why = "it changes a tensor in place of which another view is read later"
                refuse(node, why, "use the form without underscore")

    def _output(self, node: fx.Node) -> None:
        if self.refused:
            raise _all_of(self.refused)
        results = node.args[0]
        result = results[0] if isinstance(results, tuple) and len(results) == 1 else None
        found = self.found.get(result) if isinstance(result, fx.Node) else None
        if not isinstance(found, Traced):
            raise PlanError(
                "the model does not return one computed tensor",
                "a plan has exactly one output",
                "wrap the model in a module that returns one tensor",
            )
        if found.batch and isinstance(result, fx.Node):
            refuse(result, "it moves the batch", "return a value whose batch comes first")
        order = channels_last(len(found.order)) if found.order else ()
        last = self.permuted(node, found, order)
        # Stable: the output becomes the last record.
        self.layers.sort(key=lambda layer: layer.name == last)

    # for handlers

    def is_traced(self, operand: object) -> bool:
        """Whether an operand depends on the input."""
        return isinstance(operand, fx.Node) and operand in self.found

    def value(self, node: fx.Node, operand: object) -> Traced:
        """Where an operand lies, its batch first.

        Raises UnsupportedOperator if it is a constant, or several, or its batch was moved.
        """
        found = self.with_batch_anywhere(node, operand)
        if found.batch:
            refuse(node, f"the batch is its axis {found.batch}", "put the batch first")
        return found

    def with_batch_anywhere(self, node: fx.Node, operand: object) -> Traced:
        """As `value`, for operators that take a batch at any axis."""
        found = self.found.get(operand) if isinstance(operand, fx.Node) else None
        if not isinstance(found, Traced):
            why = f"its operand {operand} is a constant or a parameter"
            refuse(node, why, "compute it from the input only")
        return found

    def ordered(self, node: fx.Node, operand: object, order: tuple[int, ...]) -> str:
        """The record of an operand with its axes in this order."""
        value = self.value(node, operand)
        return self.permuted(node, value, order)

    def permuted(self, node: fx.Node, value: Traced, order: tuple[int, ...]) -> str:
        """The record of a value with its axes in this order: itself, or a permutation of it."""
        if value.order == order:
            return value.record
        axes = tuple(value.order.index(axis) for axis in order)
        name = self.name_for(node, "permute")
        return self.emit(Permute(name, (value.record,), axes), order).record

    def reshaped(self, node: fx.Node, record: str, shape: Shape) -> str:
        """The record of a value under another shape."""
        name = self.name_for(node, "reshape")
        return self.emit(Reshape(name, (record,), shape), ()).record

    def tensor(self, operand: object, node: fx.Node) -> FloatArray:
        """A parameter or buffer in float64, or a large one in float32 if that is its type.

        Raises BadValue naming it if it is not finite.
        """
        if not isinstance(operand, fx.Node) or operand.name not in self.tensors:
            refuse(node, "its weight is computed while the model runs", "use a plain parameter")
        name, value = self.tensors[operand.name]
        plain = value.detach().cpu()
        is_large = plain.numel() > LARGE_ENTRIES and plain.dtype == torch.float32
        array: FloatArray = (plain if is_large else plain.double()).numpy()
        if not np.isfinite(array).all():
            hint = "train or load the model again"
            raise BadValue(f"parameter '{name}' contains NaN or infinity", hint=hint)
        return array

    def unique(self, name: str) -> str:
        """The name, or the name with the first free number behind it."""
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def emit(self, layer: RawLayer, order: tuple[int, ...]) -> Traced:
        """Append a record whose items have their axes in this order."""
        self.layers.append(layer)
        self.shapes[layer.name] = raw_shape(layer, [self.shapes[name] for name in layer.inputs])
        return Traced(layer.name, order)

    def name_for(self, node: fx.Node, kind: str, weight: object = None) -> str:
        """A name from the module path of the weight's owner, the module, or its container."""
        if isinstance(weight, fx.Node) and weight.name in self.tensors:
            return self.unique(self.tensors[weight.name][0].rpartition(".")[0] or kind)
        path, owner = module_of(node)
        if path and owner.startswith("torch.nn.modules.") and not owner.endswith(CONTAINERS):
            return self.unique(path)
        return self.unique(f"{path}.{kind}" if path else kind)


def _is_unknown(found: Result | None) -> bool:
    parts = found if isinstance(found, tuple) else (found,)
    return any(isinstance(part, Traced) and not part.record for part in parts)


def channels_last(rank: int) -> tuple[int, ...]:
    """The order (1, .., rank - 1, 0) in which plans hold torch's (C, ..)."""
    return (*range(1, rank), 0)


def _after(node: fx.Node) -> list[fx.Node]:
    nodes: list[Any] = list(node.graph.nodes)
    return nodes[nodes.index(node) + 1 :]


def _hint(handlers: dict[str, Handler]) -> str:
    names = sorted(name for name in handlers if not name.startswith("_"))
    return f"rewrite that part with {', '.join(names)}"


def _all_of(refused: list[UnsupportedOperator]) -> UnsupportedOperator:
    """One error that names every operator that was refused."""
    if len(refused) == 1:
        return refused[0]
    lines = [f"{error.what}: {error.why}" for error in refused]
    hints = dict.fromkeys(error.hint for error in refused)
    what = f"{len(refused)} operators of the model are not supported"
    return UnsupportedOperator(what, "; ".join(lines), "; ".join(hints))
