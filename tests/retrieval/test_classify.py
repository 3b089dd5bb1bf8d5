"""A k-nearest-neighbour vote over an index whose rows carry secret labels: the label equals that of
integer arithmetic.

The oracle ranks the quantised (or normalised) vectors with Python's integers, ties by the lowest
position, and votes in the clear. Rows and label shares lie in real stores, batch by batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from gpumpc.errors import BadShape, BitsMismatch, CorruptStore, PlanError
from gpumpc.protocols.ranking.vote import LabelledKeys
from gpumpc.retrieval import index_store as index
from gpumpc.retrieval.evaluation.metrics import majority_vote
from gpumpc.retrieval.index_store import IndexRecord, decode_index, encode_index, row_bytes
from gpumpc.retrieval.programs import LABELS, ROWS, Geometry, label_bits, query_program
from gpumpc.ring.backend import packed_bytes
from gpumpc.session import Session, StaticWeight
from gpumpc.shares import Additive
from tests.harness import BACKEND, Pair, Static, opened_cells, run_program, unsigned
from tests.protocols.checkers import check_uniform
from tests.protocols.mistakes import Cases, Mistake, check_caught, name_of, replaced
from tests.retrieval import indexes
from tests.retrieval.indexes import BATCH, PARAMS, SEED, Ints, best, feature_shares, label_shares

GEOMETRY = Geometry(8, "l2", 21, 13)


def voted(scores: Any, labels: Ints, k: int) -> Ints:
    """The clear computation: rank, ties to the lowest position, vote."""
    nearest = [[labels[i] for _, i in row] for row in best(scores, k)]
    return np.asarray(majority_vote(np.array(nearest)))


def small(n: int, geometry: Geometry, seed: int, top: int = 3) -> Ints:
    """Few different vectors, so that ties abound; multiples of 2^shift, so that none is rounded."""
    return np.random.default_rng(seed).integers(-top, top + 1, (n, geometry.dim)) << geometry.shift


# without a store, many queries


def static_of(rows: Ints, geometry: Geometry) -> Static:
    """Rows shared outright: what `LoadedIndex` makes of a store's."""
    w = BACKEND.scale(unsigned(rows.T), geometry.weight_factor, geometry.score_bits)
    norms = unsigned((rows**2).sum(axis=1) * (geometry.metric == "l2"))
    mask = np.random.default_rng(1).integers(
        0, 1 << geometry.score_bits, (2, *w.shape), dtype=np.uint64
    )
    opened = BACKEND.reduce(w - mask[0] - mask[1], geometry.score_bits)
    first = StaticWeight(
        BACKEND.reduce(opened + mask[0], geometry.score_bits), opened, norms - np.uint64(77)
    )
    second = StaticWeight(mask[1], opened, norms * np.uint64(0) + np.uint64(77))
    return ({ROWS: first}, {ROWS: second}), {
        ROWS: BACKEND.reduce(mask[0] + mask[1], geometry.score_bits)
    }


def halves(labels: Ints, seed: int = 3) -> Pair:
    first, second = label_shares(labels, seed)
    return Additive(first, 64), Additive(second, 64)


def count_wrong(
    rows: Ints,
    queries: Ints,
    labels: Ints,
    k: int,
    n_labels: int,
    geometry: Geometry = GEOMETRY,
    seed: int = 3,
) -> int:
    program = query_program(geometry, len(queries), len(rows), k, PARAMS, n_labels)
    pair = feature_shares(queries, geometry, seed=2)
    exact = indexes.quantised(pair, geometry)
    got = indexes.run_until_lucky(
        program, [pair, halves(labels, seed)], static_of(rows, geometry), 1
    )
    assert got.shares[0].bits == label_bits(n_labels)
    expected = voted(indexes.scores_of(exact, rows, geometry.metric), labels, k)
    return int((got.words.astype(np.int64) != expected).sum())


