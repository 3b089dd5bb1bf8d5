"""Keys that carry secret labels, and their shuffle: here the whole width must be masked, not the
score alone.

Seeds are fixed; for the rate of false alarms see `checkers`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BitsMismatch
from gpumpc.protocols.ranking.shuffle import Shuffle
from gpumpc.protocols.ranking.vote import LabelledKeys
from gpumpc.ring.backend import packed_bytes
from tests import harness
from tests.protocols.checkers import check_independent, check_uniform
from tests.protocols.mistakes import Cases, check_caught, draws, name_of, replaced

Ints = npt.NDArray[np.int64]


# keys with labels


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 5), (2, 989)])
def test_keys_hold_scores_positions_and_labels(rows, n):
    rng = np.random.default_rng(5)
    v, labels = rng.integers(-(1 << 24), 1 << 24, (rows, n)), rng.integers(0, 6, n)
    id_bits = max(1, (n - 1).bit_length())
    step = LabelledKeys("keys", ("v", "labels"), "keys", (rows, n), 26, id_bits, 3)
    first = rng.integers(0, 1 << 63, n, dtype=np.uint64) * np.uint64(2)
    shares = harness.share(labels, 63, first=first)
    got = harness.run_steps([step], {"v": harness.share(v, 26, seed=1), "labels": shares})
    expected = (((v << id_bits) + np.arange(n)) << 3) + labels
    assert np.array_equal(got.values, expected) and np.array_equal(
        harness.plain(step, v, labels), expected
    )
    assert got.cost == step.cost == Cost() and got.shares[0].bits == step.bits == 29 + id_bits


def test_label_shares_narrower_than_a_key_are_refused():
    """A label's share modulo 2^label_bits would carry into the position."""
    step = LabelledKeys("keys", ("v", "labels"), "keys", (1, 4), 26, 2, 3)
    with pytest.raises(BitsMismatch):
        harness.run_steps(
            [step],
            {"v": harness.share(np.zeros((1, 4)), 26), "labels": harness.share(np.zeros(4), 3)},
        )


SHUFFLED = (64, 512)
KEY_BITS = 24


def shuffled(keys: Ints, first: Any = None, seed: int = 6) -> harness.Outcome:
    step = Shuffle("shuffled", ("keys",), "shuffled", SHUFFLED, KEY_BITS, 0)
    return harness.run_step(step, harness.share(keys, KEY_BITS, seed=seed, first=first), seed=seed)


def labelled(seed: int = 7) -> Ints:
    """All scores zero: what is secret is in the low three bits."""
    labels = np.random.default_rng(seed).integers(0, 8, SHUFFLED[1])
    keys = (np.arange(SHUFFLED[1]) << 3) + labels
    return np.broadcast_to(keys, SHUFFLED)


def keys_stay_the_same() -> None:
    first, second = shuffled(labelled()).shares
    whole = harness.BACKEND.reduce(first.share + second.share, KEY_BITS)
    assert np.array_equal(np.sort(whole.astype(np.int64), axis=1), labelled())


def the_shuffle_hides_labels() -> None:
    """Every byte a server hears, of keys shared as themselves and zero: only masks make noise."""
    got = shuffled(labelled(), first=np.zeros(SHUFFLED, dtype=np.uint64))
    for party in (0, 1):
        check_uniform(harness.opened_cells(got, party))


def the_view_hides_labels() -> None:
    keys = np.random.default_rng(8).integers(0, 1 << (KEY_BITS - 1), SHUFFLED)
    n = SHUFFLED[0] * SHUFFLED[1]
    got = shuffled(keys)
    for party in (0, 1):
        secret = harness.Cell("keys", KEY_BITS - 1, n, harness.unsigned(keys))
        own = harness.Cell(
            "input share", KEY_BITS, n, harness.share(keys, KEY_BITS, seed=6)[party].words
        )
        check_independent([*harness.view_cells(got, party, n), own], [secret])


def test_shuffle_of_whole_keys_costs_their_full_width():
    n = SHUFFLED[0] * SHUFFLED[1]
    wide = packed_bytes(n, KEY_BITS)
    assert shuffled(labelled()).cost == Cost(3, wide, 2 * wide, 2 * wide)
    step = Shuffle("shuffled", ("keys",), "shuffled", SHUFFLED, KEY_BITS, 0)
    assert np.array_equal(harness.plain(step, labelled()), labelled())


def server_1_cannot_unmask() -> None:
    """S1 holds beta, which takes a and Delta off what it hears: its low bits must still be noise.

    All labels are 5.
    """
    got = shuffled(np.broadcast_to((np.arange(SHUFFLED[1]) << 3) + 5, SHUFFLED))
    [heard] = [opening.values for opening in got.openings[1]]
    beta = got.drawn[1][1, "shuffled", "correction0"][1]
    low = ((heard + beta) & np.uint64(7)).reshape(-1).astype(np.int64)
    assert np.bincount(low).max() < heard.size / 4


CHECKERS = [keys_stay_the_same, the_shuffle_hides_labels, the_view_hides_labels]


@pytest.mark.parametrize("checker", [*CHECKERS, server_1_cannot_unmask], ids=name_of)
def test_correct_shuffle_passes_every_checker(checker):
    checker()


def above_labels(words: Any) -> Any:
    """A multiple of 2^3, as a mask may be where the low bits are public."""
    return words >> np.uint64(3) << np.uint64(3)


def plus_positions(honest: Any) -> Any:
    return lambda self, session, v: honest(
        self, session, v + np.arange(self.shape[1], dtype=np.uint64)
    )


MISTAKES: Cases = [
    (draws("label_not_masked_in_the_shuffle", "a", above_labels), the_shuffle_hides_labels),
    (draws("label_not_masked_on_the_way_back", "a'", above_labels), server_1_cannot_unmask),
    (replaced("positions_added", Shuffle, "_run_0", plus_positions), keys_stay_the_same),
]


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake, checker):
    check_caught(mistake, checker)
