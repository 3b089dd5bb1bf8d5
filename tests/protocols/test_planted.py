"""Planted bugs: deliberate mistakes, each with the checker that must fail on it; the same checker
passes without it.

A mistake that no checker noticed would mean that the checkers, not the protocols, are at fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import BitsMismatch, CorrelationError, CostMismatch, GpumpcError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.offline.seeds import SeedTree
from gpumpc.protocols import comparison, truncation
from gpumpc.protocols import relu as relu_module
from gpumpc.protocols.linear import MatMul, Open, PrivateProduct
from gpumpc.protocols.pooling import Add
from gpumpc.protocols.ranking import argmax as argmax_module
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import Session
from gpumpc.shares import Additive
from tests.harness import BACKEND, Cell, Outcome, opened_cells, run_step, run_steps, share, unsigned
from tests.protocols.cases import (
    argmax,
    clamp,
    lift,
    outside_clamp,
    outside_relu,
    outside_truncation,
    pair_max,
    relu,
    truncate,
)
from tests.protocols.checkers import check_independent, check_opened, check_padding, check_view
from tests.scripted import drawn_openly

Patch = pytest.MonkeyPatch
N = 1 << 14
BITS, K, F, TOP = 27, 40, 13, 6 << 13


# checkers: each runs something and raises if it is not as it must be


def random_values(bits: int, shape: tuple[int, ...] = (N,), low: int | None = None) -> Any:
    half = 1 << (bits - 1)
    x = np.random.default_rng(1).integers(-half if low is None else low, half, shape)
    x.reshape(-1)[:4] = [0, 1, half - 1, -half if low is None else low]
    return x


def run_relu(seed: int = 2, batch_index: int = 1, high: int = K, values: Any = None) -> Outcome:
    x = random_values(BITS) if values is None else values
    return run_step(relu(N, BITS, high), share(x, BITS, seed=seed), seed=3, batch_index=batch_index)


def relu_is_right() -> None:
    assert not outside_relu(random_values(BITS), run_relu().values).any()


def relu_opens_noise() -> None:
    """Marginals and pairs, for a constant secret."""
    check_independent(opened_cells(run_relu(values=np.full(N, 5))))


def relu_view_of(party: int) -> None:
    x = random_values(BITS)
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


def lift_is_right() -> None:
    x = random_values(BITS - 1)
    assert np.array_equal(run_step(lift(N, BITS, K), share(x, BITS, seed=2)).values, x)


def lift_view_of_server_0() -> None:
    x = random_values(BITS - 1)
    pair = share(x, BITS, seed=2)
    # What S0 holds and hears, S1's top bit among the secrets: the mask must hide it.
    peer = Cell("S1's top bit", 0, N, BACKEND.bit(pair[1].words + unsigned([0]), BITS - 1)[None])
    check_view(run_step(lift(N, BITS, K), pair), 0, N, [peer])


def clamp_is_right() -> None:
    x = random_values(BITS, low=-(1 << (BITS - 1)) + TOP)
    x[4:7] = [TOP - 1, TOP, TOP + 1]
    assert not outside_clamp(
        x, run_step(clamp(N, BITS, K, TOP), share(x, BITS, seed=2)).values, TOP
    ).any()


def truncation_is_right() -> None:
    x = random_values(K)
    x = np.minimum(x, (1 << (K - 1)) - (1 << F))
    x[5:500] = x[5:500] >> F << F
    assert not outside_truncation(
        x, run_step(truncate(N, K, F), share(x, K, seed=2)).values, F
    ).any()


def truncation_has_no_large_errors() -> None:
    """Signed results within one unit of the quotient, whatever ring they claim."""
    x = random_values(20)
    got = run_step(truncate(N, K, F), share(x, K, seed=2)).values
    assert (np.abs(got - (x >> F)) <= 1).all()


def product_is_right() -> None:
    rng = np.random.default_rng(4)
    x, w = rng.integers(-100, 100, (19, 7)), rng.integers(-100, 100, (7, 5))
    steps = [
        Open("open", ("x",), "e", x.shape, K),
        PrivateProduct("p", ("e",), "y", x.shape, "layer", MatMul(), (19, 5), K, 2 * F),
    ]
    weights = {"layer": (unsigned(w) & mask(K), np.array([1, 2, 3, 4, 5], dtype=np.uint64))}
    got = run_steps(steps, {"x": share(x, K, seed=2)}, weights)
    assert np.array_equal(got.values, x @ w + [1, 2, 3, 4, 5])


def padding_is_clean() -> None:
    check_padding(run_step(relu(989, BITS, K), share(random_values(BITS, (989,)), BITS, seed=2)))


def max_is_right() -> None:
    x = random_values(BITS - 1, (N, 1, 2, 1))
    got = run_step(pair_max(N, BITS), share(x, BITS, seed=2)).values
    assert np.array_equal(got, x.max(axis=2, keepdims=True))


def argmax_is_right() -> None:
    x = np.random.default_rng(5).integers(-2, 2, (N // 8, 5))
    got = run_step(argmax(x.shape, BITS), share(x, BITS, seed=2)).words
    assert np.array_equal(got, np.argmax(x, axis=1).astype(np.uint64))


def a_narrow_share_stays_narrow() -> None:
    """A 27-bit share plus a 40-bit one: the sum must not be taken for a 40-bit share."""
    x = random_values(BITS - 2)
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
    relu_is_right,
    relu_opens_noise,
    relu_view_of_server_0,
    relu_view_of_server_1,
    two_batches_are_unrelated,
    lift_is_right,
    lift_view_of_server_0,
    clamp_is_right,
    truncation_is_right,
    truncation_has_no_large_errors,
    product_is_right,
    padding_is_clean,
    max_is_right,
    argmax_is_right,
    a_narrow_share_stays_narrow,
    a_name_serves_once,
    opening_is_noise,
]


@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker.__name__)
def test_the_protocols_pass(checker: Callable[[], None]) -> None:
    checker()


# mistakes


def _draws(
    patch: Patch, wanted: str, change: Callable[[Any], Any], parties: tuple[int, ...] = (0, 1)
) -> None:
    """Change what is drawn under names that end with `wanted`, at the servers and at the dealer
    alike.
    """

    def session_draw(honest: Callable[..., Any]) -> Callable[..., Any]:
        def draw(self: Session, name: str, *shape: Any) -> Any:
            drawn = honest(self, name, *shape)
            return change(drawn) if name.endswith(wanted) and self.party in parties else drawn

        return draw

    def dealer_draw(honest: Callable[..., Any]) -> Callable[..., Any]:
        def draw(self: Dealing, party: int, name: str, *shape: Any) -> Any:
            drawn = honest(self, party, name, *shape)
            return change(drawn) if name.endswith(wanted) and party in parties else drawn

        return draw

    drawn_openly(patch)
    for kind in ("words", "lanes"):
        patch.setattr(Session, kind, session_draw(getattr(Session, kind)))
        patch.setattr(Dealing, kind, dealer_draw(getattr(Dealing, kind)))


def zeroed(values: Any) -> Any:
    return values * np.uint64(0)


def first_for_all(values: Any) -> Any:
    return zeroed(values) + values.reshape(-1)[0]


def first_row_for_all(lanes: Any) -> Any:
    return zeroed(lanes) + lanes[:1]


def mask_zero(patch: Patch) -> None:
    _draws(patch, "r", zeroed)


def mask_constant(patch: Patch) -> None:
    _draws(patch, "r", first_for_all)


def mask_too_narrow(patch: Patch) -> None:
    """A mask as wide as the secret, not as the ring."""
    _draws(patch, "r", lambda values: values & mask(BITS - 4))


def operand_mask_zero(patch: Patch) -> None:
    _draws(patch, "A", zeroed)


def lift_without_its_mask(patch: Patch) -> None:
    _draws(patch, "lift.a", zeroed)


def lift_told_by_server_1_in_the_clear(patch: Patch) -> None:
    _draws(patch, "lift.a", zeroed, parties=(1,))


def lift_with_one_mask_for_two_candidates(patch: Patch) -> None:
    _draws(patch, "lift.a", first_row_for_all)


def tree_sharing_masks(patch: Patch) -> None:
    _draws(patch, "masks", first_row_for_all)


def tree_without_masks(patch: Patch) -> None:
    _draws(patch, "masks", zeroed)


def choice_without_its_mask(patch: Patch) -> None:
    _draws(patch, "t'", zeroed)


def sign_open_to_server_0(patch: Patch) -> None:
    """Only server 0 draws t': what is opened is masked by a bit that it knows."""
    _draws(patch, "t'", zeroed, parties=(1,))


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


