"""Operators of torch, one small network each, against torch itself in double precision."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.nn.test_from_torch import Fn, imported

# Each on (4, 9, 11), unless a shape stands beside it.
CONVOLUTIONS = {
    "dilated": nn.Conv2d(4, 6, 3, dilation=2, padding=2),
    "dilated by two numbers, grouped": nn.Conv2d(
        4, 6, (3, 2), dilation=(3, 2), padding=(1, 4), groups=2
    ),
    "dilated and strided": nn.Conv2d(4, 6, 3, dilation=2, stride=2, padding=1),
    "dilated, same": nn.Conv2d(4, 6, 3, dilation=2, padding="same"),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed 2x2": nn.ConvTranspose2d(4, 6, 2, stride=2),
    "transposed, grouped, dilated": nn.ConvTranspose2d(
        4, 6, (3, 4), stride=(1, 3), padding=(0, 2), groups=2, dilation=(2, 1)
    ),
    "transposed, cropped": nn.ConvTranspose2d(4, 6, 2, stride=2, padding=3),
}
POOLS = {
    "nearest": nn.Upsample(scale_factor=2),
    "nearest to a size": nn.Upsample(size=(13, 5)),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, corners": nn.Upsample(size=(20, 15), mode="bilinear", align_corners=True),
    "bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
    "average, padded": nn.AvgPool2d(3, 2, padding=1),
    "average, padding left out": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "average, ceil": nn.AvgPool2d(2, 2, ceil_mode=True),
    "average, divisor": nn.AvgPool2d(2, divisor_override=3),
    "maximum, ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "maximum, padded, ceil": nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
    "maximum, dilated": nn.MaxPool2d(3, 1, dilation=2, padding=1),
    "adaptive average": nn.AdaptiveAvgPool2d((4, 7)),
    "adaptive maximum": nn.AdaptiveMaxPool2d((4, 7)),
    "reflected border": nn.ReflectionPad2d(2),
    "repeated border": nn.ReplicationPad2d((1, 2, 0, 3)),
}
ACTIVATIONS = {
    "leaky": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(4),
    "prelu, one slope": nn.PReLU(),
    "hardtanh": nn.Hardtanh(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "batch norm alone": nn.BatchNorm2d(4),
    "instance norm, frozen": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "batch norm of a vector": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(396), nn.Linear(396, 3)),
    "relu of a vector": nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(396, 5)),
    "flattened output": nn.Flatten(),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolution_matches_torch(name):
    imported(CONVOLUTIONS[name], 4, 9, 11)


@pytest.mark.parametrize("name", POOLS | ACTIVATIONS)
def test_module_matches_torch(name):
    imported((POOLS | ACTIVATIONS)[name], 4, 9, 11)


SMOOTH = {
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu by tanh": nn.GELU("tanh"),
    "elu": nn.ELU(0.7),
    "softplus": nn.Softplus(),
    "mish": nn.Mish(),
    "softmax of channels": nn.Softmax(1),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "layer norm": nn.LayerNorm((4, 9, 11)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_function_matches_torch(name):
    imported(SMOOTH[name], 4, 9, 11)


OTHER_RANKS = {
    "channels shuffled": (nn.ChannelShuffle(2), (8, 4, 5)),
    "pixels shuffled": (nn.PixelShuffle(2), (8, 4, 5)),
    "pixels unshuffled": (nn.PixelUnshuffle(2), (2, 4, 6)),
    "line": (
        nn.Sequential(
            nn.Conv1d(3, 5, 3, padding=1, stride=2),
            nn.BatchNorm1d(5),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.AvgPool1d(2),
            nn.Flatten(),
            nn.Linear(10, 3),
        ),
        (3, 17),
    ),
    "line, dilated": (nn.Conv1d(3, 5, 3, padding=2, dilation=2), (3, 17)),
    "volume": (
        nn.Sequential(
            nn.Conv3d(2, 4, 3, padding=1),
            nn.BatchNorm3d(4),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(4, 6, (2, 3, 1), stride=(1, 2, 1), groups=2, padding="valid"),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        (2, 6, 7, 8),
    ),
    "volume, strided": (nn.Conv3d(2, 4, 3, padding=(2, 1, 0), stride=(2, 1, 2)), (2, 6, 7, 8)),
    "trilinear": (nn.Upsample(scale_factor=2, mode="trilinear"), (2, 3, 4, 5)),
    "average of a volume": (nn.AvgPool3d((2, 2, 1)), (2, 4, 4, 5)),
}


@pytest.mark.parametrize("name", OTHER_RANKS)
def test_lines_and_volumes_match_torch(name):
    module, shape = OTHER_RANKS[name]
    imported(module, *shape)


def shuffled_by_hand(m, x):
    b, c, h, w = x.shape
    return m.conv(x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w))


def attention(m, x):
    b, tokens = len(x), x.flatten(2).transpose(1, 2)
    tokens = torch.cat([m.conv.bias.view(1, 1, 4).expand(b, -1, -1), tokens], 1)
    n = tokens.shape[1]
    q, k, v = m.qkv(tokens).reshape(b, n, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, 4)[:, 0]


FUNCTIONS = {
    "attention": attention,
    "product of two matrices": lambda m, x: m.conv(x).flatten(2) @ x.flatten(2).transpose(1, 2),
    "abs": lambda m, x: x.abs(),
    "clamp around zero": lambda m, x: x.clamp(-1, 2),
    "clamp above": lambda m, x: x.clamp(max=0.5),
    "larger": lambda m, x: torch.maximum(x, m.conv(x)),
    "smaller": lambda m, x: torch.minimum(x, m.conv(x)),
    "maximum of pixels": lambda m, x: x.amax((2, 3)),
    "maximum of channels": lambda m, x: x.amax(1, keepdim=True),
    "minimum of rows": lambda m, x: x.amin(2),
    "maximum with its index unread": lambda m, x: x.max(3)[0],
    "mean of rows": lambda m, x: x.mean(2),
    "mean of channels": lambda m, x: x.mean(1, keepdim=True),
    "mean of everything": lambda m, x: x.mean((1, 2, 3), keepdim=True),
    "sum of pixels": lambda m, x: x.sum((2, 3)),
    "difference": lambda m, x: x - m.conv(x),
    "constant taken away": lambda m, x: x - 0.5,
    "taken from a constant": lambda m, x: 1 - x,
    "times a constant": lambda m, x: x * 0.3,
    "over a constant": lambda m, x: x / 3,
    "zero plus": lambda m, x: 0 + x,
    "scaled sum": lambda m, x: torch.add(x, x, alpha=2),
    "product": lambda m, x: x * m.conv(x),
    "excitation": lambda m, x: x * m.conv(x.mean((2, 3), keepdim=True)),
    "square": lambda m, x: x**2,
    "slices": lambda m, x: x[:, 1:3, ::2, 1:-1],
    "halves": lambda m, x: torch.cat([m.half_of(x.chunk(2, 1)[0]), x.chunk(2, 1)[1]], 1),
    "split": lambda m, x: x.split([1, 3], 1)[1],
    "one channel": lambda m, x: x[:, 2],
    "unbound": lambda m, x: x.unbind(2)[3],
    "linear over channels": lambda m, x: m.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "tokens": lambda m, x: m.fc(x.flatten(2).transpose(1, 2)),
    "mean of tokens": lambda m, x: m.fc(x.flatten(2).transpose(1, 2)).mean(1),
    "linear over columns": lambda m, x: m.columns(x),
    "circular border": lambda m, x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "crop": lambda m, x: F.pad(x, (-1, 0, 2, -2)),
    "border of the output": lambda m, x: F.pad(x, (1, 1)),
    "border of a pool": lambda m, x: F.max_pool2d(F.pad(x, (1, 1)), 2),
    "rows joined": lambda m, x: torch.cat([x, m.conv(x)], 2),
    "stacked": lambda m, x: torch.stack([x, m.conv(x)], 2).flatten(1, 2),
    "flipped": lambda m, x: x.flip(3),
    "mean added": lambda m, x: x + x.mean((2, 3), keepdim=True),
    "weight added": lambda m, x: x + m.conv.bias.view(1, 4, 1, 1),
    "image added": lambda m, x: x + m.image,
    "batch norm of a mean": lambda m, x: m.norm(x.mean((2, 3))),
    "reshaped": lambda m, x: x.reshape(x.shape[0], 2, -1),
    "shuffled by hand": shuffled_by_hand,
    "dropout in place": lambda m, x: F.dropout(m.conv(x), 0.5, m.training, inplace=True),
    "axes of size one": lambda m, x: m.conv(x.mean((2, 3))[:, :, None, None]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_matches_torch(name):
    parts = {"conv": nn.Conv2d(4, 4, 1), "half_of": nn.Conv2d(2, 3, 1), "fc": nn.Linear(4, 5)}
    parts |= {"qkv": nn.Linear(4, 12)}
    module = Fn(FUNCTIONS[name], **parts, columns=nn.Linear(11, 5), norm=nn.BatchNorm1d(4))
    module.image = nn.Parameter(torch.randn(1, 4, 9, 11))
    imported(module, 4, 9, 11)


def test_a_permutation_before_a_linear_layer_costs_nothing():
    graph = imported(nn.Sequential(nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(189, 5)), 4, 9, 11)
    assert [type(layer).__name__ for layer in graph.layers] == [
        *("Input", "Conv2d", "Reshape", "Linear")
    ]
