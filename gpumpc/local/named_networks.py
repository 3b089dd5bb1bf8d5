"""Networks by name, compiled: for `compile`, `bench` and `demo`. Needs the extra [torch]."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt
from rich.table import Table

from gpumpc.datasets.fetch import fetch
from gpumpc.errors import MissingExtra, MissingFile, PlanError
from gpumpc.local.compile import Plan, compile
from gpumpc.media.preprocess import LITE0_INPUT
from gpumpc.nn.graph import Conv2d, Linear
from gpumpc.params import Params, one_of
from gpumpc.program.compiler import Calibrated
from gpumpc.program.head import Policy
from gpumpc.program.plan import Bounds, PlanRecord
from gpumpc.ring.prg import expand

if TYPE_CHECKING:
    import torch

N_SAMPLES = 32


def compile_named(
    name: str,
    *,
    size: int = 64,
    params: Params | None = None,
    bounds: Bounds | None = None,
    policy: Policy | None = None,
) -> Plan:
    """A network by name, or from a .pt2 file of torch.export.

    Without `bounds`, Lite0 (which ReLU6 bounds) is certified and the rest calibrated on inputs of
    the declared range.
    """
    chosen = bounds or ("certified" if name == "lite0" else "calibrated")
    one_of("bounds", chosen, get_args(Bounds), PlanError)
    module, example = _named(name, size)
    _, channels, height, width = example.shape
    return compile(
        module,
        example,
        name=Path(name).stem,
        params=params or Params(),
        bounds="certified"
        if chosen == "certified"
        else Calibrated(sample_inputs((N_SAMPLES, height, width, channels))),
        preprocessing=LITE0_INPUT if name == "lite0" else None,
        policy=policy,
    )


def widths_table(plan: PlanRecord) -> Table:
    """How wide each layer computes, and in which mode that was found."""
    guard = f"{plan.guard_bits} guard bits: an input unlike the samples may wrap unnoticed"
    mode = "certified bounds" if plan.bounds == "certified" else f"calibrated, {guard}"
    columns = ("layer", "product, bits", "activation f", "weight f", "compared in at least, bits")
    table = Table(*columns, title=f"{plan.name}: {mode}")
    frac_bits = str(plan.params.frac_bits)
    products = {layer.name for layer in plan.graph.layers if isinstance(layer, (Conv2d, Linear))}
    for name, width in plan.widths.items():
        if name in products:
            table.add_row(name, str(width.ring_bits), frac_bits, str(width.weight_frac), "")
        elif width.ring_bits > 1:
            table.add_row(name, "", "", "", str(width.ring_bits))
    return table


def _named(name: str, size: int) -> tuple[torch.nn.Module, torch.Tensor]:
    try:
        # Only here: everything but compiling runs without torch.
        from gpumpc.models.named import named
    except ImportError as error:
        what, hint = f"'{name}' cannot be compiled", "pip install 'gpumpc[torch]'"
        raise MissingExtra(what, str(error), hint) from error
    return named(name, size, lite0_checkpoint)


def lite0_checkpoint() -> Path:
    """The real ImageNet weights, fetched if they are not here. Raises MissingFile."""
    fetched = fetch(["lite0"], say=lambda _: None)
    if "lite0" not in fetched.files:
        why = fetched.missing.get("lite0", "")
        raise MissingFile("the Lite0 weights cannot be had", why, "see the network connection")
    return fetched.files["lite0"][0]


def sample_inputs(
    shape: tuple[int, ...], low: float = -1.0, high: float = 1.0
) -> npt.NDArray[np.float64]:
    """Inputs spread over [low, high], the same on every run, where only the range matters."""
    key = hashlib.sha256(b"gpumpc sample inputs").digest()
    grey = expand("chacha20", key, math.prod(shape)).astype(np.float64).reshape(shape)
    return low + (high - low) * grey / 255
