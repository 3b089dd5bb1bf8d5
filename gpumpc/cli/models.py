"""Networks by name, compiled: for `compile`, `bench` and `demo`. Needs the extra [torch]."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from gpumpc.errors import ConfigError, MissingExtra, MissingFile
from gpumpc.media.fetch import fetch
from gpumpc.media.patches import LITE0_INPUT
from gpumpc.nn.graph import Graph
from gpumpc.nn.plan import Bounds, Preprocessing
from gpumpc.params import Params
from gpumpc.ring.prg import expand
from gpumpc.roles.compiled import CompiledPlan, compile

N_SAMPLES = 32


def compile_named(
    name: str, *, size: int = 64, k: int = 40, f: int = 13, weights: str = "private", bounds: str | None = None
) -> CompiledPlan:
    """A network by name, or from a .pt2 file of torch.export.

    Without `bounds`, Lite0 (which ReLU6 bounds) is certified and the rest calibrated on inputs of the declared range.
    """
    params = Params(k=k, f=f, weights=cast(Literal["private", "public"], _one_of(weights, "private", "public")))
    module, example, preprocessing, usual = _module(name, size)
    chosen = cast(Bounds, _one_of(bounds or usual, "certified", "calibrated"))
    samples = sample_inputs((N_SAMPLES, *np.moveaxis(np.empty(example.shape[1:]), 0, -1).shape))
    return compile(
        module,
        example,
        name=Path(name).stem,
        params=params,
        bounds=chosen,
        samples=samples if chosen == "calibrated" else None,
        preprocessing=preprocessing,
    )


def _one_of(value: str, *allowed: str) -> str:
    if value not in allowed:
        raise ConfigError(f"'{value}' is not known", "", f"use {' or '.join(allowed)}")
    return value


def _module(name: str, size: int) -> tuple[Any, Any, Preprocessing | None, str]:
    """(module, example, preprocessing, usual bounds)."""
    try:
        import torch

        from gpumpc.models.lenet import lenet
        from gpumpc.models.lite0 import lite0
        from gpumpc.models.vgg_small import vgg_small
    except ImportError as error:
        raise MissingExtra(f"'{name}' cannot be compiled", str(error), "pip install 'gpumpc[torch]'") from error
    match name:
        case "lite0":
            return lite0(lite0_checkpoint()), torch.zeros(1, 3, size, size), LITE0_INPUT, "certified"
        case "lenet":
            return lenet(), torch.zeros(1, 1, 28, 28), None, "calibrated"
        case "vgg" | "vgg_small":
            return vgg_small(), torch.zeros(1, 3, size, size), None, "calibrated"
    if not Path(name).exists():
        raise MissingFile(f"there is no network '{name}'", "", "use lite0, lenet, vgg_small, or the path of a .pt2 file")
    program = torch.export.load(name)
    return program.module(), program.example_inputs[0][0], None, "certified"


def lite0_checkpoint() -> Path:
    """The real ImageNet weights, fetched if they are not here. Raises MissingFile."""
    fetched = fetch(["lite0"], say=lambda _: None)
    if "lite0" not in fetched.files:
        raise MissingFile("the Lite0 weights cannot be had", fetched.missing.get("lite0", ""), "see the network connection")
    return fetched.files["lite0"][0]


def sample_inputs(shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> npt.NDArray[np.float64]:
    """Inputs spread over [low, high], the same on every run: a stand-in for images where only ranges matter."""
    key = hashlib.sha256(b"gpumpc sample inputs").digest()
    grey = expand("chacha20", key, math.prod(shape)).astype(np.float64).reshape(shape)
    return low + (high - low) * grey / 255


def elementwise(layer: Any, n: int, high: float) -> tuple[Graph, dict[str, npt.NDArray[np.float64]]]:
    """A graph of one layer on n values in [-high, high]."""
    from gpumpc.nn.graph import Input

    return Graph((Input("x", (), (n,), -high, high), layer)), {}