KINDS: dict[str, Callable[[np.random.Generator, int], Ints]] = {
    "random": lambda rng, n: rng.integers(-100, 101, (n, GEOMETRY.dim)),
    "duplicates": lambda rng, n: rng.integers(-2, 3, (7, GEOMETRY.dim))[rng.integers(0, 7, n)],
    "all equal": lambda rng, n: np.full((n, GEOMETRY.dim), 5),
    "two clusters": lambda rng, n: (
        rng.choice([-50, 50], (n, 1)) + rng.integers(-1, 2, (n, GEOMETRY.dim))
    ),
}


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "n_labels"), [(1, 2), (5, 6), (10, 40)])
def test_labels_match_the_plaintext_vote(kind, k, n_labels, metric):
    rng = np.random.default_rng(len(kind) + k)
    rows = KINDS[kind](rng, 150)
    queries = np.concatenate((rows[:50], rng.integers(-60, 61, (50, GEOMETRY.dim))))
    queries <<= GEOMETRY.shift
    labels = rng.integers(0, n_labels, 150)
    geometry = dataclasses.replace(GEOMETRY, metric=metric)
    assert count_wrong(rows, queries, labels, k, n_labels, geometry) == 0


@pytest.mark.parametrize(("n_rows", "k"), [(1, 1), (2, 2), (5, 5), (989, 5)])
def test_one_row_and_all_rows_vote(n_rows, k):
    rng = np.random.default_rng(n_rows)
    labels = rng.integers(0, 3, n_rows)
    assert count_wrong(rng.integers(-2, 3, (n_rows, 8)), small(19, GEOMETRY, 4), labels, k, 3) == 0


# from stores


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_rows_of_two_sessions_vote_with_their_labels(make, metric):
    geometry = dataclasses.replace(GEOMETRY, metric=metric)
    one = make(geometry, n_labels=5)
    labels = np.random.default_rng(5).integers(0, 5, BATCH + 20)
    one.add(small(BATCH, geometry, 6), b"the first sessio", labels=labels[:BATCH])
    one.add(small(20, geometry, 7), b"the second sessi", batch_index=3, labels=labels[BATCH:])
    got, scores = one.classify(small(16, geometry, 8), 5)
    assert np.array_equal(got.words.astype(np.int64), voted(scores, labels, 5))
    # A labelled index is searched for positions all the same.
    found, scores = one.search(small(2, geometry, 9), 3)
    assert found == best(scores, 3)


def test_removed_rows_take_their_labels_along(make):
    one = make(GEOMETRY, n_labels=4)
    one.add(small(10, GEOMETRY, 10), b"the first sessio", labels=np.arange(10) % 4)
    one.remove(["row0000", "row0005"])
    got, scores = one.classify(small(9, GEOMETRY, 11), 3)
    left = np.array([one.labels[name] for name in sorted(one.rows)])
    assert len(left) == 8 and np.array_equal(got.words.astype(np.int64), voted(scores, left, 3))


def test_stored_label_shares_add_up_to_the_labels(make):
    one = make(GEOMETRY, n_labels=4)
    labels = np.arange(7) % 4
    one.add(small(7, GEOMETRY, 12), b"the first sessio", labels=labels)
    first: Any
    second: Any
    first, second = (loaded.labels for loaded in one.load())
    assert first.bits == second.bits == 64
    assert np.array_equal(first.words + second.words, unsigned(labels))
    # Neither half is the label.
    assert (first.words >> np.uint64(32)).any() and (second.words >> np.uint64(32)).any()
    assert row_bytes(GEOMETRY, 4) == row_bytes(GEOMETRY) + 8


def test_rows_and_record_must_agree_on_labels(make):
    one = make(GEOMETRY, n_labels=4)
    one.add(small(3, GEOMETRY, 13), b"the first sessio", labels=np.arange(3))
    one.record = msgspec.structs.replace(one.record, n_labels=0)
    with pytest.raises(CorruptStore, match="make the index again"):
        one.load()
    rows = one.add(small(3, GEOMETRY, 14), b"other session id").shares[0]
    with pytest.raises(BadShape, match="each row has one label"):
        index.pack_rows(BACKEND, GEOMETRY, rows, 3, np.zeros(2, dtype=np.uint64))


