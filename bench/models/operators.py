"""Small modules with one operator each: `OPERATORS`, by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

SHAPE = (4, 9, 11)


class Forward(nn.Module):
    """A module whose forward is `function(self, x)`; `parts` are its submodules."""

    def __init__(self, function: Callable[[Any, Any], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> Any:
        """The function of x."""
        return self.function(self, x)


@dataclasses.dataclass(frozen=True)
class Case:
    """One model and what it takes.

    Attributes:
        make: builds the module; called with torch's seed set.
        shape: of one item, channels first.
        low, high: the range of the inputs.
        open_batch: the batch is left open in torch.export.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = SHAPE
    low: float = -2.0
    high: float = 2.0
    open_batch: bool = False


def _of(function: Callable[[Any], Any], low: float = -2.0) -> Case:
    """A function of x alone."""
    return Case(lambda: Forward(lambda _, x: function(x)), low=low)


def _beside(function: Callable[[Any, Any], Any]) -> Case:
    """A function of x and of a convolution of x."""
    return Case(lambda: Forward(lambda m, x: function(x, m.conv(x)), conv=nn.Conv2d(4, 4, 1)))


def _conv1d() -> nn.Module:
    layers = nn.Conv1d(3, 5, 3, stride=2, padding=1), nn.BatchNorm1d(5), nn.ReLU(), nn.MaxPool1d(2)
    return nn.Sequential(*layers, nn.AvgPool1d(2), nn.Flatten(), nn.Linear(10, 3))


def _conv3d() -> nn.Module:
    first = nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2)
    second = nn.Conv3d(4, 6, (2, 3, 1), stride=(1, 2, 1), groups=2), nn.AdaptiveAvgPool3d(1)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(6, 3))


def _shuffled(m: Any, x: torch.Tensor) -> torch.Tensor:
    b, c, h, w = x.shape
    y: torch.Tensor = m.conv(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))
    return y


def _halves(m: Any, x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat([m.conv(first), second], 1)


def _attention(m: Any, x: torch.Tensor) -> torch.Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = m.project(tokens).chunk(3, 2)
    return F.scaled_dot_product_attention(q, k, v)


def _in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.conv(x)
    y += x
    return F.relu_(y).mul_(0.5)


def _dropout_in_place(m: Any, x: torch.Tensor) -> torch.Tensor:
    return F.dropout(m.conv(x), 0.5, training=m.training, inplace=True)


def _conv(**options: Any) -> Case:
    return Case(lambda: nn.Conv2d(4, 6, 3, **options))


_CONVOLUTIONS = {
    "conv1d, batch_norm, max_pool1d, avg_pool1d": Case(_conv1d, (3, 17)),
    "conv2d": _conv(stride=2, padding=1),
    "conv3d, max_pool3d, adaptive_avg_pool3d": Case(_conv3d, (2, 6, 7, 8)),
    "conv2d dilation": _conv(dilation=2, padding=2),
    "conv2d groups": _conv(groups=2),
    "conv_transpose2d": Case(lambda: nn.ConvTranspose2d(4, 6, 3, 2, padding=1, output_padding=1)),
    "linear": Case(lambda: nn.Linear(11, 5)),
    "linear on tokens": Case(
        lambda: Forward(lambda m, x: m.f(x.flatten(2).transpose(1, 2)), f=nn.Linear(4, 5))
    ),
    "batch dimension left open": Case(lambda: nn.Conv2d(4, 6, 3), open_batch=True),
}

_NORMS = {
    "batch_norm alone": Case(lambda: nn.BatchNorm2d(4)),
    "batch_norm on vectors": Case(
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(396), nn.Linear(396, 3))
    ),
    "instance_norm frozen": Case(
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    ),
    "instance_norm of the image": Case(lambda: nn.InstanceNorm2d(4, affine=True)),
    "group_norm": Case(lambda: nn.GroupNorm(2, 4)),
    "layer_norm": Case(lambda: nn.LayerNorm([4, 9, 11])),
    "local_response_norm": Case(lambda: nn.LocalResponseNorm(3)),
    "l2 normalize": _of(lambda x: F.normalize(x.flatten(1))),
}

