"""Squared norms and the steps around them: exact modulo their ring, at their cost, or refused."""

from typing import Any

import numpy as np
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BitsMismatch, FracMismatch
from gpumpc.protocols.linear import Open
from gpumpc.protocols.ranking.distances import AddColumn, KeepRows, Rows, SquaredNorm
from gpumpc.protocols.step import Step
from gpumpc.ring.fixed_point import signed
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import Session
from tests.harness import BACKEND, Outcome, plain, run_steps, share, unsigned
from tests.protocols.mistakes import check_caught, name_of, replaced

SHAPES = [(1, 1), (1, 64), (19, 7), (3, 989)]


def norm_steps(shape: tuple[int, int], bits: int, k: int, frac: int = 0) -> list[Step]:
    return [
        Open("opened", ("x",), "e", shape, bits),
        SquaredNorm("norm", ("e",), "y", shape, k, frac),
    ]


def run_norm(x: Any, bits: int, k: int) -> Outcome:
    return run_steps(norm_steps(x.shape, bits, k), {"x": share(x, bits, seed=1)}, seed=2)


def wrapped(values: Any, k: int) -> Any:
    """Integers modulo 2^k, signed."""
    return signed(BACKEND.reduce(unsigned(values), k), k)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("bits", "k"), [(33, 33), (40, 40), (62, 62), (40, 33)])
def test_squared_norms_are_exact_modulo_their_ring(shape, bits, k):
    x = np.random.default_rng(3).integers(-(1 << 11), (1 << 11) + 1, shape)
    x.reshape(-1)[:2] = [1 << 11, -(1 << 11)][: x.size]
    assert np.array_equal(run_norm(x, bits, k).values, wrapped((x * x).sum(axis=1), k))


@pytest.mark.parametrize("k", [8, 33])
def test_squared_norms_wrap_at_the_edges_of_the_ring(k):
    half = 1 << (k - 1)
    x = np.array([[half - 1, -half], [-half, -half], [1, 0], [0, 0]])
    expected = [wrapped(sum(v * v for v in row) % (1 << k), k) for row in x.tolist()]
    assert np.array_equal(run_norm(x, k, k).values, expected)


def test_norm_matches_the_plain_definition():
    x = np.random.default_rng(4).integers(-500, 500, (19, 7))
    step = norm_steps((19, 7), 33, 33)[1]
    assert np.array_equal(plain(step, x), (x * x).sum(axis=1))
    assert np.array_equal(run_norm(x, 33, 33).values, plain(step, x))


@pytest.mark.parametrize("shape", SHAPES)
def test_declared_cost_is_measured(shape):
    got = run_norm(np.zeros(shape, dtype=np.int64), 40, 33)
    declared = norm_steps(shape, 40, 33)
    assert got.cost == declared[0].cost + declared[1].cost
    assert declared[1].cost == Cost(dealer_bytes=len(got.corrections))


def test_norm_refuses_an_operand_with_too_few_bits():
    with pytest.raises(BitsMismatch, match="opened modulo 2"):
        run_norm(np.zeros((2, 3), dtype=np.int64), 33, 40)


# what is added


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 5), (19, 64)])
def test_a_column_is_added_to_every_row(rows, n):
    rng = np.random.default_rng(5)
    x, y = rng.integers(-99, 99, (rows, n)), rng.integers(-99, 99, rows)
    step = AddColumn("sum", ("x", "y"), "z", (rows, n))
    got = run_steps([step], {"x": share(x, 33, seed=1), "y": share(y, 33, seed=2)})
    assert np.array_equal(got.values, x + y[:, None])
    assert np.array_equal(plain(step, x, y), x + y[:, None])
    assert got.cost == step.cost == Cost()


def test_sum_takes_the_smaller_ring_and_needs_one_scale():
    step = AddColumn("sum", ("x", "y"), "z", (2, 3))
    x, y = np.full((2, 3), 5), np.full(2, 1)
    narrow = run_steps([step], {"x": share(x, 40, seed=1), "y": share(y, 33, seed=2)})
    assert narrow.shares[0].bits == 33 and (narrow.values == 6).all()
    with pytest.raises(FracMismatch):
        run_steps([step], {"x": share(x, 33, frac=4), "y": share(y, 33, frac=2)})


def test_rows_are_stored_with_their_norms():
    x = np.random.default_rng(6).integers(-99, 99, (5, 7))
    steps = [*norm_steps((5, 7), 33, 33), KeepRows("kept", ("e", "y"), "rows", (5, 7))]
    got = run_steps(steps, {"x": share(x, 33, seed=1)})
    first, second = got.shares
    assert all(isinstance(part, Rows) for part in (first, second))
    assert got.cost == steps[0].cost + steps[1].cost
    assert np.array_equal(first.masked.opened, second.masked.opened)
    whole = BACKEND.reduce(first.masked.opened + first.masked.mask + second.masked.mask, 33)
    assert np.array_equal(signed(whole, 33), x)
    norms = BACKEND.reduce(first.norms.words + second.norms.words, 33)
    assert np.array_equal(signed(norms, 33), (x * x).sum(axis=1))
    assert np.array_equal(plain(steps[2], x, (x * x).sum(axis=1)), x)
    assert "secret" in repr(first) and str(first.masked.mask[0, 0]) not in repr(first)


# planted


def norms_are_exact() -> None:
    x = np.random.default_rng(7).integers(-99, 99, (19, 7))
    assert np.array_equal(run_norm(x, 33, 33).values, (x * x).sum(axis=1))


def cross_term_halved(honest: Any) -> Any:
    """E.E + E.A + A.A."""
    return lambda self, x, y, bits: honest(self, x, y, bits) // np.uint64(1 if x is y else 2)


def square_again(honest: Any) -> Any:
    def run(self: SquaredNorm, session: Session, x: Any) -> Any:
        got = honest(self, session, x)
        square = session.backend.row_dot(x.opened, x.opened, self.ring_bits)
        return got.with_words(got.words + square if session.party else got.words)

    return run


def without_squares_of_masks(honest: Any) -> Any:
    return lambda self, name, *a: honest(self, name, *a) * np.uint64(name != "A.A")


MISTAKES = [
    replaced("cross_term_once", NumpyBackend, "row_dot", cross_term_halved),
    replaced("square_added_by_both", SquaredNorm, "run", square_again),
    replaced("norm_without_correction", Session, "dealt_words", without_squares_of_masks),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake):
    norms_are_exact()
    check_caught(mistake, norms_are_exact)
