"""Bugs planted in ReLU, clamp, maximum and argmax, with the checkers that must fail."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import CostMismatch
from gpumpc.offline.deal_batch import Dealing
from gpumpc.offline.seeds import SeedTree
from gpumpc.protocols import comparison
from gpumpc.protocols import relu as relu_module
from gpumpc.protocols.relu import Positive
from gpumpc.ring import prg
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import Session
from tests.harness import Cell, Outcome, opened_cells, run_step, share, unsigned
from tests.protocols import cases, mistakes
from tests.protocols.checkers import check_independent, check_padding, check_view
from tests.protocols.mistakes import Patch, draws, first_row_for_all, name_of, replaced, zeroed

N = 1 << 14
BITS, K, F, TOP = 27, 40, 13, 6 << 13


# checkers: each runs something and raises if it is not as it must be


def run_relu(seed: int = 2, batch_index: int = 1, high: int = K, values: Any = None) -> Outcome:
    x = cases.random_values(BITS, (N,)) if values is None else values
    return run_step(
        cases.relu(N, BITS, high), share(x, BITS, seed=seed), seed=3, batch_index=batch_index
    )


def relu_is_right() -> None:
    assert not cases.outside_relu(cases.random_values(BITS, (N,)), run_relu().values).any()


def relu_opens_noise() -> None:
    """Marginals and pairs, for a constant secret."""
    check_independent(opened_cells(run_relu(values=np.full(N, 5))))


def relu_view_of(party: int) -> None:
    x = cases.random_values(BITS, (N,))
    peer = share(x, BITS, seed=2)[1 - party].words
    secret = [Cell("x", BITS, N, unsigned(x)), Cell("the peer's share", BITS, N, peer)]
    check_view(run_relu(), party, N, secret)


view_0, view_1 = (functools.partial(relu_view_of, party) for party in (0, 1))


def two_batches_are_unrelated() -> None:
    """Openings of two batches with different inputs, taken together."""
    runs = [
        run_relu(values=np.full(N, value), batch_index=batch_index)
        for batch_index, value in ((1, 5), (2, -7))
    ]
    check_independent([cell for run in runs for cell in opened_cells(run)])


def clamp_is_right() -> None:
    x = cases.random_values(BITS, (N,), -(1 << (BITS - 1)) + TOP)
    x[4:7] = [TOP - 1, TOP, TOP + 1]
    assert not cases.outside_clamp(
        x, run_step(cases.clamp(N, BITS, K, TOP), share(x, BITS, seed=2)).values, TOP
    ).any()


def max_is_right() -> None:
    x = cases.random_values(BITS - 1, (N, 1, 2, 1))
    got = run_step(cases.pair_max(N, BITS), share(x, BITS, seed=2)).values
    assert np.array_equal(got, x.max(axis=2, keepdims=True))


def argmax_is_right() -> None:
    x = np.random.default_rng(5).integers(-2, 2, (N // 8, 5))
    got = run_step(cases.argmax(x.shape, BITS), share(x, BITS, seed=2)).words
    assert np.array_equal(got, np.argmax(x, axis=1).astype(np.uint64))


def padding_is_clean() -> None:
    check_padding(
        run_step(cases.relu(989, BITS, K), share(cases.random_values(BITS, (989,)), BITS, seed=2))
    )


CHECKERS = [relu_is_right, relu_opens_noise, view_0, view_1, two_batches_are_unrelated]
CHECKERS += [clamp_is_right, max_is_right, argmax_is_right, padding_is_clean]


@pytest.mark.parametrize("checker", CHECKERS, ids=name_of)
def test_correct_protocols_pass_every_checker(checker):
    checker()


# mistakes


def table_sent_in_the_clear(patch: Patch) -> None:
    """Share 0 of the thermometer codes is zero, so the correction to server 1 is r itself."""

    def plant(honest: Any, name_at: int) -> Any:
        def lanes(self: Any, *arguments: Any) -> Any:
            drawn = honest(self, *arguments)
            return zeroed(drawn) if arguments[name_at].startswith("table") else drawn

        return lanes

    mistakes.drawn_openly(patch)
    patch.setattr(Session, "lanes", plant(Session.lanes, 0))
    patch.setattr(Dealing, "lanes", plant(Dealing.lanes, 1))


def without_top(planes: Any) -> Any:
    return planes[:-1], zeroed(planes[-1])


def rho_not_folded_into_t(honest: Any) -> Any:
    """t = t', without msb(r)."""

    def deal(self: Any, dealing: Dealing) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relu_module, "split_top", without_top)
            honest(self, dealing)

    return deal