_FUNCTIONS = {
    "relu": Case(nn.ReLU),
    "relu6": Case(nn.ReLU6),
    "leaky_relu": Case(lambda: nn.LeakyReLU(0.2)),
    "prelu": Case(lambda: nn.PReLU(4)),
    "hardtanh": Case(nn.Hardtanh),
    "hardsigmoid": Case(nn.Hardsigmoid),
    "hardswish": Case(nn.Hardswish),
    "abs": _of(torch.abs),
    "clamp": _of(lambda x: x.clamp(-1, 1.5)),
    "sigmoid": Case(nn.Sigmoid),
    "tanh": Case(nn.Tanh),
    "silu": Case(nn.SiLU),
    "gelu": Case(nn.GELU),
    "elu": Case(nn.ELU),
    "softplus": Case(nn.Softplus),
    "exp": _of(torch.exp),
    "log": _of(torch.log, 0.1),
    "reciprocal": _of(torch.reciprocal, 0.1),
    "rsqrt": _of(torch.rsqrt, 0.1),
    "softmax": _of(lambda x: torch.softmax(x.flatten(1), 1)),
    "maximum": _beside(torch.maximum),
    "minimum": _beside(torch.minimum),
    "amax": _of(lambda x: x.amax((2, 3))),
    "mul of two values": _beside(lambda x, y: x * y),
    "squeeze and excite": Case(
        lambda: Forward(
            lambda m, x: x * F.hardsigmoid(m.f(x.mean((2, 3), keepdim=True))), f=nn.Conv2d(4, 4, 1)
        )
    ),
    "attention": Case(lambda: Forward(_attention, project=nn.Linear(4, 12))),
}

_POOLS = {
    "max_pool2d padding": Case(lambda: nn.MaxPool2d(3, 2, padding=1)),
    "max_pool2d ceil_mode": Case(lambda: nn.MaxPool2d(2, 2, ceil_mode=True)),
    "max_pool2d dilation": Case(lambda: nn.MaxPool2d(3, 1, padding=1, dilation=2)),
    "avg_pool2d padding counted": Case(lambda: nn.AvgPool2d(3, 2, padding=1)),
    "avg_pool2d padding not counted": Case(
        lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
    ),
    "avg_pool2d ceil_mode": Case(lambda: nn.AvgPool2d(2, 2, ceil_mode=True)),
    "adaptive_avg_pool2d": Case(lambda: nn.AdaptiveAvgPool2d((4, 7))),
    "adaptive_max_pool2d": Case(lambda: nn.AdaptiveMaxPool2d((4, 7))),
    "mean": _of(lambda x: x.mean((2, 3))),
}

_ARRANGEMENT = {
    "upsample nearest": Case(lambda: nn.Upsample(scale_factor=2)),
    "upsample bilinear": Case(lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    "pixel_shuffle": Case(lambda: nn.PixelShuffle(2)),
    "channel_shuffle by views": Case(lambda: Forward(_shuffled, conv=nn.Conv2d(4, 4, 3))),
    "slice": _of(lambda x: x[:, 1:3, ::2, 1:-1]),
    "chunk": Case(lambda: Forward(_halves, conv=nn.Conv2d(2, 3, 1))),
    "split": _of(lambda x: x.split([1, 3], 1)[1]),
    "permute": _of(lambda x: x.permute(0, 3, 1, 2)),
    "reshape": _of(lambda x: x.reshape(x.shape[0], 2, -1)),
    "pad zero": _of(lambda x: F.pad(x, (1, 0, 2, 1))),
    "pad reflect": Case(lambda: nn.ReflectionPad2d(2)),
    "pad replicate": Case(lambda: nn.ReplicationPad2d((1, 2, 0, 3))),
    "concat of two scales": _beside(lambda x, y: torch.cat([x, 0.01 * y, 3 * y], 1)),
    "several outputs": _beside(lambda x, y: (x, y)),
}

_ARITHMETIC = {
    "add": _beside(lambda x, y: x + y),
    "add a constant": _of(lambda x: x + 0.7),
    "sub": _of(lambda x: 1 - x),
    "mul by a constant": _of(lambda x: x * 0.3),
    "0 + x": _of(lambda x: 0 + x),
    "in place": Case(lambda: Forward(_in_place, conv=nn.Conv2d(4, 4, 1))),
    "dropout in place": Case(lambda: Forward(_dropout_in_place, conv=nn.Conv2d(4, 4, 1))),
}

OPERATORS: dict[str, Case] = (
    _CONVOLUTIONS | _NORMS | _FUNCTIONS | _POOLS | _ARRANGEMENT | _ARITHMETIC
)
