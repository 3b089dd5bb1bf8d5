"""VGG-small as the peers' benchmark defines it."""

from collections import OrderedDict

from torch import nn

from gpumpc.models import seeded

CHANNELS = (32, 64, 128)


def vgg_small(seed: int = 0) -> nn.Module:
    """(B, 3, 64, 64) -> (B, 128): 3x3 convolutions in pairs of 32, 64, 128 channels, a mean.

    A ReLU after each convolution, a 2x2 max-pool after each pair, a global average pool at the end.
    """
    return seeded(_layers, seed)


def _layers() -> nn.Module:
    layers: dict[str, nn.Module] = {}
    before = 3
    for stage, width in enumerate(CHANNELS, start=1):
        for index, source in enumerate((before, width), start=1):
            layers[f"conv{stage}_{index}"] = nn.Conv2d(source, width, 3, padding=1)
            layers[f"relu{stage}_{index}"] = nn.ReLU()
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
        before = width
    layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(layers))