def names_not_remembered(patch: Patch) -> None:
    def key(self: SeedTree, step: str, name: str) -> bytes:
        self._used.clear()
        return honest(self, step, name)

    honest = SeedTree.key
    patch.setattr(SeedTree, "key", key)


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
    bias: Any = np.array([1, 2, 3, 4, 5], dtype=np.uint64)

    def run(self: PrivateProduct, session: Session, x: Any) -> Additive:
        share_ = honest(self, session, x)
        return share_.with_words(share_.words + bias)

    patch.setattr(PrivateProduct, "run", run)


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


def tie_goes_right(patch: Patch) -> None:
    """d = [a - b > 0]: the right operand wins a tie."""
    honest = argmax_module.Duel.run

    def run(self: Any, session: Session, v: Any, index: Any) -> Any:
        return honest(self, session, v - np.uint64(session.party == 0), index)

    patch.setattr(argmax_module.Duel, "run", run)


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


def sum_takes_the_larger_ring(patch: Patch) -> None:
    def plus(self: Additive, backend: Any, other: Additive) -> Additive:
        return dataclasses.replace(
            self, words=self.words + other.words, bits=max(self.bits, other.bits)
        )

    patch.setattr(Additive, "plus", plus)


def ring_goes_up_without_a_lift(patch: Patch) -> None:
    patch.setattr(Additive, "check_bits", lambda self, bits: None)


