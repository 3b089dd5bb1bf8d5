"""Planted bugs in what compares: ReLU, clamp, maximum, argmax; each with the checker that must
fail on it.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import CostMismatch, GpumpcError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.offline.seeds import SeedTree
from gpumpc.protocols import comparison
from gpumpc.protocols import relu as relu_module
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import Session
from tests.harness import Cell, Outcome, opened_cells, run_step, share, unsigned
from tests.protocols.cases import (
    argmax,
    clamp,
    outside_clamp,
    outside_relu,
    pair_max,
    random_values,
    relu,
)
from tests.protocols.checkers import check_independent, check_padding, check_view
from tests.protocols.mistakes import (
    Checker,
    Mistake,
    Patch,
    change_draws,
    check_caught,
    drawn_openly,
    first_for_all,
    first_row_for_all,
    tie_goes_right,
    zeroed,
)

N = 1 << 14
# pytest.raises' own failure, where a checker expects an error that does not come, is not an
# AssertionError.
ERRORS = (AssertionError, GpumpcError, pytest.fail.Exception)
BITS, K, F, TOP = 27, 40, 13, 6 << 13


# checkers: each runs something and raises if it is not as it must be


def run_relu(seed: int = 2, batch_index: int = 1, high: int = K, values: Any = None) -> Outcome:
    x = random_values(BITS, (N,)) if values is None else values
    return run_step(relu(N, BITS, high), share(x, BITS, seed=seed), seed=3, batch_index=batch_index)


def relu_is_right() -> None:
    assert not outside_relu(random_values(BITS, (N,)), run_relu().values).any()


def relu_opens_noise() -> None:
    """Marginals and pairs, for a constant secret."""
    check_independent(opened_cells(run_relu(values=np.full(N, 5))))


def relu_view_of(party: int) -> None:
    x = random_values(BITS, (N,))
    peer = share(x, BITS, seed=2)[1 - party].words
    check_view(
        run_relu(),
        party,
        N,
        [Cell("x", BITS, N, unsigned(x)), Cell("the peer's share", BITS, N, peer)],
    )


def relu_view_of_server_0() -> None:
    relu_view_of(0)


def relu_view_of_server_1() -> None:
    relu_view_of(1)


def two_batches_are_unrelated() -> None:
    """Openings of two batches with different inputs, taken together."""
    runs = [
        run_relu(values=np.full(N, value), batch_index=batch_index)
        for batch_index, value in ((1, 5), (2, -7))
    ]
    check_independent([cell for run in runs for cell in opened_cells(run)])


def clamp_is_right() -> None:
    x = random_values(BITS, (N,), -(1 << (BITS - 1)) + TOP)
    x[4:7] = [TOP - 1, TOP, TOP + 1]
    assert not outside_clamp(
        x, run_step(clamp(N, BITS, K, TOP), share(x, BITS, seed=2)).values, TOP
    ).any()


def max_is_right() -> None:
    x = random_values(BITS - 1, (N, 1, 2, 1))
    got = run_step(pair_max(N, BITS), share(x, BITS, seed=2)).values
    assert np.array_equal(got, x.max(axis=2, keepdims=True))


def argmax_is_right() -> None:
    x = np.random.default_rng(5).integers(-2, 2, (N // 8, 5))
    got = run_step(argmax(x.shape, BITS), share(x, BITS, seed=2)).words
    assert np.array_equal(got, np.argmax(x, axis=1).astype(np.uint64))


def padding_is_clean() -> None:
    check_padding(run_step(relu(989, BITS, K), share(random_values(BITS, (989,)), BITS, seed=2)))


CHECKERS = [
    relu_is_right,
    relu_opens_noise,
    relu_view_of_server_0,
    relu_view_of_server_1,
    two_batches_are_unrelated,
    clamp_is_right,
    max_is_right,
    argmax_is_right,
    padding_is_clean,
]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_correct_protocols_pass_every_checker(checker: Checker) -> None:
    checker()


# mistakes


def mask_zero(patch: Patch) -> None:
    change_draws(patch, "r", zeroed)


def mask_constant(patch: Patch) -> None:
    change_draws(patch, "r", first_for_all)


def mask_too_narrow(patch: Patch) -> None:
    """A mask as wide as the secret, not as the ring."""
    change_draws(patch, "r", lambda values: values & mask(BITS - 4))


def lift_with_one_mask_for_two_candidates(patch: Patch) -> None:
    change_draws(patch, "lift.a", first_row_for_all)


def tree_sharing_masks(patch: Patch) -> None:
    change_draws(patch, "masks", first_row_for_all)


def tree_without_masks(patch: Patch) -> None:
    change_draws(patch, "masks", zeroed)


def choice_without_its_mask(patch: Patch) -> None:
    change_draws(patch, "t'", zeroed)


def sign_open_to_server_0(patch: Patch) -> None:
    """Only server 0 draws t': what is opened is masked by a bit that it knows."""
    change_draws(patch, "t'", zeroed, parties=(1,))


