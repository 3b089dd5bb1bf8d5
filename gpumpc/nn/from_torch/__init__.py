"""A torch module, through `torch.export`, as a graph of plan records.

Torch counts channels first, plans count them last: an input (C, H, W) is the plan's (H, W, C), and
so is every image inside. A result without pixels has torch's order.
"""

import copy
import math
import warnings

import torch

from gpumpc.errors import OutOfRange, PlanError
from gpumpc.nn.from_torch.importer import Importer
from gpumpc.nn.from_torch.operators.handlers import HANDLERS, VIEWS
from gpumpc.nn.graph import Graph
from gpumpc.nn.passes import Weights

__all__ = ["graph_from_torch"]


def graph_from_torch(
    module: torch.nn.Module, example: torch.Tensor, low: float, high: float
) -> tuple[Graph, Weights]:
    """Import a model in evaluation mode; the module itself is not changed.

    Args:
        module: takes one tensor, returns one tensor.
        example: (B, C, H, W), (B, C) or the like for any B >= 1; only its shape matters.
        low, high: every real input value lies in [low, high].

    Returns:
        the graph, and its arrays `NAME.weight`, `NAME.bias`. Images are channels last.

    Raises:
        UnsupportedOperator: an operator without a private counterpart, with its module path.
        BadValue: a parameter contains NaN or infinity.
        OutOfRange: [low, high] is not an interval of finite numbers.
        PlanError: torch.export cannot trace the module.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        what = f"[{low}, {high}] is not a range of input values"
        raise OutOfRange(what, hint="pass finite low < high")
    return Importer(_export(module, example), HANDLERS, VIEWS).run(low, high)


def _export(module: torch.nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    frozen = copy.deepcopy(module).eval()
    reference = next(frozen.parameters(), example)
    try:
        # torch warns about its own internals here, and callers may run with warnings as errors.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(frozen, (example.detach().to(reference.dtype),))
    except Exception as error:  # torch.export raises errors of many unrelated types
        raise PlanError(
            f"torch.export cannot trace {type(module).__name__} on a {tuple(example.shape)} input",
            (str(error).strip() or type(error).__name__).splitlines()[0],
            "check that the module runs on this example, without control flow that reads values",
        ) from error
