"""Rewrites: the same function before and after, and what they refuse."""

import numpy as np
import pytest

from gpumpc.errors import PlanError
from gpumpc.nn import graph as g
from gpumpc.nn import passes
from gpumpc.nn.plaintext import evaluate_float

RNG = np.random.default_rng(11)
IMAGE = g.Input("x", (), (6, 6, 2), -9.0, 9.0)
CONV = g.Conv2d("c", ("x",), (3, 3), 4)
POOL = g.MaxPool("p", ("r",), (3, 3), (2, 2), (1, 1, 1, 1))


def arrays():
    vectors = {name: RNG.normal(size=4) for name in ("c.bias", "n.scale", "n.shift")}
    return {"c.weight": RNG.normal(size=(3, 3, 2, 4)), **vectors}


def names(layers):
    return [layer.name for layer in layers]


def test_batch_norm_is_an_affine_map():
    gamma, beta, mean, x = RNG.normal(size=(4, 5))
    var = RNG.uniform(0.1, 2, 5)
    scale, shift = passes.batch_norm_affine(gamma, beta, mean, var, 1e-3)
    expected = (x - mean) / np.sqrt(var + 1e-3) * gamma + beta
    np.testing.assert_allclose(scale * x + shift, expected, rtol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_affine_is_folded_or_becomes_a_depthwise_layer(shared):
    weights, x = arrays(), RNG.normal(size=(2, 6, 6, 2))
    before = {name: array.copy() for name, array in weights.items()}
    tail = [g.Add("a", ("n", "c"))] if shared else []
    before_folding: list[passes.RawLayer] = [IMAGE, CONV, passes.Affine("n", ("c",)), *tail]
    layers, folded = passes.fold_affine(before_folding, weights)
    conv = evaluate_float(g.Graph((IMAGE, CONV)), weights, x)
    expected = conv * weights["n.scale"] + weights["n.shift"]
    graph = g.Graph(tuple(layers))
    np.testing.assert_allclose(
        evaluate_float(graph, folded, x), expected + conv if shared else expected, rtol=1e-10
    )
    assert names(layers) == (["x", "c", "n", "a"] if shared else ["x", "c"])
    assert all(np.array_equal(before[name], weights[name]) for name in before)


def test_affine_on_a_bare_vector_keeps_its_shape():
    vector, affine = g.Input("x", (), (4,), -9.0, 9.0), passes.Affine("n", ("x",))
    weights, x = arrays(), RNG.normal(size=(2, 4))
    layers, folded = passes.fold_affine([vector, affine, g.ReLU("r", ("n",))], weights)
    got = evaluate_float(g.Graph(tuple(layers)), folded, x)
    expected = np.maximum(x * weights["n.scale"] + weights["n.shift"], 0)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def border(name: str, source: str, axis: int, before: int, size: int, after: int) -> g.Take:
    return g.Take(name, (source,), axis, (-1,) * before + tuple(range(size)) + (-1,) * after)


def test_chained_borders_are_folded_into_every_reader():
    pads = [border("p1", "x", 0, 1, 6, 2), border("p2", "p1", 1, 0, 6, 1)]
    first = g.Conv2d("c", ("p2",), (3, 3), 4, padding=(1, 1, 1, 1))
    readers = [first, g.Conv2d("d", ("p1",), (3, 3), 4)]
    folded = passes.fold_borders([IMAGE, *pads, *readers])
    found = [(layer.inputs, layer.padding) for layer in folded if isinstance(layer, g.Conv2d)]
    assert found == [(("x",), (2, 3, 1, 2)), (("x",), (1, 2, 0, 0))]


@pytest.mark.parametrize("indices", [(0, 2, 1, 3, 4, 5), (0, 1, 2, 3, 4, -1), (-1, *range(6), 0)])
def test_other_arrangements_are_not_taken_for_borders(indices):
    layers: list[g.AnyLayer] = [
        IMAGE,
        g.Take("t", ("x",), 0, indices),
        g.Conv2d("c", ("t",), (3, 3), 4),
    ]
    assert passes.fold_borders(layers) == layers


def test_permutation_before_a_linear_layer_moves_into_its_rows():
    turned = g.Permute("t", ("x",), (2, 0, 1)), g.Reshape("f", ("t",), (72,))
    layers: list[g.AnyLayer] = [IMAGE, *turned, g.Linear("l", ("f",), 3)]
    weights: passes.Weights = {"l.weight": RNG.normal(size=(72, 3)), "l.bias": RNG.normal(size=3)}
    x = RNG.normal(size=(2, 6, 6, 2))
    before = evaluate_float(g.Graph(tuple(layers)), weights, x)
    folded, arrays = passes.fold_permutations(layers, weights)
    graph = g.Graph(tuple(passes.drop_unused(folded)))
    assert [type(layer) for layer in graph.layers] == [g.Input, g.Reshape, g.Linear]
    np.testing.assert_allclose(evaluate_float(graph, arrays, x), before, rtol=1e-12)


@pytest.mark.parametrize("act", [g.ReLU("r", ("c",)), g.Clamp("r", ("c",), 0.7)])
@pytest.mark.parametrize(
    "tail", [(), (g.MaxPool("q", ("p",), (2, 2), (1, 1)), g.Flatten("f", ("q",)))]
)
def test_pool_before_activation_is_the_same_function(act, tail):
    weights, x = arrays(), RNG.normal(size=(3, 6, 6, 2))
    layers: list[g.AnyLayer] = [IMAGE, CONV, act, POOL, *tail]
    moved = passes.pool_before_activation(layers)
    assert names(moved) == (["x", "c", "p", "q", "r", "f"] if tail else ["x", "c", "p", "r"])
    before, after = (evaluate_float(g.Graph(tuple(some)), weights, x) for some in (layers, moved))
    np.testing.assert_array_equal(before, after)


def test_activation_with_other_readers_stays():
    tail = g.MaxPool("q", ("r",), (2, 2), (2, 2)), g.Concat("j", ("p", "p"))
    layers: list[g.AnyLayer] = [IMAGE, CONV, g.ReLU("r", ("c",)), POOL, *tail]
    assert passes.pool_before_activation(layers) == layers


def test_unused_records_and_arrays_are_dropped():
    weights = arrays() | {"d.weight": np.zeros((3, 3, 2, 4)), "d.bias": np.zeros(4)}
    graph, kept = passes.simplify([IMAGE, g.Conv2d("d", ("x",), (3, 3), 4), CONV], weights)
    assert names(graph.layers) == ["x", "c"] and set(kept) == {"c.weight", "c.bias"}
    left = passes.drop_unused([IMAGE, g.ReLU("r", ("x",)), g.Flatten("f", ("x",))])
    assert names(left) == ["x", "f"]


@pytest.mark.parametrize(
    "layers",
    [
        (g.Reshape("r", ("x",), (5, 5)),),
        (g.Permute("p", ("x",), (0, 1, 1)),),
        (g.Take("t", ("x",), 0, (6,)),),
        (g.Mix("m", ("x",), 1, ((0, 1),), ((1.0,),)),),
        (g.Multiply("m", ("x", "x", "x")),),
        (g.Conv2d("c", ("x",), (3, 3), 4, groups=3),),
        (g.Conv2d("c", ("x",), (9, 9), 4),),
        (g.Add("a", ("x",)),),
        (g.MaxPool("p", ("x",), (2, 2), (2, 2)), g.Add("a", ("x", "p"))),
        (g.MaxPool("p", ("x",), (2, 2), (2, 2)), g.Concat("a", ("x", "p"))),
        (g.ReLU("x", ("x",)),),
        (g.ReLU("r", ("later",)),),
    ],
)
def test_records_that_do_not_fit_are_refused(layers):
    with pytest.raises(PlanError):
        g.Graph((IMAGE, *layers)).weight_shapes()


def test_a_graph_begins_with_its_input():
    with pytest.raises(PlanError, match="Input"):
        _ = g.Graph((g.ReLU("r", ("x",)),)).input