def table_sent_in_the_clear(patch: Patch) -> None:
    """Share 0 of the thermometer codes is zero, so the correction to server 1 is r itself."""
    honest = Session.lanes, Dealing.lanes

    def session_lanes(self: Session, name: str, planes: int, n: int) -> Any:
        lanes = honest[0](self, name, planes, n)
        return zeroed(lanes) if name.startswith("table") else lanes

    def dealer_lanes(self: Dealing, party: int, name: str, planes: int, n: int) -> Any:
        lanes = honest[1](self, party, name, planes, n)
        return zeroed(lanes) if name.startswith("table") else lanes

    drawn_openly(patch)
    patch.setattr(Session, "lanes", session_lanes)
    patch.setattr(Dealing, "lanes", dealer_lanes)


def correlation_used_twice(patch: Patch) -> None:
    """The batch number does not reach the seeds."""
    honest = SeedTree.__init__
    patch.setattr(
        SeedTree,
        "__init__",
        lambda self, root, session, batch_index: honest(self, root, session, 0),
    )


def rho_not_folded_into_t(patch: Patch) -> None:
    """t = t', without msb(r)."""

    def deal(self: Any, dealing: Dealing) -> None:
        honest_split = relu_module.split_top
        patch.setattr(relu_module, "split_top", lambda planes: (planes[:-1], zeroed(planes[-1])))
        honest(self, dealing)
        patch.setattr(relu_module, "split_top", honest_split)

    honest = relu_module.Positive.deal
    patch.setattr(relu_module.Positive, "deal", deal)


def sign_bits_forgotten(patch: Patch) -> None:
    """msb(y) and msb(r) count for nothing."""
    patch.setattr(relu_module, "split_top", lambda planes: (planes[:-1], zeroed(planes[-1])))


def padding_bits_not_zero(patch: Patch) -> None:
    def expand(self: Any, cipher: Any, key: bytes, planes: int, n: int) -> Any:
        from gpumpc.ring import prg

        return prg.expand(cipher, key, 8 * planes * -(-n // 64)).view("<u8").reshape(planes, -1)

    patch.setattr(NumpyBackend, "expand_lanes", expand)


def wrong_party_adds_constant(patch: Patch) -> None:
    """Both take the complement in drelu: the two ones cancel."""
    ones = comparison.ones_at_party_0

    def at_both(session: Session, n: int) -> Any:
        party, session.party = session.party, 0
        try:
            return ones(session, n)
        finally:
            session.party = party

    patch.setattr(relu_module, "ones_at_party_0", at_both)


def clamp_constant_off(patch: Patch) -> None:
    """By the least amount that reaches the high digits: the low ones are compared only once for
    both constants.
    """
    honest = NumpyBackend.add_constant
    patch.setattr(
        NumpyBackend,
        "add_constant",
        lambda self, words, value, bits: honest(
            self, words, value - (TOP & -TOP) * (value == -TOP), bits
        ),
    )


def max_takes_the_smaller(patch: Patch) -> None:
    honest = relu_module.Positive.run
    patch.setattr(
        relu_module.Positive, "run", lambda self, session, v: honest(self, session, zeroed(v) - v)
    )


def lower_digit_first(patch: Patch) -> None:
    """The tree combines digits from the bottom."""
    honest = comparison._digits

    def digits(chain: Any, planes: Any, lowest: int) -> Any:
        return [
            (label, width, block[::-1]) for label, width, block in honest(chain, planes, lowest)
        ]

    patch.setattr(comparison, "_digits", digits)


def cost_forgets_the_lift(patch: Patch) -> None:
    honest = relu_module.Positive.__dict__["cost"].fget
    patch.setattr(
        relu_module.Positive,
        "cost",
        property(
            lambda self: dataclasses.replace(honest(self), s0_bytes=honest(self).s0_bytes - 1)
        ),
    )


PLANTED: list[tuple[Mistake, Checker]] = [
    (mask_zero, relu_opens_noise),
    (mask_constant, relu_opens_noise),
    (mask_too_narrow, relu_opens_noise),
    (lift_with_one_mask_for_two_candidates, relu_view_of_server_0),
    (tree_sharing_masks, relu_opens_noise),
    (tree_without_masks, relu_opens_noise),
    (choice_without_its_mask, relu_opens_noise),
    (sign_open_to_server_0, relu_view_of_server_0),
    (table_sent_in_the_clear, relu_view_of_server_1),
    (correlation_used_twice, two_batches_are_unrelated),
    (rho_not_folded_into_t, relu_is_right),
    (sign_bits_forgotten, relu_is_right),
    (padding_bits_not_zero, padding_is_clean),
    (wrong_party_adds_constant, relu_is_right),
    (wrong_party_adds_constant, clamp_is_right),
    (clamp_constant_off, clamp_is_right),
    (tie_goes_right, argmax_is_right),
    (max_takes_the_smaller, max_is_right),
    (lower_digit_first, relu_is_right),
    (cost_forgets_the_lift, relu_is_right),
]


@pytest.mark.parametrize(("plant", "checker"), PLANTED, ids=lambda function: function.__name__)
def test_a_planted_bug_is_caught(plant: Mistake, checker: Checker) -> None:
    check_caught(plant, checker, ERRORS)


def test_wrong_cost_stops_the_run() -> None:
    with pytest.MonkeyPatch.context() as patch:
        cost_forgets_the_lift(patch)
        with pytest.raises(CostMismatch):
            relu_is_right()
