"""One row: a model is compiled, evaluated on integers and on shares, and compared with torch.

Errors are the largest difference of an entry over the spread, which is the largest difference of
an entry between the images: an error of 1 is as large as taking one image for another.
"""

import resource
import time
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import gpumpc
from bench.models.operators import Case
from gpumpc.errors import GpumpcError
from gpumpc.program.compiler import program_of

N_IMAGES = 2
# A result within a hundredth of the spread is the same result; another image's is not.
TOLERANCE = 0.01

FloatArray = npt.NDArray[np.float64]


def check(case: Case, params: gpumpc.Params, calibrated: bool) -> dict[str, Any]:
    """What became of one model: `outcome`, and what was measured up to there.

    `outcome` is "runs"; "refused", with the error's text under `refusal`; "wrong", where a result
    is not torch's or the control did not fail; or "empty", where the images' results are all equal,
    so that nothing was shown.
    """
    images = _images(case, 8)
    module = _model(case, images)
    row: dict[str, Any] = {"k": params.ring_bits, "f": params.frac_bits}
    row["bounds"] = "calibrated" if calibrated else "certified"
    before = time.perf_counter()
    example = torch.zeros(1, *case.shape)
    bounds: Literal["certified"] | gpumpc.Calibrated = "certified"
    if calibrated:
        bounds = gpumpc.Calibrated(channels_last(images))
    try:
        plan = gpumpc.compile(
            _exported(module, case) if case.open_batch else module,
            example,
            input_range=(case.low, case.high),
            bounds=bounds,
            params=params,
        )
    except GpumpcError as error:
        return row | {"outcome": "refused", "refusal": str(error)}
    row["seconds_compile"] = time.perf_counter() - before
    row["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with torch.no_grad():
        wanted = channels_last(module(torch.from_numpy(images[:N_IMAGES]).float()).double().numpy())
    return row | _compared(plan, channels_last(images[:N_IMAGES]), wanted)


def _compared(plan: gpumpc.Plan, x: FloatArray, wanted: FloatArray) -> dict[str, Any]:
    fixed = plan.evaluate(x, fixed_point=True)
    with plan.simulate(batch_size=len(x)) as local:
        before = time.perf_counter()
        secure = local.run(local.share(x)).reveal()
        seconds = time.perf_counter() - before
    cost = program_of(plan.record, len(x)).cost
    row = {
        "seconds_total": seconds,
        "rounds": cost.rounds,
        "online_bytes": cost.online_bytes,
        "offline_bytes": cost.dealer_bytes,
        "batch_size": len(x),
    }
    return row | verdict(wanted, fixed, secure)


def verdict(wanted: FloatArray, fixed: FloatArray, secure: FloatArray) -> dict[str, Any]:
    """Outcome and errors of results (B, ..) in torch, on integers and on shares.

    The control hands the comparison the shares' results in another order of images.
    """
    spread = float(np.abs(wanted - wanted[::-1]).max())
    if not spread > 0:
        return {"outcome": "empty"}

    def error(result: FloatArray, other: FloatArray) -> float:
        return float(np.abs(result - other).max()) / spread

    errors = {
        "spread": spread,
        "error_fixed": error(fixed, wanted),
        "error_shares": error(secure, fixed),
        "error_control": error(secure[::-1], wanted),
    }
    same = errors["error_fixed"] <= TOLERANCE and errors["error_shares"] <= TOLERANCE
    right = same and errors["error_control"] > TOLERANCE
    return {"outcome": "runs" if right else "wrong", **errors}


def channels_last(values: npt.NDArray[Any]) -> FloatArray:
    """(B, C, ..) as (B, .., C); vectors stay."""
    return np.moveaxis(values, 1, -1) if values.ndim > 2 else values


def _images(case: Case, count: int) -> FloatArray:
    """As different as two inputs can be: noise around levels that differ from image to image."""
    noise = np.random.default_rng(7)
    shape = (count, *case.shape)
    level = noise.uniform(0, 1, (count, case.shape[0], *(1 for _ in case.shape[1:])))
    grey = 0.5 * noise.uniform(0, 1, shape) + 0.5 * level
    return case.low + (case.high - case.low) * grey


def _model(case: Case, images: FloatArray) -> nn.Module:
    """In evaluation mode, with statistics of real values in its batch norms."""
    torch.manual_seed(0)
    module = case.make()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.InstanceNorm2d):
            part.momentum = None
    module.train()
    with torch.no_grad():
        module(torch.from_numpy(images).float())
    return module.eval()


def _exported(module: nn.Module, case: Case) -> nn.Module:
    """Through torch.export, with its batch left open."""
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (torch.zeros(2, *case.shape),)
    return torch.export.export(module, example, dynamic_shapes=({0: batch},)).module()
