"""Bugs planted in lift, truncation, products and openings, with the checkers that must fail."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import BitsMismatch, CorrelationError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.linear import MatMul, Open, PrivateProduct
from gpumpc.protocols.local import Add
from gpumpc.protocols.truncation import LiftBits, Truncate
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import Session
from gpumpc.shares import Additive
from tests.harness import BACKEND, Cell, run_step, run_steps, share, unsigned
from tests.protocols import mistakes
from tests.protocols.cases import lift, outside_truncation, product_steps, random_values, truncate
from tests.protocols.checkers import check_opened, check_view
from tests.protocols.mistakes import ERRORS, Cases, Mistake, Patch, draws, name_of, replaced

N = 1 << 14
BITS, K, F = 27, 40, 13


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


CHECKERS = [lift_is_right, lift_view_of_server_0, truncation_is_right]
CHECKERS += [truncation_has_no_large_errors, product_is_right, a_narrow_share_stays_narrow]


@pytest.mark.parametrize("checker", [*CHECKERS, a_name_serves_once, opening_is_noise], ids=name_of)
def test_correct_protocols_pass_every_checker(checker):
    checker()


# mistakes


def lift_products_of_the_wrong_masks(patch: Patch) -> None:
    """P = a_0 a_0."""

    def deal(self: Any, dealing: Dealing) -> None:
        both = dealing.lanes(0, "lift.a", self.candidates, self.n)
        words = [dealing.backend.from_bit(lane, (1, self.n)) for lane in both]
        dealing.deal_words("lift.P", dealing.backend.concat(words, 0), self.high - self.low)

    patch.setattr(LiftBits, "deal", deal)


def truncation(name: str, party: int) -> Mistake:
    """Both servers take the constant of one party's truncation."""

    def change(honest: Any) -> Any:
        return lambda self, words, k, shift, _: honest(self, words, k, shift, party)

    return replaced(name, NumpyBackend, "truncate", change)


def in_the_whole_ring(honest: Any) -> Any:
    """The result is taken for a share modulo 2^k, as if no carry could be lost."""
    replace = dataclasses.replace
    return lambda self, session, x: replace(honest(self, session, x), bits=self.ring_bits)


def bias_again(honest: Any) -> Any:
    bias = np.array([1, 2, 3, 4, 5], dtype=np.uint64)

    def run(self: PrivateProduct, session: Session, x: Any) -> Any:
        got: Any = honest(self, session, x)
        return got.with_words(got.words + bias)

    return run


def without_c(honest: Any) -> Any:
    return lambda self, name, *a: honest(self, name, *a) * np.uint64(name != "C")


def with_constant_at_both(_: object) -> Any:
    return lambda self, s, v: s.with_words(self.backend.add_constant(s.words, v, s.bits))


def unreduced_sum(_: object) -> Any:
    def plus(self: Additive, backend: Any, other: Additive) -> Additive:
        bits = max(self.bits, other.bits)
        return dataclasses.replace(self, words=self.words + other.words, bits=bits)

    return plus


def unchanged(_: object) -> Any:
    return lambda self, shared, *constant: shared


no_reduction = replaced("truncation_without_reduce", Truncate, "run", in_the_whole_ring)
no_shift = replaced("signed_lift_without_its_shift", Session, "public", unchanged)
twice = replaced("lift_constant_at_both", Session, "public", with_constant_at_both)
larger_ring = replaced("sum_takes_the_larger_ring", Additive, "plus", unreduced_sum)
no_lift = replaced("ring_goes_up_without_a_lift", Additive, "check_bits", unchanged)
PLANTED: Cases = [
    (draws("operand_mask_zero", "A"), opening_is_noise),
    (draws("lift_without_its_mask", "lift.a"), lift_view_of_server_0),
    (draws("lift_told_by_server_1_in_the_clear", "lift.a", parties=(1,)), lift_view_of_server_0),
    (mistakes.names_not_remembered, a_name_serves_once),
    (no_reduction, truncation_has_no_large_errors),
    (truncation("truncation_constant_at_both", 0), truncation_is_right),
    (truncation("truncation_constant_at_none", 1), truncation_is_right),
    (replaced("product_without_c", Session, "dealt_words", without_c), product_is_right),
    (replaced("bias_added_by_both", PrivateProduct, "run", bias_again), product_is_right),
    (no_shift, lift_is_right),
    (twice, lift_is_right),
    (lift_products_of_the_wrong_masks, lift_is_right),
    (larger_ring, a_narrow_share_stays_narrow),
    (no_lift, a_narrow_share_stays_narrow),
]


@pytest.mark.parametrize(("plant", "checker"), PLANTED, ids=name_of)
def test_a_planted_bug_is_caught(plant, checker):
    mistakes.check_caught(plant, checker, ERRORS)
