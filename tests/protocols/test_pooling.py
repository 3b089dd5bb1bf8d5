"""Windows of every kind against a plain loop, and what is local: sums, residual adds, joining."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.nn import graph as g
from gpumpc.params import Params
from gpumpc.program.integers import integer_weights
from gpumpc.program.lowering import compile_program
from gpumpc.protocols.local import Add, Concat
from gpumpc.protocols.pooling import SumPool
from gpumpc.protocols.step import Clear
from gpumpc.ring.fixed_point import mask
from tests.harness import BACKEND, plain, run_program, run_step, share
from tests.protocols.cases import max_pool, pool_by_loop

WINDOWS = [
    # window, stride, padding (top, bottom, left, right)
    ((2, 2), (2, 2), (0, 0, 0, 0)),
    ((3, 3), (2, 2), (1, 1, 1, 1)),
    ((3, 3), (1, 1), (0, 0, 0, 0)),
    ((3, 3), (2, 2), (0, 1, 0, 1)),
    ((2, 3), (1, 2), (1, 0, 0, 2)),
    ((5, 1), (2, 1), (2, 2, 0, 0)),
    ((1, 4), (1, 3), (0, 0, 1, 2)),
    ((7, 6), (1, 1), (0, 0, 0, 0)),
    ((1, 1), (2, 2), (0, 0, 0, 0)),
    ((2, 2), (3, 3), (0, 0, 0, 0)),
]


def image(shape, bits, seed=0):
    edge = 1 << (bits - 2)
    x = np.random.default_rng(seed).integers(-edge, edge, shape)
    x[:, ::3] = np.clip(x[:, ::3], -2, 2)  # ties
    x.reshape(-1)[:4] = [edge - 1, -edge, edge - 1, -edge]
    return x


@pytest.mark.parametrize(("window", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("bits", [27, 42])
def test_max_pool_against_a_plain_loop(window, stride, padding, bits):
    x = image((2, 7, 6, 3), bits)
    step = max_pool(x.shape, bits, window, stride, padding)
    got = run_step(step, share(x, bits, frac=13))
    expected = pool_by_loop(x, window, stride, padding)
    assert np.array_equal(got.values, expected)
    assert np.array_equal(plain(step, x), expected)
    assert (got.shares[0].bits, got.shares[0].frac) == (bits, 13)


def test_padding_never_wins_over_negative_values():
    x = -1 - np.arange(2 * 5 * 5 * 1).reshape(2, 5, 5, 1)
    step = max_pool(x.shape, 27, (3, 3), (2, 2), (1, 1, 1, 1))
    got = run_step(step, share(x, 27)).values
    assert np.array_equal(got, pool_by_loop(x, (3, 3), (2, 2), (1, 1, 1, 1))) and (got < 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 19, 1, 1), (1, 1, 1, 989), (19, 2, 2, 13)])
def test_max_pool_of_lane_boundary_sizes(shape):
    x = np.random.default_rng(1).integers(-(2**25), 2**25, shape)
    window = (min(2, shape[1]), min(2, shape[2]))
    step = max_pool(shape, 27, window, (1, 1), (0, 0, 0, 0))
    expected = pool_by_loop(x, window, (1, 1), (0, 0, 0, 0))
    assert np.array_equal(run_step(step, share(x, 27)).values, expected)


def pooled(layer, shape, params, x):
    program = compile_program(g.Graph((g.Input("x", (), shape, -4.0, 4.0), layer)), params, len(x))
    pair = share(x, program.input.bits, program.input.frac)
    return program, run_program(program, [pair])


@pytest.mark.parametrize(("window", "stride", "padding"), WINDOWS[:6])
def test_compiled_max_pool_matches_a_plain_loop(window, stride, padding):
    """The planner's axes and paddings are the ones of the loop."""
    x = np.random.default_rng(2).integers(-(2**15), 2**15, (2, 7, 6, 3))
    _, got = pooled(g.MaxPool("y", ("x",), window, stride, padding), (7, 6, 3), Params(), x)
    assert np.array_equal(got.values, pool_by_loop(x, window, stride, padding))


