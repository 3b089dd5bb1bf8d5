"""Networks by name, compiled: for `compile`, `bench` and `demo`. Needs the extra [torch]."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from rich.table import Table

from gpumpc.datasets.fetch import fetch
from gpumpc.errors import ConfigError, MissingExtra, MissingFile
from gpumpc.local.compile import Plan, compile
from gpumpc.media.preprocess import LITE0_INPUT
from gpumpc.nn.graph import Conv2d, Linear
from gpumpc.params import Params
from gpumpc.program.head import Policy
from gpumpc.program.plan import Bounds, PlanRecord
from gpumpc.ring.prg import expand

N_SAMPLES = 32


def compile_named(
    name: str,
    *,
    size: int = 64,
    ring_bits: int = 40,
    frac_bits: int = 13,
    weights: str = "private",
    bounds: str | None = None,
    policy: str | None = None,
) -> Plan:
    """A network by name, or from a .pt2 file of torch.export.

    Without `bounds`, Lite0 (which ReLU6 bounds) is certified and the rest calibrated on inputs of
    the declared range.
    """
    params = Params(
        ring_bits=ring_bits,
        frac_bits=frac_bits,
        weights=cast(Literal["private", "public"], one_of(weights, "private", "public")),
    )
    chosen = cast(
        Bounds,
        one_of(
            bounds or ("certified" if name == "lite0" else "calibrated"), "certified", "calibrated"
        ),
    )
    module, example = _named(name, size)
    _, channels, height, width = example.shape
    return compile(
        module,
        example,
        name=Path(name).stem,
        params=params,
        bounds=chosen,
        samples=sample_inputs((N_SAMPLES, height, width, channels))
        if chosen == "calibrated"
        else None,
        preprocessing=LITE0_INPUT if name == "lite0" else None,
        policy=cast(Policy, one_of(policy, "label", "top5", "logits")) if policy else None,
    )


def widths_table(plan: PlanRecord) -> Table:
    """How wide each layer computes, and in which mode that was found."""
    mode = (
        f"calibrated, {plan.guard_bits} guard bits: an input unlike the samples may wrap unnoticed"
    )
    title = f"{plan.name}: {'certified bounds' if plan.bounds == 'certified' else mode}"
    table = Table(
        "layer",
        "product, bits",
        "activation f",
        "weight f",
        "compared in at least, bits",
        title=title,
    )
    products = {layer.name for layer in plan.graph.layers if isinstance(layer, (Conv2d, Linear))}
    for name, width in plan.widths.items():
        if name in products:
            table.add_row(
                name, str(width.ring_bits), str(plan.params.frac_bits), str(width.weight_frac), ""
            )
        elif width.ring_bits > 1:
            table.add_row(name, "", "", "", str(width.ring_bits))
    return table


def _named(name: str, size: int) -> tuple[Any, Any]:
    try:
        # Only here: everything but compiling runs without torch.
        from gpumpc.models.named import named
    except ImportError as error:
        raise MissingExtra(
            f"'{name}' cannot be compiled", str(error), "pip install 'gpumpc[torch]'"
        ) from error
    return named(name, size, lite0_checkpoint)


def one_of(value: str, *allowed: str) -> str:
    """`value`, if it is one of the allowed. Raises ConfigError."""
    if value not in allowed:
        raise ConfigError(f"'{value}' is not known", hint=f"use {' or '.join(allowed)}")
    return value


def lite0_checkpoint() -> Path:
    """The real ImageNet weights, fetched if they are not here. Raises MissingFile."""
    fetched = fetch(["lite0"], say=lambda _: None)
    if "lite0" not in fetched.files:
        raise MissingFile(
            "the Lite0 weights cannot be had",
            fetched.missing.get("lite0", ""),
            "see the network connection",
        )
    return fetched.files["lite0"][0]


def sample_inputs(
    shape: tuple[int, ...], low: float = -1.0, high: float = 1.0
) -> npt.NDArray[np.float64]:
    """Inputs spread over [low, high], the same on every run: a stand-in for images where only
    ranges matter.
    """
    key = hashlib.sha256(b"gpumpc sample inputs").digest()
    grey = expand("chacha20", key, math.prod(shape)).astype(np.float64).reshape(shape)
    return low + (high - low) * grey / 255
