"""Two networks small enough for tests that run every protocol."""

from collections import OrderedDict

import torch
from torch import nn

from gpumpc.models import seeded


def tiny(seed: int = 0) -> nn.Module:
    """(B, 1, 8, 8) -> (B, 3): convolution, ReLU, 2x2 max-pool, linear."""
    return seeded(_tiny_layers, seed)


def _tiny_layers() -> nn.Module:
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(1, 4, 3, padding=1),
        "relu": nn.ReLU(),
        "pool": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(4 * 4 * 4, 3),
    }
    return nn.Sequential(OrderedDict(layers))


class Residual(nn.Module):
    """(B, 3, 8, 8) -> (B, 8): one inverted residual block between a stem and a global mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 8, 1)
        self.act = nn.ReLU6()
        self.pool = nn.AvgPool2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, 8, 8) -> (B, 8)."""
        stem = self.act(self.stem_norm(self.stem(x)))
        inner = self.project(self.act(self.depthwise(stem)))
        return torch.flatten(self.pool(inner + stem), 1)


def tiny_residual(seed: int = 0) -> nn.Module:
    """`Residual` with seeded weights: depthwise, batch norm, ReLU6, residual add, average pool."""
    return seeded(Residual, seed)