def test_record_without_labels_reads_as_before():
    old = '{"name":"gallery","plan":"p","dim":3,"metric":"l2","owner":"o"}'
    record = IndexRecord("gallery", "p", 3, "l2", "o")
    assert encode_index(record) == old and decode_index(old) == record and record.n_labels == 0
    for wrong in (-1, (1 << 16) + 1):
        with pytest.raises(CorruptStore):
            decode_index(old[:-1] + f',"n_labels":{wrong}}}')
    labelled = msgspec.structs.replace(record, n_labels=6)
    assert decode_index(encode_index(labelled)) == labelled != record


def test_index_without_labels_loads_none(make):
    one = make(GEOMETRY)
    one.add(small(3, GEOMETRY, 15), b"the first sessio")
    assert [loaded.labels for loaded in one.load()] == [None, None]
    assert index.WORD_BYTES == 8


# the program


@pytest.mark.parametrize(
    ("n_labels", "bits"), [(0, 0), (1, 1), (2, 1), (3, 2), (6, 3), (64, 6), (65, 7), (1 << 16, 16)]
)
def test_label_bits_hold_every_label(n_labels, bits):
    assert label_bits(n_labels) == bits


def test_keys_that_do_not_fit_are_refused():
    """62 bits hold score, position and label together, not one more."""
    wide = Geometry(1 << 20, "l2", 21, 13)
    id_bits = 62 - wide.score_bits - 4
    query_program(wide, 1, 1 << id_bits, 1, PARAMS, 16)
    with pytest.raises(
        PlanError, match=f"{wide.score_bits} score bits, {id_bits} position bits and 5 label bits"
    ):
        query_program(wide, 1, 1 << id_bits, 1, PARAMS, 17)
    with pytest.raises(PlanError, match="is positive"):
        query_program(GEOMETRY, 1, 5, 1, PARAMS, -1)
    with pytest.raises(PlanError, match="cannot vote"):
        query_program(GEOMETRY, 1, 5, 1, PARAMS, (1 << 16) + 1)


def test_vote_program_returns_only_the_label():
    program = query_program(GEOMETRY, 3, 50, 5, PARAMS, 6)
    assert (program.output, program.result.shape, program.result.bits) == ("vote", (3,), 3)
    assert list(program.inputs) == ["q", LABELS] and program.inputs[LABELS].bits == 64
    without = query_program(GEOMETRY, 3, 50, 5, PARAMS)
    of_nine = query_program(GEOMETRY, 3, 50, 5, PARAMS, 9)
    assert len({program.digest, without.digest, of_nine.digest}) == 3
    assert (without.output, without.result.shape) == ("best", (3, 5))
    assert list(without.inputs) == ["q"]


def test_labels_cost_their_bits_and_the_vote():
    """At 1000 rows: three label bits a key, ten position bits masked too, and 8 rounds of vote."""
    plain, labelled = (query_program(GEOMETRY, 8, 1000, 5, PARAMS, n) for n in (0, 6))
    assert labelled.steps[-1].cost.rounds == 8 and labelled.steps[-1].cost.online_bytes == 232
    shuffles = [
        next(step.cost for step in program.steps if step.name == "shuffled")
        for program in (plain, labelled)
    ]
    score, key = GEOMETRY.score_bits, GEOMETRY.score_bits + 10 + 3
    assert shuffles[0].s1_bytes == packed_bytes(8000, score) + packed_bytes(8000, key - 3)
    assert shuffles[1].s1_bytes == 2 * packed_bytes(8000, key) == 2 * shuffles[1].s0_bytes
    assert labelled.cost.online_bytes < 1.3 * plain.cost.online_bytes


