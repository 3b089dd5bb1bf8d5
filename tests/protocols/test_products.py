"""Products with static, public and fresh operands are exact modulo 2^k."""

import numpy as np
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BitsMismatch
from gpumpc.nn import graph as g
from gpumpc.params import Params
from gpumpc.program.lowering import compile_program
from gpumpc.protocols import linear
from gpumpc.protocols.linear import BeaverProduct, Convolution, Elementwise, MatMul, Open
from gpumpc.protocols.local import Add
from gpumpc.ring.backend import packed_bytes
from gpumpc.ring.fixed_point import mask, signed
from tests.harness import BACKEND, plain, run_program, run_step, run_steps, share
from tests.protocols.cases import RINGS, beaver_steps, product_steps


def words(seed, shape, bits):
    return np.random.default_rng(seed).integers(0, 1 << bits, shape, dtype=np.uint64)


def conv(shape, kernel, c_out, stride=(1, 1), padding=(0, 0, 0, 0), groups=1):
    b, h, w, c = shape
    top, bottom, left, right = padding
    rows = (h + top + bottom - kernel[0]) // stride[0] + 1
    columns = (w + left + right - kernel[1]) // stride[1] + 1
    weight = (*kernel, c // groups, c_out)
    return Convolution(kernel, stride, padding, groups), shape, weight, (b, rows, columns, c_out)


OPERATORS = {
    "matmul": (MatMul(), (3, 19), (19, 5), (3, 5)),
    "matmul-1": (MatMul(), (1, 1), (1, 1), (1, 1)),
    "matmul-989": (MatMul(), (2, 989), (989, 3), (2, 3)),
    "conv": conv((2, 6, 5, 3), (3, 3), 4, padding=(1, 1, 1, 1)),
    "conv-asymmetric": conv((1, 7, 6, 3), (3, 2), 4, stride=(2, 1), padding=(0, 1, 1, 0)),
    "conv-1x1": conv((2, 5, 5, 4), (1, 1), 7),
    "depthwise": conv((2, 7, 7, 6), (3, 3), 6, stride=(2, 2), padding=(0, 1, 0, 1), groups=6),
    "grouped": conv((1, 5, 5, 4), (3, 3), 6, padding=(1, 1, 1, 1), groups=2),
    "elementwise": (Elementwise(), (989,), (989,), (989,)),
}


def in_the_clear(operator, x, w, bias, k):
    """Every operator once, on Python-sized integers."""
    if isinstance(operator, Convolution):
        # tests/ring tests this one.
        result = BACKEND.conv2d(x, w, operator.stride, operator.padding, operator.groups, k)
    elif isinstance(operator, MatMul):
        result = x @ w
    else:
        result = x * w
    return (result + bias) & mask(k)


@pytest.mark.parametrize("name", [name for name in OPERATORS if name != "elementwise"])
@pytest.mark.parametrize(("k", "f"), RINGS)
@pytest.mark.parametrize("weights", ["private", "public"])
def test_products_with_static_weights_are_exact(name, k, f, weights):
    operator, shape, weight_shape, out_shape = OPERATORS[name]
    x, w, bias = words(1, shape, k), words(2, weight_shape, k), words(3, out_shape[-1:], k)
    steps = product_steps(operator, shape, out_shape, k, 2 * f, weights)
    shares = {"x": share(x.view(np.int64), k, frac=f)}
    params = Params(ring_bits=k, frac_bits=f, weights=weights)
    got = run_steps(steps, shares, {"layer": (w, bias)}, params)
    assert np.array_equal(got.words, in_the_clear(operator, x, w, bias, k))
    assert (got.shares[0].bits, got.shares[0].frac) == (k, 2 * f)
    assert got.cost.rounds == (weights == "private") and len(got.sent) == got.cost.rounds


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("k", "f"), RINGS)
def test_products_of_two_secret_operands_are_exact(name, k, f):
    operator, shape, weight_shape, out_shape = OPERATORS[name]
    x, y = words(4, shape, k), words(5, weight_shape, k)
    steps = beaver_steps(operator, shape, weight_shape, out_shape, k)
    shares = (share(x.view(np.int64), k, frac=f), share(y.view(np.int64), k, frac=3, seed=1))
    got = run_steps(steps, dict(zip("xy", shares, strict=True)))
    assert np.array_equal(got.words, in_the_clear(operator, x, y, np.uint64(0), k))
    assert got.shares[0].frac == f + 3


