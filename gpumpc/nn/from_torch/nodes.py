"""What a node of torch's graph says: its shape, its module, its arguments, its parameters."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import fx

from gpumpc.errors import UnsupportedOperator
from gpumpc.nn.graph import Pair, Shape

Arguments = dict[str, Any]


def tensors_of(program: torch.export.ExportedProgram) -> dict[str, tuple[str, torch.Tensor]]:
    """Parameters, buffers and constants: node that reads them -> (name in the model, tensor)."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    values: dict[str, Any] = {**program.constants, **program.state_dict}
    return {node: (name, values[name]) for node, name in names.items()}


def shape_of(node: fx.Node) -> Shape:
    """Torch's shape of a traced value, batch first; a size left open is the example's."""
    return tuple(
        int((getattr(size, "node", None) and size.node.hint) or size)
        for size in node.meta["val"].shape
    )


def item_of(node: fx.Node) -> Shape:
    """Torch's shape of one item of a traced value."""
    return shape_of(node)[1:]


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


def many(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Torch's one number or list of one or `count`, as so many."""
    values = [int(v) for v in ([value] if isinstance(value, int) else value)]
    return tuple(values * count if len(values) == 1 else values)


def both(value: int | Sequence[int]) -> Pair:
    """Torch's one number or two, as (vertical, horizontal)."""
    first, second = many(value, 2)
    return first, second


def item_axis(node: fx.Node, operand: fx.Node, axis: Any) -> int:
    """An axis of an operand without the batch. Raises UnsupportedOperator for the batch's own."""
    found = int(axis) % len(shape_of(operand))
    if found == 0:
        refuse(node, "it works along the batch", "let each item be computed alone")
    return found - 1
