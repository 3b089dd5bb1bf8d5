"""The shuffle: keys in an order that no server knows, opened under masks; with planted bugs.

For the rate of false alarms see `checkers`; seeds are fixed.
"""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpumpc.errors import BitsMismatch, CorrelationsMissing, MaskReused
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.ranking.shuffle import Shuffle, Shuffled
from gpumpc.ring import selection
from gpumpc.ring.fixed_point import mask, signed
from gpumpc.session import Session
from tests import harness
from tests.harness import BACKEND, Cell, Outcome, opened_cells, roots, run_step, share, unsigned
from tests.protocols import mistakes
from tests.protocols.checkers import check_cost, check_independent, check_same_law, check_uniform
from tests.protocols.mistakes import Cases, Patch, beta_not_corrected, check_caught, draws, name_of
from tests.scripted import NamedTree

Ints = npt.NDArray[np.int64]
BITS = 20
ROWS, N = 64, 512
ID_BITS = 9


def step(shape: tuple[int, int], bits: int = BITS, id_bits: int | None = None) -> Shuffle:
    places = max(1, (shape[1] - 1).bit_length()) if id_bits is None else id_bits
    return Shuffle("shuffled", ("x",), "shuffled", shape, bits, places)


def run(
    values: Ints, bits: int = BITS, seed: int = 1, script: Any = None, first: Any = None
) -> Outcome:
    rows, n = values.shape
    keys = share(values, bits, seed=seed, first=first)
    return run_step(step((rows, n), bits), keys, seed=seed, script=script)


def shuffled_keys(outcome: Outcome) -> Ints:
    first, second = outcome.shares
    keys: Ints = signed(BACKEND.reduce(first.share + second.share, first.bits), first.bits)
    return keys


def keys_of(values: Ints) -> Ints:
    n = values.shape[1]
    keys: Ints = (values << max(1, (n - 1).bit_length())) + np.arange(n)
    return keys


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 2), (1, 5), (3, 64), (2, 989)])
@pytest.mark.parametrize("bits", [3, BITS, 52])
def test_shuffle_permutes_each_row(shape, bits):
    values = np.random.default_rng(2).integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
    got = run(values, bits)
    assert np.array_equal(np.sort(shuffled_keys(got), axis=1), np.sort(keys_of(values), axis=1))


def test_both_servers_hold_the_same_opened_words():
    first, second = run(np.zeros((3, 64), dtype=np.int64)).shares
    assert first.bits == second.bits == BITS + 6
    assert np.array_equal(first.opened, second.opened)


def test_dealer_returns_the_mask_of_the_opened_words(monkeypatch):
    dealt = []
    honest = Shuffle.deal

    def deal(self: Shuffle, dealing: Dealing, *masks: object) -> Any:
        dealt.append(honest(self, dealing, *masks))
        return dealt[-1]

    monkeypatch.setattr(Shuffle, "deal", deal)
    got = run(np.random.default_rng(3).integers(-5, 5, (3, 64)))
    bits = got.shares[0].bits
    masked = BACKEND.reduce(unsigned(shuffled_keys(got)) + dealt[0], bits)
    assert np.array_equal(masked, got.shares[0].opened)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_pair_of_permutations_gives_their_composition(n):
    both = np.array(list(itertools.permutations(range(n))))
    pi, sigma = np.repeat(both, len(both), axis=0), np.tile(both, (len(both), 1))
    values = np.random.default_rng(4).integers(-100, 100, pi.shape)
    script = {(0, "shuffled", "pi"): pi, (1, "shuffled", "sigma"): sigma}
    order = selection.compose(pi, sigma)
    expected = np.take_along_axis(keys_of(values), order, axis=1)
    assert np.array_equal(shuffled_keys(run(values, script=script)), expected)


def test_wider_share_is_reduced_and_a_narrower_one_refused():
    values = np.random.default_rng(5).integers(-5, 5, (2, 8))
    got = run_step(step((2, 8)), share(values, BITS + 7, seed=1))
    assert np.array_equal(np.sort(shuffled_keys(got), axis=1), np.sort(keys_of(values), axis=1))
    with pytest.raises(BitsMismatch):
        run_step(step((2, 8)), share(values, BITS - 1, seed=1))


