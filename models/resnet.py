"""ResNet-18 (He et al. 2015) up to its features."""

import torch
from torch import nn
from torch.nn import functional

from gpumpc.models import seeded

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2
# Images that the batch norms' statistics are measured on: their number, channels and size.
_SEEN = (16, 3, 64, 64)


def _norm(channels: int) -> nn.BatchNorm2d:
    # Without a momentum, the statistics are plain averages of what was seen.
    return nn.BatchNorm2d(channels, momentum=None)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where shapes differ."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = _norm(after)
        self.conv2, self.norm2 = nn.Conv2d(after, after, 3, padding=1, bias=False), _norm(after)
        self.shrinks = stride != 1 or before != after
        if self.shrinks:
            self.conv0, self.norm0 = nn.Conv2d(before, after, 1, stride, bias=False), _norm(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, before, H, W) -> (B, after, ceil(H / stride), ceil(W / stride))."""
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(inner + (self.norm0(self.conv0(x)) if self.shrinks else x))


class ResNet18(nn.Module):
    """(B, 3, H, W) -> features (B, 512): 7x7 stem, 3x3 max-pool, four stages of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 7, 2, padding=3, bias=False)
        self.norm = _norm(WIDTHS[0])
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        sources = (WIDTHS[0], *WIDTHS)
        self.blocks = nn.Sequential(
            *(
                BasicBlock(sources[stage + (i > 0)], width, 2 if stage and not i else 1)
                for stage, width in enumerate(WIDTHS)
                for i in range(BLOCKS)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 512)."""
        x = self.blocks(self.pool(functional.relu(self.norm(self.stem(x)))))
        return x.mean((2, 3))


def resnet18(seed: int = 0) -> nn.Module:
    """ResNet-18 with seeded weights and batch norms that have seen noise: no value vanishes."""
    return seeded(lambda: _that_has_seen_noise(seed), seed)


def _that_has_seen_noise(seed: int) -> nn.Module:
    model = ResNet18()
    with torch.no_grad():
        model(2 * torch.rand(_SEEN, generator=torch.Generator().manual_seed(seed)) - 1)
    return model