@pytest.mark.parametrize("label", [0, 5])
def test_openings_are_uniform_for_any_labels(label):
    rows = np.full((1024, 8), 3)
    queries = np.full((32, 8), 3) << GEOMETRY.shift
    program = query_program(GEOMETRY, 32, 1024, 5, PARAMS, 6)
    pair = feature_shares(queries, GEOMETRY, seed=2)
    inputs = [pair, halves(np.full(1024, label))]
    got = run_program(program, inputs, seed=SEED, batch_index=1, static=static_of(rows, GEOMETRY))
    assert (got.words == label).all()
    for party in (0, 1):
        # Comparison outcomes of shuffled keys are opened as such: a random order's, no noise.
        wide = [cell for cell in opened_cells(got, party) if cell.n >= 1 << 14]
        wide = [cell for cell in wide if cell.bits or "best" not in cell.label]
        assert wide
        check_uniform(wide)


# planted


def labels_are_right() -> None:
    rng = np.random.default_rng(16)
    rows, labels = rng.integers(-2, 3, (150, 8)), rng.integers(0, 6, 150)
    assert count_wrong(rows, rows[:60] << GEOMETRY.shift, labels, 5, 6) == 0


def equal_rows_vote_by_position() -> None:
    """All rows alike, and one votes: the first, whatever the labels are."""
    for number in range(40):
        labels = np.random.default_rng(number).integers(0, 6, 8)
        query = small(1, GEOMETRY, 19)
        assert count_wrong(np.full((8, 8), 2), query, labels, 1, 6, seed=number) == 0


def label_above_position(_: object) -> Any:
    """score, label, position: ties no longer go to the lowest position."""

    def run(self: LabelledKeys, session: Session, v: Any, labels: Any) -> Any:
        words = v.words << np.uint64(self.id_bits + self.label_bits)
        words = words + (labels.words << np.uint64(self.id_bits))[None]
        # The vote still finds the label below, so only the order changes.
        if session.party == 0:
            words += np.arange(self.shape[1], dtype=np.uint64) << np.uint64(self.label_bits)
        return Additive(BACKEND.reduce(words + labels.words[None], self.bits), self.bits)

    return run


def with_labels(name: str, change: Callable[[LabelledKeys, Any], Any]) -> Mistake:
    """Keys of changed label shares."""

    def plant(honest: Any) -> Any:
        return lambda self, session, v, labels: honest(
            self, session, v, labels.with_words(change(self, labels.words))
        )

    return replaced(name, LabelledKeys, "run", plant)


above = replaced("label_above_position", LabelledKeys, "run", label_above_position)
other_rows = with_labels("labels_of_other_rows", lambda step, words: np.roll(words, 1))
# Modulo 2^label_bits at each server: their sum carries into the position.
cut_too_early = with_labels(
    "label_shares_cut_too_early", lambda step, words: BACKEND.reduce(words, step.label_bits)
)
MISTAKES: Cases = [
    (above, equal_rows_vote_by_position),
    (other_rows, labels_are_right),
    (cut_too_early, equal_rows_vote_by_position),
]


@pytest.mark.parametrize("checker", [labels_are_right, equal_rows_vote_by_position], ids=name_of)
def test_correct_vote_passes_every_checker(checker):
    checker()


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake, checker):
    check_caught(mistake, checker)


def test_label_shares_narrower_than_a_key_are_refused() -> None:
    first, second = halves(np.zeros(20, dtype=np.int64))
    narrow = dataclasses.replace(first, bits=3), dataclasses.replace(second, bits=3)
    program = query_program(GEOMETRY, 1, 20, 1, PARAMS, 6)
    pair = feature_shares(small(1, GEOMETRY, 17), GEOMETRY, seed=1)
    static = static_of(small(20, GEOMETRY, 18), GEOMETRY)
    with pytest.raises(BitsMismatch):
        run_program(program, [pair, narrow], static=static)