def random_padding(_: object) -> Any:
    def expand(self: Any, cipher: Any, key: bytes, planes: int, n: int) -> Any:
        return prg.expand(cipher, key, 8 * planes * -(-n // 64)).view("<u8").reshape(planes, -1)

    return expand


def ones_at_both(_: object) -> Any:
    """Both take the complement in drelu: the two ones cancel."""
    return lambda session, n: session.backend.constant_lane(1, n)


def from_the_bottom(honest: Any) -> Any:
    """The tree combines digits from the bottom."""
    return lambda *a: [(label, width, block[::-1]) for label, width, block in honest(*a)]


def slightly_off(honest: Any) -> Any:
    """It reaches the high digits: the low ones are compared only once for both constants."""
    return lambda self, words, value, bits: honest(
        self, words, value - (TOP & -TOP) * (value == -TOP), bits
    )


def in_batch_0(honest: Any) -> Any:
    """The batch number does not reach the seeds."""
    return lambda self, root, session, batch_index: honest(self, root, session, 0)


def of_the_negative(honest: Any) -> Any:
    return lambda self, session, v: honest(self, session, zeroed(v) - v)


def less_a_byte(honest: Any) -> Any:
    return property(
        lambda self: dataclasses.replace(cost := honest.fget(self), s0_bytes=cost.s0_bytes - 1)
    )


cost_forgets_the_lift = replaced("cost_forgets_the_lift", Positive, "cost", less_a_byte)
used_twice = replaced("correlation_used_twice", SeedTree, "__init__", in_batch_0)
no_sign_bits = replaced("sign_bits_forgotten", relu_module, "split_top", lambda _: without_top)
constant_off = replaced("clamp_constant_off", NumpyBackend, "add_constant", slightly_off)
bad_padding = replaced("padding_bits_not_zero", NumpyBackend, "expand_lanes", random_padding)
wrong_party = replaced("wrong_party", relu_module, "ones_at_party_0", ones_at_both)
NARROW = mask(BITS - 4)  # as wide as the secret, not as the ring
PLANTED: mistakes.Cases = [
    (draws("mask_zero", "r"), relu_opens_noise),
    (draws("mask_constant", "r", mistakes.first_for_all), relu_opens_noise),
    (draws("mask_too_narrow", "r", lambda values: values & NARROW), relu_opens_noise),
    (draws("lift_with_one_mask_for_two_candidates", "lift.a", first_row_for_all), view_0),
    (draws("tree_sharing_masks", "masks", first_row_for_all), relu_opens_noise),
    (draws("tree_without_masks", "masks"), relu_opens_noise),
    (draws("choice_without_its_mask", "t'"), relu_opens_noise),
    # Only server 0 draws t': what is opened is masked by a bit that it knows.
    (draws("sign_open_to_server_0", "t'", parties=(1,)), view_0),
    (table_sent_in_the_clear, view_1),
    (used_twice, two_batches_are_unrelated),
    (replaced("rho_not_folded_into_t", Positive, "deal", rho_not_folded_into_t), relu_is_right),
    # msb(y) and msb(r) count for nothing.
    (no_sign_bits, relu_is_right),
    (bad_padding, padding_is_clean),
    (wrong_party, relu_is_right),
    (wrong_party, clamp_is_right),
    (constant_off, clamp_is_right),
    (mistakes.tie_goes_right, argmax_is_right),
    (replaced("max_takes_the_smaller", Positive, "run", of_the_negative), max_is_right),
    (replaced("lower_digit_first", comparison, "_digits", from_the_bottom), relu_is_right),
    (cost_forgets_the_lift, relu_is_right),
]


@pytest.mark.parametrize(("plant", "checker"), PLANTED, ids=name_of)
def test_a_planted_bug_is_caught(plant, checker):
    mistakes.check_caught(plant, checker, mistakes.ERRORS)


def test_wrong_cost_stops_the_run() -> None:
    with pytest.MonkeyPatch.context() as patch:
        cost_forgets_the_lift(patch)
        with pytest.raises(CostMismatch):
            relu_is_right()