def test_a_square_opens_its_operand_once():
    x = np.arange(-500, 489)
    square = BeaverProduct("p", ("e", "e"), "z", (989,), Elementwise(), (989,), 40)
    got = run_steps([Open("open", ("x",), "e", (989,), 40), square], {"x": share(x, 40)})
    assert np.array_equal(got.values, x * x)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 19), (19, 64), (2, 989)])
def test_rows_are_scaled_by_one_opened_word_each(rows, columns):
    rng = np.random.default_rng(5)
    x, g = rng.integers(-(1 << 12), 1 << 12, (rows, columns)), rng.integers(0, 1 << 20, rows)
    shape = (rows, columns)
    steps = [
        Open("e", ("x",), "e", shape, 40),
        linear.OpenColumn("f", ("g",), "f", (rows,), 36, columns),
        BeaverProduct("z", ("e", "f"), "z", shape, Elementwise(), shape, 36),
    ]
    got = run_steps(steps, {"x": share(x, 40, frac=2, seed=1), "g": share(g, 36, frac=3, seed=2)})
    assert np.array_equal(got.values, x * g[:, None]) and got.shares[0].frac == 5
    assert steps[1].cost == Cost.both_ways(1, packed_bytes(rows, 36)) and got.cost.rounds == 2
    assert got.cost == steps[0].cost + steps[1].cost + steps[2].cost
    assert np.array_equal(plain(steps[1], g), np.repeat(g[:, None], columns, axis=1))
    with pytest.raises(BitsMismatch):
        run_step(steps[1], share(g, 35))


def test_two_layers_share_one_opening():
    """Both products read the same E; the second opens nothing."""
    k, shape = 40, (3, 19)
    x = np.random.default_rng(6).integers(-(2**20), 2**20, shape)
    seeds = {"a": 7, "b": 9}
    w = {name: (words(s, (19, 5), k), words(s + 1, (5,), k)) for name, s in seeds.items()}
    steps = [
        Open("open", ("x",), "e", shape, k),
        linear.PrivateProduct("pa", ("e",), "ya", shape, "a", MatMul(), (3, 5), k, 26),
        linear.PrivateProduct("pb", ("e",), "yb", shape, "b", MatMul(), (3, 5), k, 26),
        Add("sum", ("ya", "yb"), "y", (3, 5)),
    ]
    got = run_steps(steps, {"x": share(x, k)}, w)
    words_x = x.view(np.uint64)
    both = sum(in_the_clear(MatMul(), words_x, *w[name], k) for name in w)
    assert np.array_equal(got.words, both & mask(k))
    assert got.cost.rounds == 1


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_prefetch_changes_no_share_and_no_message(backend):
    layers = (
        g.Input("x", (), (6, 6, 3), -1, 1),
        g.Conv2d("c", ("x",), (3, 3), 5, padding=(1, 1, 1, 1)),
        g.ReLU("r", ("c",)),
        g.Flatten("v", ("r",)),
        g.Linear("l", ("v",), 4),
    )
    program = compile_program(g.Graph(layers), Params(ring_bits=40, frac_bits=10), 2)
    specs = program.weights.items()
    weights = {n: (words(1, s.shape, 40), words(2, s.bias_shape, 40)) for n, s in specs}
    inputs = [share(words(3, program.input.shape, 9), 40, 10)]
    backends = (backend, backend, backend)
    runs = [run_program(program, inputs, weights, prepared=n, backends=backends) for n in range(3)]
    for run in runs[1:]:
        assert run.sent == runs[0].sent and run.cost == runs[0].cost
        for share_of_run, expected in zip(run.shares, runs[0].shares, strict=True):
            assert np.array_equal(share_of_run.words, expected.words)


def test_operand_in_a_wider_ring_is_reduced_exactly():
    x = np.random.default_rng(8).integers(-(2**38), 2**38, (3, 19))
    w, bias = words(9, (19, 5), 40), words(10, (5,), 40)
    steps = product_steps(MatMul(), (3, 19), (3, 5), 40, 26)
    got = run_steps(steps, {"x": share(x, 62)}, {"layer": (w, bias)})
    assert np.array_equal(got.words, in_the_clear(MatMul(), x.view(np.uint64), w, bias, 40))


def test_product_of_signed_values_is_signed():
    """The product modulo 2^k of signed operands is the signed product while it fits."""
    x, w = np.array([[-3, 5]]), np.array([[7], [-11]])
    steps = product_steps(MatMul(), (1, 2), (1, 1), 40)
    weights = {"layer": (w.view(np.uint64) & mask(40), np.array([2**40 - 5], dtype=np.uint64))}
    got = run_steps(steps, {"x": share(x, 40)}, weights)
    assert signed(got.words, 40).tolist() == [[-3 * 7 - 5 * 11 - 5]]