def test_a_shuffle_serves_one_batch_of_queries():
    """The same step twice in one batch would draw the same permutations."""
    twice = [step((2, 8)), Shuffle("shuffled", ("y",), "z", (2, 8), BITS, 3)]
    pair = share(np.zeros((2, 8), dtype=np.int64), BITS)
    with pytest.raises(MaskReused):
        harness.run_steps(twice, {"x": pair, "y": pair})


def test_repr_shows_no_secret():
    [first, _] = run(np.zeros((1, 4), dtype=np.int64)).shares
    assert repr(first) == f"Shuffled(bits={BITS + 2}, <secret>)"


def test_server_0_is_dealt_no_correction(monkeypatch):
    honest = Shuffle._run_0

    def run_0(self: Shuffle, session: Session, v: Any) -> Any:
        session.correction((1,), 8)
        return honest(self, session, v)

    monkeypatch.setattr(Shuffle, "_run_0", run_0)
    with pytest.raises(CorrelationsMissing, match="server 0"):
        run(np.zeros((1, 4), dtype=np.int64))


# cost


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 21), (1, 64), (5, 13), (7, 989)])
@pytest.mark.parametrize("bits", [3, 16, BITS])
def test_declared_cost_is_measured_in_both_directions(shape, bits):
    got, declared = run(np.zeros(shape, dtype=np.int64), bits), step(shape, bits).cost
    check_cost(got, declared)
    senders = [(bool(first), bool(second)) for first, second in got.sent]
    assert senders == [(False, True), (True, False), (False, True)]


# what the servers see


