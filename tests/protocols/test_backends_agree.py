"""A server on NumPy, the other on compiled loops: every message, correction and share is the same,
bit for bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.params import Cipher, Params
from gpumpc.protocols.comparison import plan_comparison
from gpumpc.protocols.linear import (
    BeaverProduct,
    Convolution,
    Elementwise,
    MatMul,
    Open,
    PrivateProduct,
    PublicProduct,
)
from gpumpc.protocols.pooling import SumPool
from gpumpc.ring.numba_backend import NumbaBackend
from tests.harness import run_step, run_steps, share
from tests.protocols.cases import argmax, clamp, compare, lift, max_pool, relu, truncate
from tests.protocols.test_random import values
from tests.scripted import NUMPY

MIXED = [
    ("numba", "numpy", "numpy"),
    ("numpy", "numba", "numpy"),
    ("numpy", "numpy", "numba"),
    ("numba",) * 3,
]
CIPHERS: list[Cipher] = ["aes128ctr", "chacha20"]


def check_same(run):
    """`run(backends)` under the definition and under every mixture."""
    expected = run(NUMPY)
    for backends in MIXED:
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
    "truncate": lambda n: (truncate(n, 40, 13), 40),
    "lift": lambda n: (lift(n, 27, 40), 27),
    "relu": lambda n: (relu(n, 27, 40), 27),
    "relu in place": lambda n: (relu(n, 28, 28), 28),
    "relu of 62 bits": lambda n: (relu(n, 42, 62), 42),
    "clamp": lambda n: (clamp(n, 27, 40, 6 << 13), 27),
    "clamp, odd": lambda n: (clamp(n, 28, 44, 12345), 28),
    "pool": lambda n: (max_pool((2, 4, 3, n), 27, (3, 2), (2, 1), (1, 0, 0, 1)), 27),
    "argmax": lambda n: (argmax((n, 7), 40), 40),
    "sum pool": lambda n: (SumPool("s", ("x",), "y", (2, 4, 4, n), (2, 3), (2, 1)), 40),
}


@pytest.mark.parametrize("n", [1, 19, 989])
@pytest.mark.parametrize("name", STEPS)
def test_steps(name, n):
    step, bits = STEPS[name](n)
    x = share(
        values(-(1 << (bits - 3)), 1 << (bits - 3), step.n).reshape(step.shape), bits, frac=26
    )
    check_same(lambda backends: run_step(step, x, backends=backends))


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("weights", ["private", "public"])
@pytest.mark.parametrize(
    ("shape", "weight", "operator", "out"),
    [
        ((8, 50), (50, 20), MatMul(), (8, 20)),
        ((2, 9, 9, 3), (3, 3, 3, 20), Convolution((3, 3), (2, 2), (0, 1, 0, 1), 1), (2, 4, 4, 20)),
        (
            (2, 9, 9, 12),
            (5, 5, 1, 12),
            Convolution((5, 5), (1, 1), (2, 2, 2, 2), 12),
            (2, 9, 9, 12),
        ),
        ((2, 9, 9, 6), (3, 3, 3, 8), Convolution((3, 3), (1, 1), (1, 1, 1, 1), 2), (2, 9, 9, 8)),
    ],
)
def test_products(shape, weight, operator, out, weights, cipher):
    rng, k = np.random.default_rng(1), 40
    words = {
        "w": tuple(rng.integers(0, 1 << k, size, dtype=np.uint64) for size in (weight, weight[-1:]))
    }
    x = {"x": share(rng.integers(-1000, 1000, shape), k)}
    kind = PrivateProduct if weights == "private" else PublicProduct
    product = kind(
        "p", ("e" if weights == "private" else "x",), "y", shape, "w", operator, out, k, 26
    )
    steps = [Open("o", ("x",), "e", shape, k), product] if weights == "private" else [product]
    check_same(
        lambda b: run_steps(
            steps, x, words, Params(ring_bits=k, weights=weights, cipher=cipher), backends=b
        )
    )


def test_products_of_two_secrets():
    x, y = (share(np.random.default_rng(seed).integers(-99, 99, (989,)), 40) for seed in (1, 2))
    opens = [Open("ox", ("x",), "e", (989,), 40), Open("oy", ("y",), "f", (989,), 40)]
    product = BeaverProduct("p", ("e", "f"), "z", (989,), Elementwise(), (989,), 40)
    check_same(lambda backends: run_steps([*opens, product], {"x": x, "y": y}, backends=backends))


def test_a_comparison():
    n = 989
    step = compare(n, plan_comparison(26, 14, 2))
    y = values(0, 1 << 26, n)
    inputs: Any = [share(y, 26), share(y ^ (1 << 20), 26)]

    def run(backends):
        got = run_step(step, *inputs, backends=backends)
        first, second = (
            dataclasses.replace(inputs[0][0], words=np.stack(part.lanes), bits=64)
            for part in got.shares
        )
        return dataclasses.replace(got, shares=(first, second))

    check_same(run)


def test_a_loop_with_a_mistake_is_caught(monkeypatch):
    """Planted: the compiled truncation forgets party 0's 2^shift - 1; a plain result may still be
    off by one only.
    """
    honest = NumbaBackend.truncate
    wrong = lambda self, words, k, shift, party, out=None: honest(self, words, k, shift, 1, out)  # noqa: E731  one line
    monkeypatch.setattr(NumbaBackend, "truncate", wrong)
    x = share(np.arange(989), 40, frac=26)
    with pytest.raises(AssertionError, match="a share differs"):
        check_same(lambda backends: run_step(truncate(989, 40, 13), x, backends=backends))
