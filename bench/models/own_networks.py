"""Networks that no library has under one name, in a few lines each."""

from typing import Any

import torch
from torch import nn


def _block(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()
    )


class UNet(nn.Module):
    """Three levels, whose way up is a transposed convolution, or "nearest" or "bilinear"."""

    def __init__(self, way_up: str, width: int = 8) -> None:
        super().__init__()
        w = width
        self.down = nn.ModuleList([_block(3, w), _block(w, 2 * w), _block(2 * w, 4 * w)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList([_up(way_up, 4 * w, 2 * w), _up(way_up, 2 * w, w)])
        self.join = nn.ModuleList([_block(4 * w, 2 * w), _block(2 * w, w)])
        self.head = nn.Conv2d(w, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        """Two values a pixel."""
        a = self.down[0](x)
        b = self.down[1](self.pool(a))
        c = self.down[2](self.pool(b))
        for up, join, beside in zip(self.up, self.join, (b, a), strict=True):
            c = join(torch.cat([up(c), beside], 1))
        return self.head(c)


def _up(way_up: str, inside: int, outside: int) -> nn.Module:
    if way_up == "transposed":
        return nn.ConvTranspose2d(inside, outside, 2, stride=2)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode=way_up), nn.Conv2d(inside, outside, 1))


def cnn_1d() -> nn.Module:
    """Three convolutions over a signal of one channel."""
    layers: list[nn.Module] = []
    for inside, outside in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv1d(inside, outside, 5, padding=2), nn.BatchNorm1d(outside), nn.ReLU()]
        layers.append(nn.MaxPool1d(4))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 5))