KINDS = {
    "zero": np.zeros((ROWS, N), dtype=np.int64),
    "minus one": np.full((ROWS, N), -1),
    "edges": np.resize([(1 << (BITS - 1)) - 1, -(1 << (BITS - 1))], (ROWS, N)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("party", [0, 1])
def test_every_byte_lane_a_server_receives_is_uniform(kind, party):
    got = run(KINDS[kind], seed=6)
    cells = opened_cells(got, party)
    widths = [BITS, BITS + ID_BITS] if party == 0 else [BITS + ID_BITS]
    assert [cell.bits for cell in cells] == widths
    drawn = got.drawn[party].items()
    dealt = [Cell(name, bits, ROWS * N, words) for (_, _, name), (bits, words) in drawn]
    assert party == 0 or sum(cell.label.startswith("correction") for cell in dealt) == 2
    check_uniform([*cells, *dealt])


def test_two_inputs_give_messages_of_one_distribution():
    first, second = run(KINDS["zero"], seed=7), run(KINDS["edges"], seed=8)
    for party in (0, 1):
        check_same_law(opened_cells(first, party), opened_cells(second, party))


@pytest.mark.parametrize("party", [0, 1])
def test_view_of_a_server_is_independent_of_keys_and_order(party):
    values = np.random.default_rng(9).integers(-(1 << (BITS - 1)), 1 << (BITS - 1), (ROWS, N))
    got = run(values, seed=10)
    own = Cell("input share", BITS, ROWS * N, share(values, BITS, seed=10)[party].words)
    # The ids of keys in order of position are in order: not noise, but the values are.
    noise = Cell("values", BITS, ROWS * N, unsigned(values))
    moved = Cell("x''", BITS + ID_BITS, ROWS * N, unsigned(shuffled_keys(got)))
    check_independent([*harness.view_cells(got, party, ROWS * N), own], [noise, moved])


# checkers, and mistakes that they must catch


def alike(first: Any, second: Any) -> Any:
    """Rows whose entries are the same but for their order."""
    return (np.sort(first, axis=1) == np.sort(second, axis=1)).all(axis=1)


def ids(words: Any) -> Any:
    return words & mask(ID_BITS)


def server_0_cannot_follow() -> None:
    """S0 knows the low bits that it sent, before sigma; S1 adds multiples of 2^b and its g."""
    got = run(KINDS["zero"], seed=11)
    messages = [memoryview(message) for message in (got.sent[1][0], got.sent[2][1])]
    sent, heard = (BACKEND.unpack(message, (ROWS, N), BITS + ID_BITS) for message in messages)
    assert not alike(ids(sent), ids(heard)).any(), "S0 recognises its keys after sigma"


def server_1_cannot_follow() -> None:
    """S1 knows a, sigma and the ids: it must not find pi(a) or pi(ids), even with sigma undone."""
    got = run(KINDS["zero"], seed=11)
    own = {name: words for (_, _, name), (_, words) in got.drawn[1].items()}
    [heard] = [opening.values for opening in got.openings[1]]
    # The permutations are those of the same key in another run: draw them again.
    key = NamedTree(roots(11)[1], 1, 1).key("shuffled", "sigma")
    sigma = selection.permutations("aes128ctr", key, ROWS, N)
    moved = np.empty_like(heard)
    np.put_along_axis(moved, sigma, own["correction1"], axis=1)
    assert not alike(own["correction0"], own["a"]).any(), "S1 recognises a in beta"
    counting = np.broadcast_to(np.arange(N, dtype=np.uint64), (ROWS, N))
    assert not alike(ids(heard), counting).any(), "S1 reads pi from the ids"
    assert not alike(ids(heard + moved), counting).any(), "S1 reads pi from the ids, once unmasked"


def messages_are_uniform() -> None:
    """Of zeros, shared as zero and zero: only masks can make noise of them."""
    got = run(KINDS["zero"], seed=12, first=KINDS["zero"].astype(np.uint64))
    for party in (0, 1):
        check_uniform(opened_cells(got, party))


def keys_are_kept() -> None:
    values = np.random.default_rng(13).integers(-9, 9, (4, 64))
    got = shuffled_keys(run(values))
    assert np.array_equal(np.sort(got, axis=1), np.sort(keys_of(values), axis=1))


def rows_have_their_own_order() -> None:
    """Rows of equal values: shuffled ids, compared place by place with the row before."""
    places = shuffled_keys(run(np.zeros((ROWS, 64), dtype=np.int64))) & 63
    # One place in 64 agrees: 63 of 4032 on average; 400 are 40 standard deviations more.
    assert (places[1:] == places[:-1]).sum() < 400, "two queries were shuffled alike"


CHECKERS = [server_0_cannot_follow, server_1_cannot_follow, messages_are_uniform, keys_are_kept]


@pytest.mark.parametrize("checker", [*CHECKERS, rows_have_their_own_order], ids=name_of)
def test_correct_shuffle_passes_every_checker(checker):
    checker()


def ids_added_after_pi(patch: Patch) -> None:
    """Low bits say where a key lies after pi, not where it came from."""

    def run_0(self: Shuffle, session: Session, v: Any) -> Any:
        shape, backend = self.shape, session.backend
        masked = session.receive_words(shape, self.value_bits)
        moved = backend.gather(v + masked, session.permutations("pi", *shape))
        delta = session.words("Delta", shape, self.value_bits)
        first = backend.scale(moved + delta, 1 << self.id_bits, self.bits)
        first = first + backend.counting(shape[1])
        session.send_words(first - session.words("a'", shape, self.bits), self.bits)
        opened = session.receive_words(shape, self.bits)
        return Shuffled(opened, session.words("b'", shape, self.bits), self.bits)

    patch.setattr(Shuffle, "_run_0", run_0)


def without_delta(honest: Any) -> Any:
    return lambda self, name, *a: honest(self, name, *a) * np.uint64(name != "Delta")


MISTAKES: Cases = [
    (draws("shuffle_without_g", "g"), server_0_cannot_follow),
    # S0 then holds both shares of every distance.
    (draws("first_message_without_a", "a"), messages_are_uniform),
    (draws("second_message_without_a_prime", "a'"), server_1_cannot_follow),
    # Without Delta, beta is pi(a): of the right law, but S1 knows a.
    (draws("beta_sent_in_the_clear", "Delta"), server_1_cannot_follow),
    (draws("moved_sent_in_the_clear", "b'"), server_1_cannot_follow),
    (beta_not_corrected(BITS), keys_are_kept),
    (mistakes.replaced("delta_only_at_the_dealer", Session, "words", without_delta), keys_are_kept),
    (ids_added_after_pi, keys_are_kept),
    (mistakes.one_shuffle, rows_have_their_own_order),
]


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake, checker):
    check_caught(mistake, checker)
