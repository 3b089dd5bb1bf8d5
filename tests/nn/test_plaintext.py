"""The plaintext evaluator against loops written from the definitions, and its input checks."""

import numpy as np
import pytest

from gpumpc.errors import BadShape, BadValue, OutOfRange
from gpumpc.nn import graph as g
from gpumpc.nn.plaintext import check_input, evaluate_float

RNG = np.random.default_rng(5)
IMAGE = g.Input("x", (), (7, 6, 4), -9.0, 9.0)


def run(*layers, weights=None):
    graph = g.Graph((IMAGE, *layers))
    x = RNG.normal(size=(2, 7, 6, 4))
    return x, evaluate_float(graph, weights or {}, x)


def naive_conv(x, weight, bias, stride, padding, groups):
    """One output value at a time."""
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    kh, kw, depth, width = weight.shape
    rows, cols = (x.shape[1] - kh) // stride[0] + 1, (x.shape[2] - kw) // stride[1] + 1
    out = np.zeros((len(x), rows, cols, width))
    for b, i, j, o in np.ndindex(*out.shape):
        group = o // (width // groups)
        window = x[b, i * stride[0] : i * stride[0] + kh, j * stride[1] : j * stride[1] + kw]
        out[b, i, j, o] = (
            window[..., group * depth : (group + 1) * depth] * weight[..., o]
        ).sum() + bias[o]
    return out


@pytest.mark.parametrize(("groups", "width"), [(1, 3), (2, 6), (4, 4), (4, 8)])
@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (0, 0, 0, 0)), ((2, 3), (0, 1, 2, 1))])
def test_conv_matches_the_definition(groups, width, stride, padding):
    weight, bias = RNG.normal(size=(3, 2, 4 // groups, width)), RNG.normal(size=width)
    layer = g.Conv2d("c", ("x",), (3, 2), width, stride, padding, groups)
    x, got = run(layer, weights={"c.weight": weight, "c.bias": bias})
    expected = naive_conv(x, weight, bias, stride, padding, groups)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    assert got.shape[1:] == g.Graph((IMAGE, layer)).shapes()["c"]


def test_pools_match_the_definition():
    x, got = run(g.MaxPool("p", ("x",), (3, 2), (2, 2), (1, 0, 1, 1)))
    padded = np.pad(x, ((0, 0), (1, 0), (1, 1), (0, 0)), constant_values=-np.inf)
    for b, i, j, c in np.ndindex(*got.shape):
        assert got[b, i, j, c] == padded[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2, c].max()
    x, got = run(g.AvgPool("p", ("x",), (3, 2), (2, 1)))
    for b, i, j, c in np.ndindex(*got.shape):
        mean = x[b, 2 * i : 2 * i + 3, j : j + 2, c].mean()
        assert got[b, i, j, c] == pytest.approx(mean, abs=1e-12)


def test_elementwise_and_linear_layers_match_numpy():
    joins = g.Add("a", ("r", "k")), g.Concat("c", ("a", "x"))
    x, got = run(g.ReLU("r", ("x",)), g.Clamp("k", ("x",), 0.5), *joins)
    expected = np.concatenate([np.maximum(x, 0) + np.clip(x, 0, 0.5), x], axis=-1)
    np.testing.assert_array_equal(got, expected)
    weights = {"l.weight": RNG.normal(size=(168, 5)), "l.bias": RNG.normal(size=5)}
    x, got = run(
        g.Flatten("f", ("x",)), g.Linear("l", ("f",), 5), g.Argmax("m", ("l",)), weights=weights
    )
    logits = x.reshape(2, -1) @ weights["l.weight"] + weights["l.bias"]
    np.testing.assert_array_equal(got, logits.argmax(-1))


def test_argmax_takes_the_lowest_index_on_ties():
    graph = g.Graph((g.Input("x", (), (4,), 0.0, 3.0), g.Argmax("m", ("x",))))
    assert evaluate_float(graph, {}, [[1, 3, 3, 0]]).tolist() == [1.0]


def test_trace_returns_every_value_unchanged():
    graph = g.Graph((IMAGE, g.ReLU("r", ("x",)), g.Add("a", ("r", "r"))))
    x = RNG.normal(size=(2, 7, 6, 4))
    trace = evaluate_float(graph, {}, x, trace=True)
    assert list(trace) == ["x", "r", "a"]
    np.testing.assert_array_equal(trace["x"], x)
    np.testing.assert_array_equal(trace["a"], evaluate_float(graph, {}, x))


def test_float32_weights_are_computed_in_float64():
    weights = {"l.weight": np.full((2, 1), 0.1, np.float32), "l.bias": np.zeros(1, np.float32)}
    graph = g.Graph((g.Input("x", (), (2,), -1.0, 1.0), g.Linear("l", ("x",), 1)))
    assert evaluate_float(graph, weights, [[1.0, 1.0]])[0, 0] == 2 * float(np.float32(0.1))


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.zeros((7, 6, 4)), BadShape),
        (np.zeros((1, 4, 7, 6)), BadShape),
        (np.float64(3), BadShape),
        (np.full((1, 7, 6, 4), np.nan), BadValue),
        (np.full((1, 7, 6, 4), np.inf), BadValue),
        ("an image", BadValue),
        (np.full((1, 7, 6, 4), 9.01), OutOfRange),
    ],
)
def test_bad_input_is_refused(x, error):
    with pytest.raises(error):
        check_input(IMAGE, x)


def test_range_edges_and_empty_batch_are_accepted():
    assert check_input(IMAGE, np.full((1, 7, 6, 4), -9)).dtype == np.float64
    assert check_input(IMAGE, np.zeros((0, 7, 6, 4))).shape == (0, 7, 6, 4)
