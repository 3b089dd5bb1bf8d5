"""VGG-small as the peers' benchmark defines it."""

from __future__ import annotations

from torch import nn

from gpumpc.models import seeded

CHANNELS = (32, 64, 128)


def vgg_small(seed: int = 0) -> nn.Module:
    """(B, 3, 64, 64) -> (B, 128): 3x3 convolutions, padding 1, in pairs of 32, 64, 128 channels; then the mean.

    A ReLU after each convolution, a 2x2 max-pool after each pair, a global average pool at the end.
    """
    return seeded(_layers, seed)


def _layers() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for width in CHANNELS:
        for source in (before, width):
            layers += [nn.Conv2d(source, width, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
