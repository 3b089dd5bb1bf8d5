"""A run with one party, or all, on other backends has the messages and shares of NumPy."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest

from gpumpc.params import Params
from gpumpc.protocols.comparison import plan_comparison
from gpumpc.protocols.linear import Convolution, Elementwise, MatMul
from gpumpc.protocols.pooling import SumPool
from gpumpc.protocols.step import Shape
from tests.harness import Outcome, run_step, run_steps, share
from tests.protocols import cases
from tests.scripted import NUMPY

Mixture = tuple[str, str, str]  # backends of server 0, server 1 and the dealer
Mixtures = Iterable[Mixture]


def mixtures(backend: str) -> list[Mixture]:
    """A backend at one party, at another, at the dealer, and at all."""
    one, all_three = (backend, "numpy", "numpy"), (backend, backend, backend)
    return [one, ("numpy", backend, "numpy"), ("numpy", "numpy", backend), all_three]


def check_same(run: Callable[[Mixture], Outcome], others: Mixtures) -> None:
    """`run(backends)` under the definition and under every mixture."""
    expected = run(NUMPY)
    for backends in others:
        got = run(backends)
        assert got.corrections == expected.corrections, (
            f"the dealer's bytes differ under {backends}"
        )
        assert got.sent == expected.sent, f"a message differs under {backends}"
        assert got.cost == expected.cost
        for one, other in zip(got.shares, expected.shares, strict=True):
            assert (one.bits, one.frac) == (other.bits, other.frac)
            assert np.array_equal(one.words, other.words), f"a share differs under {backends}"


STEPS = {
    "truncate": lambda n: (cases.truncate(n, 40, 13), 40),
    "lift": lambda n: (cases.lift(n, 27, 40), 27),
    "relu": lambda n: (cases.relu(n, 27, 40), 27),
    "relu in place": lambda n: (cases.relu(n, 28, 28), 28),
    "relu of 62 bits": lambda n: (cases.relu(n, 42, 62), 42),
    "clamp": lambda n: (cases.clamp(n, 27, 40, 6 << 13), 27),
    "clamp, odd": lambda n: (cases.clamp(n, 28, 44, 12345), 28),
    "pool": lambda n: (cases.max_pool((2, 4, 3, n), 27, (3, 2), (2, 1), (1, 0, 0, 1)), 27),
    "argmax": lambda n: (cases.argmax((n, 7), 40), 40),
    "sum pool": lambda n: (SumPool("s", ("x",), "y", (2, 4, 4, n), (2, 3), (2, 1)), 40),
}


def check_step(name: str, n: int, others: Mixtures) -> None:
    """A step of `STEPS`."""
    step, bits = STEPS[name](n)
    quarter = 1 << (bits - 3)
    x = share(cases.values(-quarter, quarter, step.n).reshape(step.shape), bits, frac=26)
    check_same(lambda backends: run_step(step, x, backends=backends), others)


class Product(NamedTuple):
    """A product with weights, by shapes."""

    shape: Shape
    weight: Shape
    operator: MatMul | Convolution
    out: Shape


STRIDED = Convolution((3, 3), (2, 2), (0, 1, 0, 1), 1)
DEPTHWISE = Convolution((5, 5), (1, 1), (2, 2, 2, 2), 12)
PRODUCTS = [
    Product((8, 50), (50, 20), MatMul(), (8, 20)),
    Product((2, 9, 9, 3), (3, 3, 3, 20), STRIDED, (2, 4, 4, 20)),
    Product((2, 9, 9, 12), (5, 5, 1, 12), DEPTHWISE, (2, 9, 9, 12)),
    Product((2, 9, 9, 6), (3, 3, 3, 8), Convolution((3, 3), (1, 1), (1, 1, 1, 1), 2), (2, 9, 9, 8)),
]


def check_product(product: Product, params: Params, others: Mixtures) -> None:
    """A product with weights, private or public."""
    shape, weight, operator, out = product
    rng, k = np.random.default_rng(1), params.ring_bits
    w, bias = (rng.integers(0, 1 << k, size, np.uint64) for size in (weight, weight[-1:]))
    x = share(rng.integers(-1000, 1000, shape), k)
    steps = cases.product_steps(operator, shape, out, k, 26, params.weights)
    layers = {"layer": (w, bias)}
    check_same(lambda b: run_steps(steps, {"x": x}, layers, params, backends=b), others)


def check_product_of_two_secrets(others: Mixtures) -> None:
    x, y = (share(np.random.default_rng(seed).integers(-99, 99, (989,)), 40) for seed in (1, 2))
    steps = cases.beaver_steps(Elementwise(), (989,), (989,), (989,), 40)
    check_same(lambda b: run_steps(steps, {"x": x, "y": y}, backends=b), others)


def check_comparison(others: Mixtures) -> None:
    n = 989
    step = cases.compare(n, plan_comparison(26, 14, 2))
    y = cases.values(0, 1 << 26, n)
    inputs = [share(y, 26), share(y ^ (1 << 20), 26)]

    def run(backends: Mixture) -> Outcome:
        got = run_step(step, *inputs, backends=backends)
        lanes: list[Any] = [np.stack(part.lanes) for part in got.shares]
        first, second = (dataclasses.replace(inputs[0][0], words=part, bits=64) for part in lanes)
        return dataclasses.replace(got, shares=(first, second))

    check_same(run, others)


def check_a_mistake_is_caught(patch: pytest.MonkeyPatch, backend: Any, others: Mixtures) -> None:
    """Planted: party 0's truncation forgets 2^shift - 1; a result may then be off by one only."""
    honest = backend.truncate
    wrong = lambda self, words, k, shift, party, out=None: honest(self, words, k, shift, 1, out)  # noqa: E731  one line
    patch.setattr(backend, "truncate", wrong)
    x = share(np.arange(989), 40, frac=26)
    with pytest.raises(AssertionError, match="a share differs"):
        check_same(lambda b: run_step(cases.truncate(989, 40, 13), x, backends=b), others)
