"""The vote of the nearest: the commonest label, of equals the nearest's, exactly and silently.

Seeds are fixed; for the rate of false alarms see `checkers`.
"""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import PlanError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.ranking import vote as module
from gpumpc.protocols.ranking.argmax import Duel, KnockOut
from gpumpc.protocols.ranking.vote import Equality, Vote
from gpumpc.protocols.step import Clear, Step
from gpumpc.retrieval.evaluation.metrics import majority_vote
from gpumpc.ring import selection
from gpumpc.ring.backend import Words, lane_bytes, packed_bytes
from gpumpc.session import Session
from tests import harness
from tests.harness import BACKEND, Cell, Outcome, opened_cells, plain, run_step, share, unsigned
from tests.protocols import mistakes
from tests.protocols.cases import Lt
from tests.protocols.checkers import check_cost, check_opened, check_same_law, check_view
from tests.protocols.mistakes import Cases, Patch, check_caught, draws, name_of, replaced

Ints = npt.NDArray[np.int64]
BITS = 40
SIZES = [1, 19, 989]


def vote(shape: tuple[int, int], bits: int) -> Vote:
    return Vote("vote", ("keys",), "label", shape, bits)


def keys_of(labels: Ints, bits: int, seed: int = 1) -> Ints:
    """Any numbers above the labels, of either sign."""
    above = np.random.default_rng(seed).integers(-(1 << 20), 1 << 20, labels.shape)
    return np.asarray((above << bits) + labels)


def run(labels: Ints, bits: int, seed: int = 1) -> Outcome:
    keys = share(keys_of(labels, bits), BITS, seed=seed)
    return run_step(vote(labels.shape, bits), keys, seed=seed)


# exactness


@pytest.mark.parametrize(("k", "n_labels"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 3), (6, 2)])
def test_vote_is_right_for_every_row_of_labels(k, n_labels):
    labels = np.array(list(itertools.product(range(n_labels), repeat=k)))
    expected = majority_vote(labels)
    assert np.array_equal(run(labels, 2).words.astype(np.int64), expected)
    assert np.array_equal(plain(vote(labels.shape, 2), keys_of(labels, 2)), expected)


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("k", [1, 2, 5, 10, 17])
@pytest.mark.parametrize("bits", [1, 3, 4, 5, 8, 11, 16])
def test_vote_is_right_for_random_labels(rows, k, bits):
    rng = np.random.default_rng(rows + k)
    kinds = rng.integers(0, 1 << bits, (rows, 3))
    few = np.take_along_axis(kinds, rng.integers(0, 3, (rows, k)), axis=1)
    labels = np.where(rng.random((rows, 1)) < 0.7, few, rng.integers(0, 1 << bits, (rows, k)))
    labels[0] = (1 << bits) - 1
    assert np.array_equal(run(labels, bits).words.astype(np.int64), majority_vote(labels))
    in_the_clear = plain(vote(labels.shape, bits), keys_of(labels, bits))
    assert np.array_equal(in_the_clear, majority_vote(labels))


def test_result_has_only_the_bits_of_a_label():
    got = run(np.array([[2, 2, 1]]), 3)
    for part in got.shares:
        assert part.bits == 3 and part.words.shape == (1,) and part.words.max() < 8


@pytest.mark.parametrize("bits", [0, 17])
def test_labels_too_wide_are_refused(bits):
    with pytest.raises(PlanError, match="cannot vote"):
        vote((3, 5), bits)
    assert Equality(16).rounds == 1


# equality alone


