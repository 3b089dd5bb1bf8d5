"""Walks a traced module node by node, with the state that the operators' handlers share."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import fx

from gpumpc.errors import BadValue, PlanError, UnsupportedOperator
from gpumpc.nn.graph import Flatten, Graph, Input, Pair, Shape
from gpumpc.nn.passes import FloatArray, RawLayer, Weights, simplify

Arguments = dict[str, Any]

CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")
SUPPORTED = (
    "conv2d, linear, batch_norm, relu, relu6, hardtanh(0, c), clamp(0, c), max_pool2d, avg_pool2d, "
    "adaptive_avg_pool2d, mean over H and W, add, cat over channels, flatten, zero padding, "
    "dropout, argmax"
)
Handler = Callable[["Importer", fx.Node, Arguments], str]


class Importer:
    """The state of one import: the record of each traced value, and shapes of flattened ones."""

    def __init__(self, program: torch.export.ExportedProgram, handlers: dict[str, Handler]) -> None:
        self.program, self.handlers = program, handlers
        self.layers: list[RawLayer] = []
        self.weights: Weights = {}
        self.record_of: dict[fx.Node, str] = {}
        self.tensors = _tensors(program)
        # record of a flattened image -> the (C, H, W) of that image
        self.image_of: dict[str, Shape] = {}
        self.taken: set[str] = set()

    def run(self, low: float, high: float) -> tuple[Graph, Weights]:
        """Graph and arrays; input values lie in [low, high].

        Raises what `graph_from_torch` raises.
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
        if self.layers or len(shape_of(node)) not in (2, 4):
            raise PlanError(
                f"the model's input '{node.name}' of shape {shape_of(node)} cannot be shared",
                "a plan has one input, a batch of images (B, C, H, W) or of vectors (B, C)",
                "wrap the model in a module that takes one such tensor",
            )
        self.record_of[node] = self.unique("input")
        self.layers.append(Input(self.record_of[node], (), _item_shape(shape_of(node)), low, high))

    def _call(self, node: fx.Node) -> None:
        operator = str(node.target).removeprefix("aten.").split(".")[0]
        handler = self.handlers.get(operator.removesuffix("_"))
        if handler is None or not str(node.target).startswith("aten."):
            hint = f"rewrite that part with {SUPPORTED}"
            refuse(node, "it has no private counterpart here", hint)
        name = handler(self, node, bind(node))
        if operator.endswith("_"):
            self._rebind(node, name)
        self.record_of[node] = name

    def _rebind(self, node: fx.Node, name: str) -> None:
        """An operator in place: later readers of its first operand read the result."""
        old = self.record(node, node.args[0])
        flattened = (layer for layer in self.layers if isinstance(layer, Flatten))
        if any(old in (layer.name, *layer.inputs) for layer in flattened):
            why = "it changes a tensor in place that has a flattened view"
            refuse(node, why, "use the form without underscore")
        for other, record in self.record_of.items():
            if record == old:
                self.record_of[other] = name

    def _output(self, node: fx.Node) -> None:
        results = node.args[0]
        result = results[0] if isinstance(results, tuple) and len(results) == 1 else None
        if not isinstance(result, fx.Node) or result not in self.record_of:
            raise PlanError(
                "the model does not return one computed tensor",
                "a plan has exactly one output",
                "wrap the model in a module that returns one tensor",
            )
        last = self.record_of[result]
        # Stable: the output becomes the last record.
        self.layers.sort(key=lambda layer: layer.name == last)

    def record(self, node: fx.Node, operand: object) -> str:
        """The record of an operand. Raises UnsupportedOperator if it is a constant."""
        if not isinstance(operand, fx.Node) or operand not in self.record_of:
            why = f"its operand {operand} is a constant or a parameter"
            refuse(node, why, "compute it from the input only")
        return self.record_of[operand]

    def tensor(self, operand: object, node: fx.Node) -> FloatArray:
        """A parameter or buffer in float64. Raises BadValue naming it if it is not finite."""
        if not isinstance(operand, fx.Node) or operand.name not in self.tensors:
            refuse(node, "its weight is computed while the model runs", "use a plain parameter")
        name, value = self.tensors[operand.name]
        array = value.detach().cpu().double().numpy()
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

    def emit(self, layer: RawLayer, image: Shape | None = None) -> str:
        """Append a record; `image` is the (C, H, W) behind a flattened value."""
        self.layers.append(layer)
        if image is not None:
            self.image_of[layer.name] = image
        return layer.name

    def name_for(self, node: fx.Node, operator: str, weight: object = None) -> str:
        """A name from the module path of the weight's owner, the module, or its container."""
        if isinstance(weight, fx.Node) and weight.name in self.tensors:
            return self.unique(self.tensors[weight.name][0].rpartition(".")[0] or operator)
        path, kind = module_of(node)
        if path and kind.startswith("torch.nn.modules.") and not kind.endswith(CONTAINERS):
            return self.unique(path)
        return self.unique(f"{path}.{operator}" if path else operator)


def _tensors(program: torch.export.ExportedProgram) -> dict[str, tuple[str, torch.Tensor]]:
    """Parameters, buffers and constants: node that reads them -> (name in the model, tensor)."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    values: dict[str, Any] = {**program.constants, **program.state_dict}
    return {node: (name, values[name]) for node, name in names.items()}


def shape_of(node: fx.Node) -> Shape:
    """Torch's shape of a traced value, batch first."""
    return tuple(int(size) for size in node.meta["val"].shape)


def _item_shape(shape: Shape) -> Shape:
    return (*shape[2:], shape[1])


def module_of(node: fx.Node) -> tuple[str, str]:
    """Path and class of the innermost module that a node was traced in."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return (stack[-1][0], str(stack[-1][1])) if stack else ("", "")


def refuse(node: fx.Node, why: str, hint: str) -> NoReturn:
    """Raise UnsupportedOperator naming the operator and its module."""
    path, kind = module_of(node)
    where = f"module '{path}' ({kind.rsplit('.', 1)[-1]})" if path else "the model's own forward"
    raise UnsupportedOperator(f"operator {node.target} in {where} is not supported", why, hint)


def bind(node: fx.Node) -> Arguments:
    """A node's arguments by the names of the operator's schema, defaults filled in."""
    schema: Any = getattr(node.target, "_schema", None)
    arguments = {a.name: a.default_value for a in schema.arguments} if schema else {}
    arguments.update(zip(arguments, node.args, strict=False))
    arguments.update(node.kwargs)
    return arguments


def pair(value: int | Sequence[int]) -> Pair:
    """Torch's one number or list of one or two, as (vertical, horizontal)."""
    values = [int(v) for v in ([value] if isinstance(value, int) else value)]
    return values[0], values[-1]
