"""Import from torch: each operator against torch itself in double precision, and every refusal."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gpumpc import errors
from gpumpc.models.lenet import lenet
from gpumpc.models.lite0 import Lite0, lite0, lite0_untrained
from gpumpc.models.resnet import resnet18
from gpumpc.models.tiny import tiny, tiny_residual
from gpumpc.models.vgg_small import vgg_small
from gpumpc.nn.from_torch import graph_from_torch
from gpumpc.nn.graph import Clamp, Conv2d, Graph, MaxPool, ReLU
from gpumpc.nn.plaintext import evaluate_float

LOW, HIGH = -10.0, 10.0
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d)


class Fn(nn.Module):
    """A forward given as a function, with submodules under their own names."""

    def __init__(self, forward: Callable, **parts: nn.Module) -> None:
        super().__init__()
        self.body = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.body(self, x)


def imported(module: nn.Module, *shape: int, batch_size: int = 1) -> Graph:
    """Import in double precision and check the graph against torch on a fresh batch of 3."""
    torch.manual_seed(1)
    for part in module.modules():
        if isinstance(part, NORMS) and part.running_mean is not None:
            buffers = dict(part.named_buffers())
            buffers["running_mean"].normal_()
            buffers["running_var"].uniform_(0.5, 2.0)
    module = module.double()
    graph, weights = graph_from_torch(module, torch.zeros(batch_size, *shape), LOW, HIGH)
    x = torch.randn(3, *shape, dtype=torch.float64).clamp(LOW, HIGH)
    with torch.no_grad():
        expected = module.eval()(x.clone())
    channels_last = x.movedim(1, -1).numpy()
    got = evaluate_float(graph, weights, channels_last)
    want = expected.movedim(1, -1).numpy() if expected.ndim > 2 else expected.numpy()
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    assert set(weights) == set(graph.weight_shapes())
    return graph


@pytest.mark.parametrize("batch_size", [1, 2])
def test_named_networks_match_torch(batch_size):
    imported(tiny(), 1, 8, 8, batch_size=batch_size)
    imported(tiny_residual(), 3, 8, 8, batch_size=batch_size)
    imported(lenet(), 1, 28, 28, batch_size=batch_size)
    imported(vgg_small(), 3, 64, 64, batch_size=batch_size)
    imported(resnet18(), 3, 32, 32, batch_size=batch_size)


def test_lite0_has_the_published_count_of_relu6():
    graph = imported(lite0_untrained(), 3, 64, 64)
    shapes = graph.shapes()
    clamps = [layer.name for layer in graph.layers if isinstance(layer, Clamp)]
    count = sum(int(np.prod(shapes[name])) for name in clamps)
    assert (count, shapes[graph.output.name]) == (502_656, (1280,))
    stem = next(layer for layer in graph.layers if layer.name == "_conv_stem")
    assert isinstance(stem, Conv2d) and stem.padding == (0, 1, 0, 1)


def test_lite0_logits_at_an_odd_size():
    assert imported(lite0_untrained(features=False), 3, 33, 47).output.name == "_fc"


def test_lite0_checkpoint_round_trip(tmp_path):
    path = tmp_path / "synthetic.pth"
    torch.save(lite0_untrained(seed=3).state_dict(), path)
    model = lite0(path)
    assert isinstance(model, Lite0) and not model.training
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(errors.ConfigError, match="not a checkpoint"):
        lite0(path)
    with pytest.raises(errors.MissingFile, match="data fetch lite0"):
        lite0(tmp_path / "none.pth")


CONV = {
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "rectangular": nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 2)),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, bias=False),
    "depthwise": nn.Conv2d(4, 4, 3, groups=4),
    "depthwise multiplier": nn.Conv2d(4, 8, 3, groups=4),
    "same": nn.Conv2d(4, 6, 3, padding="same"),
    "same even kernel": nn.Conv2d(4, 6, (4, 2), padding="same"),
    "valid": nn.Conv2d(4, 6, 3, padding="valid"),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's note on its own extra copy
@pytest.mark.parametrize("name", CONV)
def test_convolutions_match_torch(name):
    imported(nn.Sequential(CONV[name]), 4, 9, 11)


MODULES = {
    "batch norm": nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
    "two batch norms": nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False)
    ),
    "batch norm first": nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)),
    "batch norm on linear": nn.Sequential(nn.Flatten(), nn.Linear(396, 5), nn.BatchNorm1d(5)),
    "relu in place": nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.Dropout(0.5)),
    "relu after flatten": nn.Sequential(
        nn.Flatten(), nn.ReLU(), nn.Dropout(0.5), nn.Linear(396, 5)
    ),
    "clamps": nn.Sequential(nn.ReLU6(), nn.Conv2d(4, 4, 1), nn.Hardtanh(0.0, 2.0)),
    "max pool": nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d((2, 1))),
    "avg pool": nn.Sequential(nn.AvgPool2d((3, 2), stride=(2, 3)), nn.Flatten(), nn.Linear(64, 2)),
    "adaptive pool": nn.Sequential(nn.AdaptiveAvgPool2d((3, 1)), nn.Flatten(), nn.Linear(12, 2)),
    "identity": nn.Sequential(nn.Identity(), nn.Conv2d(4, 4, 1), nn.Identity()),
    "ceil that does not matter": nn.MaxPool2d((3, 1), ceil_mode=True),
    "padding module": nn.Sequential(nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(4, 4, 3, padding=1)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_match_torch(name):
    imported(MODULES[name], 4, 9, 11)


def residual_in_place(m, x):
    y = m.conv(x)
    z = F.relu_(y)  # from here on, y is the activated value
    y += z
    return y


def concat_net(m, x):
    y = torch.cat([m.conv(x), x, F.max_pool2d(x, 3, 1, 1)], dim=1).contiguous()
    return y.mean((-1, -2), keepdim=True).view(x.size(0), -1)


FUNCTIONS = {
    "residual in place": residual_in_place,
    "concat": concat_net,
    "clamp min": lambda m, x: m.conv(x).clamp(min=0),
    "clamp both": lambda m, x: torch.clamp(m.conv(x), 0, 1.5),
    "pad then conv": lambda m, x: m.conv(F.pad(F.pad(x, (1, 0)), (0, 0, 2, 1))),
    "same layer twice": lambda m, x: m.conv(m.conv(x)),
    "add to itself": lambda m, x: x + x,
    "reshape": lambda m, x: m.fc(torch.reshape(F.relu(m.conv(x)), (x.shape[0], -1))),
    "argmax": lambda m, x: m.fc(m.conv(x).flatten(1)).argmax(-1),
    "unused branch": lambda m, x: (m.conv(x).relu(), m.conv(x))[1],
    "batch norm of a shared value": lambda m, x: m.norm(y := m.conv(x)) + y,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_match_torch(name):
    parts = {"conv": nn.Conv2d(4, 4, 1), "fc": nn.Linear(396, 5), "norm": nn.BatchNorm2d(4)}
    imported(Fn(FUNCTIONS[name], **parts), 4, 9, 11)


def test_vector_input_matches_torch():
    imported(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)), 7)


def test_names_come_from_module_paths():
    block = nn.Sequential()
    block.add_module("conv", nn.Conv2d(4, 4, 1))
    block.add_module("act", nn.ReLU())
    twice = Fn(lambda m, x: F.relu(m.features(m.features(x))), features=nn.Sequential(block))
    graph = imported(twice, 4, 5, 5)
    names = [layer.name for layer in graph.layers]
    parts = [f"features.0.{part}" for part in ("conv", "act", "conv_2", "act_2")]
    assert names == ["input", *parts, "relu"]


def test_pool_moves_before_the_activation():
    kinds = [type(layer) for layer in imported(lenet(), 1, 28, 28).layers]
    assert kinds[1:4] == [Conv2d, MaxPool, ReLU]


def test_import_leaves_the_module_in_training_mode():
    model = tiny().train()
    graph_from_torch(model, torch.zeros(1, 1, 8, 8), LOW, HIGH)
    assert model.training


REFUSED = {
    "special function": (lambda m, x: torch.erfinv(m.conv(x)), "aten.erfinv.*forward"),
    "divisor at the edge": (
        lambda m, x: F.avg_pool2d(x, 3, padding=1, count_include_pad=False, divisor_override=3),
        "edge",
    ),
    "upside down clamp": (lambda m, x: x.clamp(2, 1), "lower bound"),
    "infinite constant": (lambda m, x: x + float("inf"), "finite"),
    "border of ones": (lambda m, x: F.pad(x, (1, 1), value=1.0), "pads with 1"),
    "mean of the batch": (lambda m, x: x.mean(0, keepdim=True) + x, "along the batch"),
    "mean of all": (lambda m, x: x.mean() + x, "reduces the batch"),
    "cat of the batch": (lambda m, x: torch.cat([x, x], 0), "along the batch"),
    "batch moved": (lambda m, x: x.transpose(0, 1), "moves the batch"),
    "batch reshaped": (lambda m, x: x.view(4, 2, -1), "axis of its own"),
    "argmax of pixels": (lambda m, x: x.argmax(1), "classes"),
    "argmax kept": (lambda m, x: m.fc(x.flatten(1)).argmax(-1, keepdim=True), "classes"),
    "index of a maximum": (lambda m, x: x.max(1)[1], "result number 1"),
    "batch statistics": (lambda m, x: F.batch_norm(x, None, None, training=True), "statistics"),
    "dropout": (lambda m, x: F.dropout(x, 0.5, training=True), "training mode"),
    "computed weight": (lambda m, x: F.linear(x.flatten(1), x.flatten(1)), "computed while"),
    "cube": (lambda m, x: x**3, "power 3"),
    "quotient": (lambda m, x: x / m.conv(x), "divides"),
    "integers": (lambda m, x: x.to(torch.int64), "int64"),
    "in place on a view": (
        lambda m, x: (y := m.conv(x), y.flatten(1).relu_(), y)[-1],
        "another view is read",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_operator_is_refused_with_path_and_hint(name):
    body, words = REFUSED[name]
    module = Fn(body, conv=nn.Conv2d(4, 4, 1), fc=nn.Linear(396, 5))
    with pytest.raises(errors.UnsupportedOperator, match=words) as caught:
        graph_from_torch(module, torch.zeros(2, 4, 9, 11), LOW, HIGH)
    assert "operator" in caught.value.what and caught.value.why and caught.value.hint


def test_all_refused_operators_are_named():
    module = Fn(lambda m, x: torch.erfinv(torch.lgamma(x).relu()) + torch.digamma(x))
    with pytest.raises(errors.UnsupportedOperator) as caught:
        graph_from_torch(module, torch.zeros(1, 4, 9, 11), LOW, HIGH)
    assert "3 operators" in caught.value.what
    assert all(name in caught.value.why for name in ("erfinv", "lgamma", "digamma"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_weight_is_named(value):
    model = tiny_residual()
    with torch.no_grad():
        model.get_buffer("stem_norm.running_var")[3] = value
    with pytest.raises(errors.BadValue, match=r"stem_norm\.running_var"):
        graph_from_torch(model, torch.zeros(1, 3, 8, 8), LOW, HIGH)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_invalid_input_range_is_refused(low, high):
    with pytest.raises(errors.OutOfRange):
        graph_from_torch(tiny(), torch.zeros(1, 1, 8, 8), low, high)


@pytest.mark.parametrize(
    ("body", "shape", "words"),
    [
        (lambda m, x: (x, x), (1, 4, 4, 4), "one computed tensor"),
        (lambda m, x: x, (4,), "cannot be shared"),
        (lambda m, x: m.fc(x) if x.sum() > 0 else x, (1, 7), "cannot trace"),
        (lambda m, x: m.fc(x), (1, 8), "cannot trace"),
    ],
)
def test_models_that_cannot_be_planned_are_refused(body, shape, words):
    with pytest.raises(errors.PlanError, match=words):
        graph_from_torch(Fn(body, fc=nn.Linear(7, 5)), torch.zeros(*shape), LOW, HIGH)