@dataclasses.dataclass(frozen=True)
class Compare(Step):
    """[y = r] for public y; r is the sum of both parties' draws called "r"."""

    bits: int

    @property
    def cost(self) -> Cost:
        e = Equality(self.bits)
        return Cost.both_ways(
            e.rounds, lane_bytes(self.n, e.opened_bits), lane_bytes(self.n, e.dealt_bits)
        )

    def deal(self, dealing: Dealing, *masks: object) -> None:
        r = dealing.sum_words("r", (self.n,), self.bits)
        Equality(self.bits).deal(dealing, dealing.backend.to_planes(r, self.bits), self.n)

    def run(self, session: Session, y: Any) -> Lt:
        planes = session.backend.to_planes(y.words, self.bits)
        return Lt((Equality(self.bits).run(session, planes, self.n),))

    def plain(self, clear: Clear, *values: Words) -> Words:
        raise AssertionError("an equality has no value in the clear")


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 9, 13, 16])
def test_equality_is_right_for_all_or_neighbouring_values(bits):
    full = 1 << bits
    near = np.unique([0, 1, full - 1, full // 2, full // 2 - 1, 5 % full])
    y, r = harness.every(*2 * [np.arange(full) if bits <= 6 else near])
    step = Compare("compare", ("y",), "e", (y.size,), bits)
    pair = tuple(dataclasses.replace(part, words=unsigned(y)) for part in share(y, bits))
    script = {(0, "compare", "r"): unsigned(r), (1, "compare", "r"): unsigned(0 * r)}
    got = run_step(step, (pair[0], pair[1]), script=script)
    lanes = got.shares[0].lanes[0] ^ got.shares[1].lanes[0]
    assert np.array_equal(BACKEND.from_bit(lanes, y.shape).astype(bool), y == r)
    assert got.cost == step.cost and (got.cost.rounds == 0) == (bits <= 4)


# cost


@pytest.mark.parametrize("rows", [1, 63, 64, 65])
@pytest.mark.parametrize(("k", "bits"), [(1, 3), (2, 3), (5, 3), (5, 8), (10, 4)])
def test_declared_cost_is_measured(rows, k, bits):
    step = vote((rows, k), bits)
    got = run(np.zeros((rows, k), dtype=np.int64), bits)
    check_cost(got, step.cost)
    pairs, count = rows * k * (k - 1) // 2, (k - 1).bit_length() + 1
    if k == 1:
        assert step.cost == Cost()
        return
    equality = Equality(bits)
    sent = packed_bytes(rows * k, bits) + lane_bytes(pairs, equality.opened_bits + 1)
    dealt = lane_bytes(pairs, equality.dealt_bits) + packed_bytes(pairs, count)
    own = Cost.both_ways(2 + equality.rounds, sent, dealt)
    assert step.cost == own + KnockOut(rows, k, count, bits).cost


def test_cost_of_a_vote_of_five_matches_the_document():
    """The figures of docs/protocols.md section 9b, an element of 64 queries at six classes."""
    cost = vote((64, 5), 3).cost
    assert (cost.rounds, cost.s0_bytes / 64, cost.dealer_bytes / 64) == (8, 7.125, 22.75)


@pytest.mark.parametrize(("bits", "payload"), [(3, 2), (3, 3), (3, 9), (20, 40)])
def test_a_duel_carries_payloads_wider_than_its_values(bits, payload):
    duel = Duel(64, bits, payload)
    assert duel.choice_bits == max(bits, payload)
    words = sum(packed_bytes(64, b) for b in (max(bits, payload), bits, payload))
    assert duel.cost.dealer_bytes == lane_bytes(64, duel.comparison.dealt_bits) + words


# transcripts of a vote


N = 1 << 14


def constant(kind: str) -> Ints:
    rows = {"equal": [5, 5, 5], "different": [1, 2, 4], "two of three": [7, 0, 7]}[kind]
    return np.broadcast_to(np.array(rows), (N, 3))


@pytest.mark.parametrize("kind", ["equal", "different", "two of three"])
@pytest.mark.parametrize("bits", [3, 9])
def test_every_opened_byte_lane_is_uniform(kind, bits):
    check_opened(run(constant(kind), bits, seed=9))


def test_two_inputs_give_transcripts_of_one_distribution():
    first, second = run(constant("equal"), 3, seed=10), run(constant("different"), 3, seed=11)
    for party in (0, 1):
        check_same_law(opened_cells(first, party), opened_cells(second, party))


def by_voter(got: Outcome) -> Outcome:
    """What has two elements a query, cut into the first voter's and the second's."""

    def opened(side: list[Any]) -> list[Any]:
        halves = [
            [o] if o.n == N else [dataclasses.replace(o, n=N, values=v) for v in o.values.T.copy()]
            for o in side
        ]
        return list(itertools.chain.from_iterable(halves))

    def drawn(side: dict[Any, Any]) -> dict[Any, Any]:
        return {
            name: (bits, v.T.copy() if v.shape == (N, 2) else v) for name, (bits, v) in side.items()
        }

    (first, second), (one, other) = got.openings, got.drawn
    return dataclasses.replace(
        got, openings=(opened(first), opened(second)), drawn=(drawn(one), drawn(other))
    )


def view_of(party: int) -> None:
    """Of two voters, so that every value has one element a query."""
    labels = np.random.default_rng(12).integers(0, 8, (N, 2))
    keys = np.random.default_rng(13).integers(0, 1 << BITS, (N, 2))
    keys = keys >> 3 << 3 | labels
    pair = share(keys, BITS, seed=14)
    got = run_step(vote((N, 2), 3), pair, seed=15)
    secret = [Cell("label", 3, N, unsigned(column)) for column in labels.T]
    secret += [Cell("their difference", 3, N, unsigned((labels[:, 0] - labels[:, 1]) & 7))]
    secret += [Cell("peer's label share", 3, N, column) for column in pair[1 - party].words.T]
    check_view(by_voter(got), party, N, secret)


view_0, view_1 = (functools.partial(view_of, party) for party in (0, 1))


# checkers, and mistakes that they must catch


def winners_are_right() -> None:
    labels = np.random.default_rng(16).integers(0, 4, (989, 6))
    assert np.array_equal(run(labels, 2).words.astype(np.int64), majority_vote(labels))
    wide = labels * 4099
    assert np.array_equal(run(wide, 14).words.astype(np.int64), majority_vote(wide))


def openings_are_noise() -> None:
    for bits in (3, 9):
        check_opened(run(constant("two of three"), bits, seed=17))


CHECKERS = [view_0, view_1, winners_are_right, openings_are_noise]


@pytest.mark.parametrize("checker", CHECKERS, ids=name_of)
def test_correct_vote_passes_every_checker(checker):
    checker()


def lower_digit_alone(patch: Patch) -> None:
    honest = module.Equality.run

    def equal(self: Equality, session: Session, planes: Any, n: int) -> Any:
        if not self.rounds:
            return honest(self, session, planes, n)
        blind = planes.copy()
        blind[self.edges[1] :] = 0
        return honest(self, session, blind, n)

    patch.setattr(module.Equality, "run", equal)


def first_voter_for_all(words: Any) -> Any:
    return mistakes.zeroed(words) + words[..., :1] if words.ndim == 2 else words


def by_farther_members(self: Vote, backend: Any, pairs: Any) -> Any:
    """Each pair counts for its farther member alone, so that the last holder has the most.

    (The nearer would do.)
    """
    _, right = selection.pairs(self.shape[1])
    sums = [pairs[:, right == i].sum(axis=1, dtype=np.uint64) for i in range(self.shape[1])]
    return np.stack(sums, axis=1)


def as_narrow_as_counts(_: object) -> Any:
    return property(lambda self: self.bits)


MISTAKES: Cases = [
    (draws("labels_opened_without_mask", "r"), openings_are_noise),
    (draws("one_mask_for_all_voters", "r", first_voter_for_all), openings_are_noise),
    (draws("equality_opened", "t'"), openings_are_noise),
    (draws("equality_open_to_server_0", "t'", parties=(1,)), view_0),
    (draws("digits_share_a_mask", "eq.masks", mistakes.first_row_for_all), openings_are_noise),
    (mistakes.tie_goes_right, winners_are_right),
    (replaced("choice_as_narrow", Duel, "choice_bits", as_narrow_as_counts), winners_are_right),
    (replaced("farther_members", Vote, "_summed", lambda _: by_farther_members), winners_are_right),
    (lower_digit_alone, winners_are_right),
]


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake, checker):
    check_caught(mistake, checker)
