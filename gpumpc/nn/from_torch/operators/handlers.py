"""Which function imports which operator of torch. To add an operator, add a line and a function."""

from gpumpc.nn.from_torch.importer import Handler
from gpumpc.nn.from_torch.operators import (
    activations,
    arithmetic,
    arrangement,
    convolutions,
    pooling,
    smooth,
)

_ARRANGEMENT: dict[str, Handler] = {
    **dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"),
        arrangement.reshape,
    ),
    **dict.fromkeys(("permute", "transpose", "t", "numpy_T"), arrangement.permute),
    **dict.fromkeys(("expand", "repeat"), arrangement.expand),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), arrangement.split),
    "slice": arrangement.slice_,
    "narrow": arrangement.narrow,
    "select": arrangement.select,
    "unbind": arrangement.unbind,
    "flip": arrangement.flip,
    "cat": arrangement.cat,
    "concat": arrangement.cat,
    "stack": arrangement.stack,
    "pad": arrangement.pad,
    "constant_pad_nd": arrangement.pad,
    **dict.fromkeys((f"reflection_pad{n}d" for n in (1, 2, 3)), arrangement.reflection),
    **dict.fromkeys((f"replication_pad{n}d" for n in (1, 2, 3)), arrangement.replication),
    "pixel_shuffle": arrangement.pixel_shuffle,
    "pixel_unshuffle": arrangement.pixel_unshuffle,
    "channel_shuffle": arrangement.channel_shuffle,
    **dict.fromkeys(
        (
            *(f"upsample_nearest{n}d" for n in (1, 2, 3)),
            *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
            "upsample_bicubic2d",
        ),
        arrangement.resampled,
    ),
}

_POOLING: dict[str, Handler] = {
    **dict.fromkeys((f"max_pool{n}d" for n in (1, 2, 3)), pooling.max_pool),
    **dict.fromkeys((f"avg_pool{n}d" for n in (1, 2, 3)), pooling.avg_pool),
    **dict.fromkeys((f"adaptive_avg_pool{n}d" for n in (1, 2, 3)), pooling.adaptive_avg_pool),
    **dict.fromkeys((f"adaptive_max_pool{n}d" for n in (1, 2, 3)), pooling.adaptive_max_pool),
    "mean": pooling.mean,
    "sum": pooling.total,
    "amax": pooling.amax,
    "amin": pooling.amin,
    "max": pooling.max_dim,
    "argmax": pooling.argmax,
}

_LAYERS: dict[str, Handler] = {
    "conv1d": convolutions.conv1d,
    "conv2d": convolutions.conv2d,
    "conv3d": convolutions.conv3d,
    "conv_transpose2d": convolutions.conv_transpose2d,
    "linear": arithmetic.linear,
    "matmul": arithmetic.matmul,
    "mm": arithmetic.matmul,
    "bmm": arithmetic.matmul,
    "batch_norm": arithmetic.batch_norm,
    "add": arithmetic.add,
    "sub": arithmetic.subtract,
    "rsub": arithmetic.subtract_from,
    "mul": arithmetic.multiply,
    "div": arithmetic.divide,
    "neg": arithmetic.negate,
    "pow": arithmetic.power,
    "square": arithmetic.square,
}

_ACTIVATIONS: dict[str, Handler] = {
    "relu": activations.relu,
    "relu6": activations.relu6,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh"), activations.clamp),
    "leaky_relu": activations.leaky_relu,
    "prelu": activations.prelu,
    "abs": activations.absolute,
    "hardsigmoid": activations.hardsigmoid,
    "maximum": activations.maximum,
    "minimum": activations.minimum,
}

_IDENTITIES: dict[str, Handler] = dict.fromkeys(
    (
        *("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "alias"),
        *("detach", "to", "_to_copy", "type_as", "lift_fresh_copy", "float"),
    ),
    activations.identity,
)

HANDLERS = _ARRANGEMENT | _POOLING | _LAYERS | _ACTIVATIONS | smooth.HANDLERS | _IDENTITIES

# Operators whose result may lie in the memory of their first operand.
VIEWS = frozenset(_IDENTITIES) | {
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"),
    *("permute", "transpose", "t", "numpy_T", "expand", "slice", "narrow", "select", "unbind"),
    *("split", "split_with_sizes", "chunk", "tensor_split"),
}
