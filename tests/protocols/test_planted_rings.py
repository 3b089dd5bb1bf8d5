"""Planted bugs in what changes rings or multiplies: lift, truncation, products, openings; each with
the checker that must fail on it.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import BitsMismatch, CorrelationError, GpumpcError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols import truncation
from gpumpc.protocols.linear import MatMul, Open, PrivateProduct
from gpumpc.protocols.pooling import Add
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import Session
from gpumpc.shares import Additive
from tests.harness import BACKEND, Cell, run_step, run_steps, share, unsigned
from tests.protocols.cases import (
    lift,
    outside_truncation,
    product_steps,
    random_values,
    truncate,
)
from tests.protocols.checkers import check_opened, check_view
from tests.protocols.mistakes import (
    Checker,
    Mistake,
    Patch,
    change_draws,
    check_caught,
    names_not_remembered,
    zeroed,
)

N = 1 << 14
# pytest.raises' own failure, where a checker expects an error that does not come, is not an
# AssertionError.
ERRORS = (AssertionError, GpumpcError, pytest.fail.Exception)
BITS, K, F, TOP = 27, 40, 13, 6 << 13


# checkers: each runs something and raises if it is not as it must be


def lift_is_right() -> None:
    x = random_values(BITS - 1, (N,))
    assert np.array_equal(run_step(lift(N, BITS, K), share(x, BITS, seed=2)).values, x)


def lift_view_of_server_0() -> None:
    x = random_values(BITS - 1, (N,))
    pair = share(x, BITS, seed=2)
    # What S0 holds and hears, S1's top bit among the secrets: the mask must hide it.
    peer = Cell("S1's top bit", 0, N, BACKEND.bit(pair[1].words + unsigned([0]), BITS - 1)[None])
    check_view(run_step(lift(N, BITS, K), pair), 0, N, [peer])


def truncation_is_right() -> None:
    x = random_values(K, (N,))
    x = np.minimum(x, (1 << (K - 1)) - (1 << F))
    x[5:500] = x[5:500] >> F << F
    assert not outside_truncation(
        x, run_step(truncate(N, K, F), share(x, K, seed=2)).values, F
    ).any()


def truncation_has_no_large_errors() -> None:
    """Signed results within one unit of the quotient, whatever ring they claim."""
    x = random_values(20, (N,))
    got = run_step(truncate(N, K, F), share(x, K, seed=2)).values
    assert (np.abs(got - (x >> F)) <= 1).all()


def product_is_right() -> None:
    rng = np.random.default_rng(4)
    x, w = rng.integers(-100, 100, (19, 7)), rng.integers(-100, 100, (7, 5))
    steps = product_steps(MatMul(), (19, 7), (19, 5), K, 2 * F)
    weights = {"layer": (unsigned(w) & mask(K), np.array([1, 2, 3, 4, 5], dtype=np.uint64))}
    got = run_steps(steps, {"x": share(x, K, seed=2)}, weights)
    assert np.array_equal(got.values, x @ w + [1, 2, 3, 4, 5])


def a_narrow_share_stays_narrow() -> None:
    """A 27-bit share plus a 40-bit one: the sum must not be taken for a 40-bit share."""
    x = random_values(BITS - 2, (N,))
    steps = [Add("add", ("x", "y"), "z", (N,)), Open("open", ("z",), "e", (N,), K)]
    with pytest.raises(BitsMismatch):
        run_steps(steps, {"x": share(x, BITS, seed=2), "y": share(x, K, seed=3)})


def a_name_serves_once() -> None:
    steps = [Open("o", ("x",), "e", (N,), K), Open("o", ("y",), "f", (N,), K)]
    with pytest.raises(CorrelationError):
        run_steps(
            steps, {"x": share(np.full(N, 1), K, seed=2), "y": share(np.full(N, 2), K, seed=3)}
        )


def opening_is_noise() -> None:
    check_opened(
        run_step(Open("o", ("x",), "e", (N * 4,), K), share(np.full(N * 4, -1), K, seed=2))
    )


CHECKERS = [
    lift_is_right,
    lift_view_of_server_0,
    truncation_is_right,
    truncation_has_no_large_errors,
    product_is_right,
    a_narrow_share_stays_narrow,
    a_name_serves_once,
    opening_is_noise,
]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_correct_protocols_pass_every_checker(checker: Checker) -> None:
    checker()


# mistakes


def operand_mask_zero(patch: Patch) -> None:
    change_draws(patch, "A", zeroed)


def lift_without_its_mask(patch: Patch) -> None:
    change_draws(patch, "lift.a", zeroed)


def lift_told_by_server_1_in_the_clear(patch: Patch) -> None:
    change_draws(patch, "lift.a", zeroed, parties=(1,))


def truncation_without_reduce(patch: Patch) -> None:
    """The result is taken for a share modulo 2^k, as if no carry could be lost."""

    def run(self: Any, session: Session, x: Additive) -> Additive:
        return dataclasses.replace(honest(self, session, x), bits=self.ring_bits)

    honest = truncation.Truncate.run
    patch.setattr(truncation.Truncate, "run", run)


def truncation_constant_at_both(patch: Patch) -> None:
    honest = NumpyBackend.truncate
    patch.setattr(
        NumpyBackend,
        "truncate",
        lambda self, words, k, shift, party: honest(self, words, k, shift, 0),
    )


def truncation_constant_at_none(patch: Patch) -> None:
    honest = NumpyBackend.truncate
    patch.setattr(
        NumpyBackend,
        "truncate",
        lambda self, words, k, shift, party: honest(self, words, k, shift, 1),
    )


def product_without_c(patch: Patch) -> None:
    honest: Any = Session.dealt_words
    patch.setattr(
        Session,
        "dealt_words",
        lambda self, name, shape, bits: honest(self, name, shape, bits) * np.uint64(name != "C"),
    )


def bias_added_by_both(patch: Patch) -> None:
    honest = PrivateProduct.run
    bias = np.array([1, 2, 3, 4, 5], dtype=np.uint64)

    def run(self: PrivateProduct, session: Session, x: Any) -> Any:
        got: Any = honest(self, session, x)
        more: Additive = got.with_words(got.words + bias)
        return more

    patch.setattr(PrivateProduct, "run", run)


def signed_lift_without_its_shift(patch: Patch) -> None:
    patch.setattr(Session, "public", lambda self, share_, value: share_)


def lift_constant_at_both(patch: Patch) -> None:
    patch.setattr(
        Session,
        "public",
        lambda self, s, value: s.with_words(self.backend.add_constant(s.words, value, s.bits)),
    )


def lift_products_of_the_wrong_masks(patch: Patch) -> None:
    """P = a_0 a_0."""

    def deal(self: Any, dealing: Dealing) -> None:
        both = dealing.lanes(0, "lift.a", self.candidates, self.n)
        words = [dealing.backend.from_bit(lane, (1, self.n)) for lane in both]
        dealing.deal_words("lift.P", dealing.backend.concat(words, 0), self.high - self.low)

    patch.setattr(truncation.LiftBits, "deal", deal)


def sum_takes_the_larger_ring(patch: Patch) -> None:
    def plus(self: Additive, backend: Any, other: Additive) -> Additive:
        return dataclasses.replace(
            self, words=self.words + other.words, bits=max(self.bits, other.bits)
        )

    patch.setattr(Additive, "plus", plus)


def ring_goes_up_without_a_lift(patch: Patch) -> None:
    patch.setattr(Additive, "check_bits", lambda self, bits: None)


PLANTED: list[tuple[Mistake, Checker]] = [
    (operand_mask_zero, opening_is_noise),
    (lift_without_its_mask, lift_view_of_server_0),
    (lift_told_by_server_1_in_the_clear, lift_view_of_server_0),
    (names_not_remembered, a_name_serves_once),
    (truncation_without_reduce, truncation_has_no_large_errors),
    (truncation_constant_at_both, truncation_is_right),
    (truncation_constant_at_none, truncation_is_right),
    (product_without_c, product_is_right),
    (bias_added_by_both, product_is_right),
    (signed_lift_without_its_shift, lift_is_right),
    (lift_constant_at_both, lift_is_right),
    (lift_products_of_the_wrong_masks, lift_is_right),
    (sum_takes_the_larger_ring, a_narrow_share_stays_narrow),
    (ring_goes_up_without_a_lift, a_narrow_share_stays_narrow),
]


@pytest.mark.parametrize(("plant", "checker"), PLANTED, ids=lambda function: function.__name__)
def test_a_planted_bug_is_caught(plant: Mistake, checker: Checker) -> None:
    check_caught(plant, checker, ERRORS)
