"""LeNet as the peers' benchmark defines it (MPC papers' "network C" without the last layer)."""

from collections import OrderedDict

from torch import nn

from gpumpc.models import seeded


def lenet(seed: int = 0) -> nn.Module:
    """(B, 1, 28, 28) -> (B, 128): conv5x5x16-relu-pool2-conv5x5x32-relu-pool2-fc128-relu."""
    return seeded(_layers, seed)


def _layers() -> nn.Module:
    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(1, 16, 5),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(16, 32, 5),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(32 * 4 * 4, 128),
        "relu3": nn.ReLU(),
    }
    return nn.Sequential(OrderedDict(layers))
