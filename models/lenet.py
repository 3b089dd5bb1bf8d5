"""LeNet as the peers' benchmark defines it (MPC papers' "network C" without the last layer)."""

from __future__ import annotations

from torch import nn

from gpumpc.models import seeded


def lenet(seed: int = 0) -> nn.Module:
    """(B, 1, 28, 28) -> (B, 128): conv5x5x16-relu-pool2-conv5x5x32-relu-pool2-fc128-relu, no padding."""
    return seeded(_layers, seed)


def _layers() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 128),
        nn.ReLU(),
    )