def cost_forgets_the_lift(patch: Patch) -> None:
    honest = relu_module.Positive.__dict__["cost"].fget
    patch.setattr(
        relu_module.Positive,
        "cost",
        property(
            lambda self: dataclasses.replace(honest(self), s0_bytes=honest(self).s0_bytes - 1)
        ),
    )


PLANTED: list[tuple[Callable[[Patch], None], Callable[[], None]]] = [
    (mask_zero, relu_opens_noise),
    (mask_constant, relu_opens_noise),
    (mask_too_narrow, relu_opens_noise),
    (operand_mask_zero, opening_is_noise),
    (lift_without_its_mask, lift_view_of_server_0),
    (lift_told_by_server_1_in_the_clear, lift_view_of_server_0),
    (lift_with_one_mask_for_two_candidates, relu_view_of_server_0),
    (tree_sharing_masks, relu_opens_noise),
    (tree_without_masks, relu_opens_noise),
    (choice_without_its_mask, relu_opens_noise),
    (sign_open_to_server_0, relu_view_of_server_0),
    (table_sent_in_the_clear, relu_view_of_server_1),
    (correlation_used_twice, two_batches_are_unrelated),
    (names_not_remembered, a_name_serves_once),
    (rho_not_folded_into_t, relu_is_right),
    (sign_bits_forgotten, relu_is_right),
    (truncation_without_reduce, truncation_has_no_large_errors),
    (truncation_constant_at_both, truncation_is_right),
    (truncation_constant_at_none, truncation_is_right),
    (product_without_c, product_is_right),
    (bias_added_by_both, product_is_right),
    (padding_bits_not_zero, padding_is_clean),
    (wrong_party_adds_constant, relu_is_right),
    (wrong_party_adds_constant, clamp_is_right),
    (signed_lift_without_its_shift, lift_is_right),
    (lift_constant_at_both, lift_is_right),
    (lift_products_of_the_wrong_masks, lift_is_right),
    (clamp_constant_off, clamp_is_right),
    (tie_goes_right, argmax_is_right),
    (max_takes_the_smaller, max_is_right),
    (lower_digit_first, relu_is_right),
    (sum_takes_the_larger_ring, a_narrow_share_stays_narrow),
    (ring_goes_up_without_a_lift, a_narrow_share_stays_narrow),
    (cost_forgets_the_lift, relu_is_right),
]


@pytest.mark.parametrize(("plant", "checker"), PLANTED, ids=lambda function: function.__name__)
def test_a_planted_bug_is_caught(
    plant: Callable[[Patch], None], checker: Callable[[], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        # pytest.raises' own failure, where a checker expects an error that does not come, is no
        # AssertionError.
        with pytest.raises((AssertionError, GpumpcError, pytest.fail.Exception)):
            checker()


def test_a_wrong_cost_is_what_stops_the_run() -> None:
    with pytest.MonkeyPatch.context() as patch:
        cost_forgets_the_lift(patch)
        with pytest.raises(CostMismatch):
            relu_is_right()