@pytest.mark.parametrize(
    ("window", "stride"), [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((7, 6), (1, 1)), ((1, 5), (1, 1))]
)
def test_average_pool_is_a_sum_and_a_scale(window, stride):
    x = np.random.default_rng(3).integers(-(2**15), 2**15, (2, 7, 6, 3))
    program, got = pooled(g.AvgPool("y", ("x",), window, stride), (7, 6, 3), Params(), x)
    area = window[0] * window[1]
    for b, i, j, c in np.ndindex(*got.values.shape):
        row, column = stride[0] * i, stride[1] * j
        part = x[b, row : row + window[0], column : column + window[1], c]
        assert got.values[b, i, j, c] == part.sum()
    scale = program.result.scale
    assert scale == 2.0**13 * area
    if area & (area - 1):
        assert (program.result.frac, program.result.divisor) == (13, area)
    else:
        assert (program.result.frac, program.result.divisor) == (13 + area.bit_length() - 1, 1)
    first, result = got.shares[0], program.result
    assert (first.frac, first.divisor) == (result.frac, result.divisor)
    assert got.cost.rounds == 0


def test_averages_of_averages_multiply_their_areas():
    step = SumPool("s", ("x",), "y", (1, 3, 3, 1), (3, 3), (1, 1))
    first, second = share(np.arange(9).reshape(1, 3, 3, 1), 40, frac=13)
    got = run_step(
        step, (dataclasses.replace(first, divisor=7), dataclasses.replace(second, divisor=7))
    )
    assert (got.shares[0].frac, got.shares[0].divisor) == (13, 63)
    assert got.values.reshape(-1).tolist() == [36]


@pytest.mark.parametrize("bits", [(40, 40), (40, 64), (27, 40), (64, 27)])
def test_residual_add_takes_the_smaller_ring(bits):
    rng = np.random.default_rng(4)
    x, y = rng.integers(-(2**24), 2**24, (2, 989))
    step = Add("add", ("x", "y"), "z", (989,))
    pairs = [share(v, min(b, 62), frac=13, seed=b) for v, b in zip((x, y), bits, strict=True)]
    got = run_step(step, *pairs)
    assert got.shares[0].bits == min(*bits, 62) and np.array_equal(got.values, x + y)
    assert np.array_equal(plain(step, x, y), x + y)


def test_concat_takes_the_smallest_ring():
    x, y = np.arange(24).reshape(2, 3, 4, 1) - 12, np.arange(48).reshape(2, 3, 4, 2)
    step = Concat("c", ("x", "y"), "z", x.shape)
    got = run_step(step, share(x, 40, frac=13), share(y, 27, frac=13, seed=1))
    assert got.shares[0].bits == 27
    assert np.array_equal(got.values, np.concatenate([x, y], axis=-1))


def test_network_of_all_layer_kinds_matches_plain():
    """All kinds in one program, equal to `plain` within its roundings."""
    layers = (
        g.Input("x", (), (8, 8, 3), -1.0, 1.0),
        g.Conv2d("a", ("x",), (3, 3), 4, (1, 1), (1, 1, 1, 1)),
        g.Clamp("b", ("a",), 6.0),
        g.Conv2d("c", ("b",), (3, 3), 4, (1, 1), (1, 1, 1, 1), 4),
        g.Add("d", ("b", "c")),
        g.ReLU("e", ("d",)),
        g.Concat("f", ("e", "b")),
        g.MaxPool("g", ("f",), (3, 3), (2, 2), (0, 1, 0, 1)),
        g.AvgPool("h", ("g",), (3, 3), (1, 1)),
        g.Flatten("i", ("h",)),
        g.Linear("j", ("i",), 10),
    )
    graph, params = g.Graph(layers), Params()
    program = compile_program(graph, params, 2)
    rng = np.random.default_rng(5)
    reals = {n: rng.normal(0, 0.3, s) for n, s in graph.weight_shapes().items()}
    weights: Any = integer_weights(program, reals)
    x = rng.integers(-(2**13), 2**13, (2, 8, 8, 3))
    got = run_program(program, [share(x, 40, 13)], weights)
    words: Any = x.view(np.uint64)
    clear = np.asarray(program.plain(Clear(BACKEND, weights), words)).view(np.int64)
    scale = program.result.scale
    assert np.abs(got.values / scale - clear / scale).max() < 0.01
    assert (got.words <= mask(program.result.bits)).all() and np.abs(clear / scale).max() > 0.1
