"""Rewrites: the same function before and after, and what they refuse."""

import numpy as np
import pytest

from gpumpc.errors import PlanError, UnsupportedOperator
from gpumpc.nn.graph import (
    Add,
    AnyLayer,
    Clamp,
    Concat,
    Conv2d,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool,
    ReLU,
)
from gpumpc.nn.passes import (
    Affine,
    Pad,
    RawLayer,
    batch_norm_affine,
    drop_unused,
    fold_affine,
    fold_padding,
    pool_before_activation,
    simplify,
)
from gpumpc.nn.plaintext import evaluate_float

RNG = np.random.default_rng(11)
IMAGE = Input("x", (), (6, 6, 2), -9.0, 9.0)
CONV = Conv2d("c", ("x",), (3, 3), 4)
POOL = MaxPool("p", ("r",), (3, 3), (2, 2), (1, 1, 1, 1))


def arrays():
    return {
        "c.weight": RNG.normal(size=(3, 3, 2, 4)),
        "c.bias": RNG.normal(size=4),
        "n.scale": RNG.normal(size=4),
        "n.shift": RNG.normal(size=4),
    }


def names(layers):
    return [layer.name for layer in layers]


def test_batch_norm_is_an_affine_map():
    gamma, beta, mean, x = RNG.normal(size=(4, 5))
    var = RNG.uniform(0.1, 2, 5)
    scale, shift = batch_norm_affine(gamma, beta, mean, var, 1e-3)
    np.testing.assert_allclose(
        scale * x + shift, (x - mean) / np.sqrt(var + 1e-3) * gamma + beta, rtol=1e-12
    )


@pytest.mark.parametrize("shared", [False, True])
def test_affine_is_folded_or_becomes_a_depthwise_layer(shared):
    weights, x = arrays(), RNG.normal(size=(2, 6, 6, 2))
    before = {name: array.copy() for name, array in weights.items()}
    tail = [Add("a", ("n", "c"))] if shared else []
    before_folding: list[RawLayer] = [IMAGE, CONV, Affine("n", ("c",), True), *tail]
    layers, folded = fold_affine(before_folding, weights)
    conv = evaluate_float(Graph((IMAGE, CONV)), weights, x)
    expected = conv * weights["n.scale"] + weights["n.shift"]
    graph = Graph(tuple(fold_padding(layers)))
    np.testing.assert_allclose(
        evaluate_float(graph, folded, x), expected + conv if shared else expected, rtol=1e-10
    )
    assert names(layers) == (["x", "c", "n", "a"] if shared else ["x", "c"])
    assert all(np.array_equal(before[name], weights[name]) for name in before)


def test_affine_on_a_bare_vector_is_refused():
    layers: list[RawLayer] = [Input("x", (), (4,), 0.0, 1.0), Affine("n", ("x",), False)]
    with pytest.raises(UnsupportedOperator, match="batch_norm at 'n'"):
        fold_affine(layers, arrays())


def test_chained_padding_is_folded_into_every_reader():
    pads = [Pad("p1", ("x",), (1, 0, 0, 2)), Pad("p2", ("p1",), (0, 1, 0, 0))]
    readers = [
        Conv2d("c", ("p2",), (3, 3), 4, padding=(1, 1, 1, 1)),
        Conv2d("d", ("p1",), (3, 3), 4),
    ]
    folded = fold_padding([IMAGE, *pads, *readers, Concat("j", ("c", "c"))])
    assert names(folded) == ["x", "c", "d", "j"]
    assert [(layer.inputs, layer.padding) for layer in folded if isinstance(layer, Conv2d)] == [
        (("x",), (2, 2, 1, 3)),
        (("x",), (1, 0, 0, 2)),
    ]


@pytest.mark.parametrize(
    "tail", [[MaxPool("m", ("p",), (2, 2), (2, 2))], [Add("a", ("x", "p"))], []]
)
def test_padding_is_refused_before_other_layers(tail):
    with pytest.raises(UnsupportedOperator, match="pad at 'p'"):
        fold_padding([IMAGE, Pad("p", ("x",), (1, 1, 1, 1)), *tail])


@pytest.mark.parametrize("act", [ReLU("r", ("c",)), Clamp("r", ("c",), 0.7)])
@pytest.mark.parametrize("tail", [(), (MaxPool("q", ("p",), (2, 2), (1, 1)), Flatten("f", ("q",)))])
def test_pool_before_activation_is_the_same_function(act, tail):
    weights, x = arrays(), RNG.normal(size=(3, 6, 6, 2))
    layers: list[AnyLayer] = [IMAGE, CONV, act, POOL, *tail]
    moved = pool_before_activation(layers)
    assert names(moved) == (["x", "c", "p", "q", "r", "f"] if tail else ["x", "c", "p", "r"])
    before, after = (evaluate_float(Graph(tuple(some)), weights, x) for some in (layers, moved))
    np.testing.assert_array_equal(before, after)


def test_activation_with_other_readers_stays():
    layers: list[AnyLayer] = [
        IMAGE,
        CONV,
        ReLU("r", ("c",)),
        POOL,
        MaxPool("q", ("r",), (2, 2), (2, 2)),
        Concat("j", ("p", "p")),
    ]
    assert pool_before_activation(layers) == layers


def test_unused_records_and_arrays_are_dropped():
    weights = arrays() | {"d.weight": np.zeros((3, 3, 2, 4)), "d.bias": np.zeros(4)}
    graph, kept = simplify([IMAGE, Conv2d("d", ("x",), (3, 3), 4), CONV], weights)
    assert names(graph.layers) == ["x", "c"] and set(kept) == {"c.weight", "c.bias"}
    assert names(drop_unused([IMAGE, ReLU("r", ("x",)), Flatten("f", ("x",))])) == ["x", "f"]


@pytest.mark.parametrize(
    "layers",
    [
        (Linear("l", ("x",), 3),),
        (Conv2d("c", ("x",), (3, 3), 4, groups=3),),
        (Conv2d("c", ("x",), (9, 9), 4),),
        (Add("a", ("x",)),),
        (MaxPool("p", ("x",), (2, 2), (2, 2)), Add("a", ("x", "p"))),
        (MaxPool("p", ("x",), (2, 2), (2, 2)), Concat("a", ("x", "p"))),
        (ReLU("x", ("x",)),),
        (ReLU("r", ("later",)),),
    ],
)
def test_records_that_do_not_fit_are_refused(layers):
    with pytest.raises(PlanError):
        Graph((IMAGE, *layers)).weight_shapes()


def test_a_graph_begins_with_its_input():
    with pytest.raises(PlanError, match="Input"):
        _ = Graph((ReLU("r", ("x",)),)).input
