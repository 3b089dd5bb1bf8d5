"""Networks by name, for the command line."""

from collections.abc import Callable
from pathlib import Path

import torch

from gpumpc.errors import MissingFile, PlanError
from gpumpc.models.lenet import lenet
from gpumpc.models.lite0 import lite0
from gpumpc.models.resnet import resnet18
from gpumpc.models.vgg_small import vgg_small

NAMES = ("lite0", "lenet", "vgg", "resnet18")


def named(
    name: str, size: int, lite0_checkpoint: Callable[[], Path]
) -> tuple[torch.nn.Module, torch.Tensor]:
    """(module, example input (1, C, H, W)) of a known name or a .pt2 file of torch.export.save.

    Raises MissingFile for a name that is neither, PlanError for a file of something else.
    """
    match name:
        case "lite0":
            return lite0(lite0_checkpoint()), torch.zeros(1, 3, size, size)
        case "lenet":
            return lenet(), torch.zeros(1, 1, 28, 28)
        case "vgg":
            return vgg_small(), torch.zeros(1, 3, size, size)
        case "resnet18":
            return resnet18(), torch.zeros(1, 3, size, size)
    if not Path(name).exists():
        hint = f"use {', '.join(NAMES)}, or the path of a .pt2 file"
        why = "it is neither a known name nor a file"
        raise MissingFile(f"there is no network '{name}'", why, hint)
    try:
        program = torch.export.load(name)
        return program.module(), program.example_inputs[0][0]
    except Exception as error:  # torch raises errors of many unrelated types
        what, why = f"{name} holds no exported network", f"torch says {type(error).__name__}"
        hint = (
            "write it with torch.export.save(torch.export.export(model, (example,)), 'model.pt2')"
        )
        raise PlanError(what, why, hint) from error
