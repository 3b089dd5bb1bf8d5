"""The staircase: values of a public step function, exact over small rings in every sharing, at both
edges of its range and one beyond; silent; at its declared cost; planted bugs. Seeds are fixed; for
the rate of false alarms see `checkers`.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BitsMismatch, PlanError
from gpumpc.protocols import staircase as module
from gpumpc.protocols.staircase import (
    RepeatedTables,
    Staircase,
    plan_stairs,
    repeated_lanes,
    xor_rows,
)
from gpumpc.ring.backend import lane_bytes, packed_bytes
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import Session
from tests.harness import (
    BACKEND,
    Cell,
    Outcome,
    every,
    opened_cells,
    plain,
    run_step,
    share,
    unsigned,
)
from tests.protocols.cases import SIZES, Ints
from tests.protocols.checkers import (
    check_cost,
    check_independent,
    check_opened,
    check_same_law,
    check_view,
)
from tests.protocols.mistakes import (
    Checker,
    Mistake,
    Patch,
    change_draws,
    check_caught,
    first_row_for_all,
    zeroed,
)

N = 1 << 14
BITS, HIGH = 12, 19
EDGES = (3, 4, 9, 100, 1023, 1024, 1500)
# All bits change somewhere; the lowest an even number of times, the highest once.
VALUES = (0, 5000, 5001, 4999, 77, 8000, 8191, 16382)


def stairs(
    n: int,
    bits: int = BITS,
    edges: tuple[int, ...] = EDGES,
    values: tuple[int, ...] = VALUES,
    high: int = HIGH,
) -> Staircase:
    return Staircase("stairs", ("s",), "g", (n,), bits, high, 7, edges, values)


def by_search(s: Ints, edges: tuple[int, ...] = EDGES, values: tuple[int, ...] = VALUES) -> Ints:
    return np.array(values)[np.searchsorted(edges, s, side="right")]


def lowest(step: Staircase) -> int:
    return step.thresholds[-1] - (1 << (step.bits - 1))


# exactness


@pytest.mark.parametrize(
    ("edges", "values"),
    [((1,), (0, 1)), ((31,), (1, 0)), ((1, 2, 3), (3, 1, 2, 0)), (range(1, 32), range(32))],
)
def test_every_value_is_right_in_every_small_sharing(edges, values):
    edges, values = tuple(edges), tuple(values)
    s, first = every(np.arange(-32, 32), np.arange(64))
    step = stairs(s.size, 6, edges, values, 6)
    got = run_step(step, share(s, 6, first=unsigned(first)))
    right = got.words.astype(np.int64) == by_search(s, edges, values)
    inside = s >= lowest(step)
    assert right[inside].all()
    # One below the range, s - theta wraps, and a value far up is taken.
    if lowest(step) > -32 and values[-1] != values[0]:
        assert not right[s == lowest(step) - 1].any()


def test_every_value_is_right_under_every_small_mask():
    s, r = every(np.arange(16), np.arange(32))
    step = stairs(s.size, 5, (1, 2, 7, 11), (1, 6, 0, 5, 7), 8)
    names = [(0, "stairs", "r"), (1, "stairs", "r")]
    got = run_step(step, share(s, 5), script={names[0]: unsigned(r), names[1]: unsigned(0 * r)})
    assert np.array_equal(got.values, by_search(s, (1, 2, 7, 11), (1, 6, 0, 5, 7)))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [BITS, 34, 62])
def test_random_values_and_both_edges_are_right(n, bits):
    step, rng = stairs(n, bits), np.random.default_rng(n)
    s = rng.integers(lowest(step), 1 << (bits - 1), n)
    around = np.array(
        [lowest(step), (1 << (bits - 1)) - 1, *(e + d for e in EDGES for d in (-1, 0)), 0, -1]
    )
    s[: around.size] = around[:n]
    got = run_step(step, share(s, bits, seed=1))
    assert np.array_equal(got.values, by_search(s)) and np.array_equal(plain(step, s), by_search(s))
    assert (got.shares[0].bits, got.shares[0].frac) == (HIGH, 7)


def test_hundreds_of_thresholds_are_right():
    rng = np.random.default_rng(2)
    edges = tuple(np.unique(rng.integers(1, 1 << 33, 500)).tolist())
    values = tuple(rng.integers(0, 1 << 29, 501).tolist())
    s = np.concatenate((np.array(edges), np.array(edges) - 1, [0]))
    got = run_step(stairs(s.size, 34, edges, values, 30), share(s, 34, seed=1))
    assert np.array_equal(got.values, by_search(s, edges, values))


def test_wider_share_is_reduced_and_a_narrower_one_refused():
    s = np.array([0, 3, 1500])
    assert np.array_equal(run_step(stairs(3), share(s, BITS + 9)).values, by_search(s))
    with pytest.raises(BitsMismatch):
        run_step(stairs(3), share(s, BITS - 1))


@pytest.mark.parametrize(
    ("edges", "values"),
    [
        ((), (1,)),
        ((0,), (0, 1)),
        ((3, 3), (0, 1, 2)),
        ((4, 3), (0, 1, 2)),
        ((1 << (BITS - 1),), (0, 1)),
    ],
)
def test_thresholds_that_do_not_ascend_in_the_ring_are_refused(edges, values):
    with pytest.raises(PlanError, match="do not ascend"):
        stairs(3, BITS, edges, values)


@pytest.mark.parametrize("values", [(0,), (0, 1, 2), (-1, 0), (0, 1 << HIGH)])
def test_values_that_do_not_fit_are_refused(values):
    with pytest.raises(PlanError, match="values that do not fit"):
        stairs(3, BITS, (5,), values)


@pytest.mark.parametrize(("n", "times"), [(1, 1), (3, 5), (64, 3), (65, 7)])
def test_lanes_are_repeated_threshold_by_threshold(n, times):
    bits = np.random.default_rng(3).integers(0, 2, (5, n), dtype=np.uint64)
    lanes: Any = np.concatenate([BACKEND.bit(row, 0)[None] for row in bits])
    got: Any = repeated_lanes(BACKEND, lanes, n, times)
    assert np.array_equal(
        got, np.concatenate([BACKEND.bit(np.tile(row, times), 0)[None] for row in bits])
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 13])
def test_rows_are_added_without_carry(rows):
    words: Any = np.random.default_rng(4).integers(0, 1 << 63, (rows, 5), dtype=np.uint64)
    found: Any = xor_rows(BACKEND, words)
    assert np.array_equal(found, np.bitwise_xor.reduce(words, axis=0))


# cost


@pytest.mark.parametrize("n", [1, 63, 64, 65, 989])
@pytest.mark.parametrize("edges", [(5,), EDGES, tuple(range(1, 100))])
def test_declared_cost_is_measured(n, edges):
    step = stairs(n, BITS, edges, tuple(range(len(edges) + 1)))
    got = run_step(step, share(np.zeros(n, dtype=np.int64), BITS))
    check_cost(got, step.cost)
    tree, every_n = step.comparison.high, n * len(edges)
    sent = (
        packed_bytes(n, BITS)
        + lane_bytes(every_n, tree.opened_bits)
        + lane_bytes(n, step.value_bits)
    )
    dealt = lane_bytes(n, tree.table_bits) + lane_bytes(every_n, tree.product_bits)
    assert got.cost == Cost.both_ways(
        2 + len(tree.levels), sent, dealt + packed_bytes(n * step.value_bits, HIGH)
    )


def test_each_threshold_costs_only_its_tree():
    """The figures of docs/protocols.md section 9a: no table, no word and no opened choice a
    threshold.
    """
    one, two = (plan_stairs(33, times) for times in (900, 901))
    assert isinstance(one, RepeatedTables) and one.high == two.high
    assert (one.high.opened_bits, one.high.product_bits, one.high.table_bits, one.rounds) == (
        21,
        18,
        111,
        3,
    )
    costs = [stairs(64, 34, tuple(range(1, j + 1)), (0,) * (j + 1)).cost for j in (900, 901)]
    assert (
        costs[1].s0_bytes - costs[0].s0_bytes == 8 * 21
        and costs[1].dealer_bytes - costs[0].dealer_bytes == 8 * 18
    )


# transcripts


def constant(kind: str, n: int = N) -> Ints:
    return np.full(
        n, {"zero": 0, "lowest": lowest(stairs(1)), "highest": 2047, "on an edge": 100}[kind]
    )


def run_on(s: Ints, seed: int = 6) -> Outcome:
    return run_step(stairs(s.size), share(s, BITS, seed=seed), seed=seed)


@pytest.mark.parametrize("kind", ["zero", "lowest", "highest", "on an edge"])
def test_every_opened_byte_lane_is_uniform(kind):
    check_opened(run_on(constant(kind)))


def test_two_inputs_give_transcripts_of_one_distribution():
    first, second = run_on(constant("lowest"), seed=7), run_on(constant("highest"), seed=8)
    for party in (0, 1):
        check_same_law(opened_cells(first, party), opened_cells(second, party))


def pieces(got: Outcome) -> Outcome:
    """Lanes of all thresholds cut into those of one each, so that every cell has one element a
    row.
    """

    def parts(side: dict[Any, tuple[int, Any]]) -> dict[Any, tuple[int, Any]]:
        return {
            name: (bits, v if bits else _cut(v, 64 * v.shape[1]))
            for name, (bits, v) in side.items()
        }

    openings = [[_cut(o.values, o.n) for o in side] for side in got.openings]
    cut = tuple(
        [
            dataclasses.replace(o, n=N, values=values)
            for o, values in zip(side, pieces_of, strict=True)
        ]
        for side, pieces_of in zip(got.openings, openings, strict=True)
    )
    return dataclasses.replace(
        got, openings=(cut[0], cut[1]), drawn=(parts(got.drawn[0]), parts(got.drawn[1]))
    )


def _cut(values: Any, n: int) -> Any:
    return values if n == N else values.reshape(-1, N // 64)


def view_of(party: int) -> None:
    rng = np.random.default_rng(9)
    s = rng.integers(lowest(stairs(1)), 1 << (BITS - 1), N)
    pair = share(s, BITS, seed=10)
    got = run_step(stairs(N), pair, seed=11)
    steps = [(s >= edge).astype(np.uint64) for edge in (9, 1024)]
    secret = [
        Cell("s", BITS, N, unsigned(s)),
        Cell("the peer's share", BITS, N, pair[1 - party].words),
    ]
    secret += [
        Cell("a step", 0, N, BACKEND.bit(bit, 0)[None] ^ BACKEND.bit(np.roll(bit, 1), 0)[None])
        for bit in steps
    ]
    check_view(pieces(got), party, N, secret)


@pytest.mark.parametrize("party", [0, 1])
def test_view_of_a_server_is_independent_of_the_secret(party):
    view_of(party)


# checkers, and mistakes that they must catch


def values_are_right() -> None:
    s = np.random.default_rng(12).integers(lowest(stairs(1)), 1 << (BITS - 1), 989)
    s[:14] = [e + d for e in EDGES for d in (-1, 0)]
    assert np.array_equal(run_step(stairs(989), share(s, BITS, seed=1)).values, by_search(s))


def openings_are_noise() -> None:
    got = pieces(run_on(constant("on an edge")))
    check_independent(opened_cells(got))


def view_of_server_0() -> None:
    view_of(0)


def view_of_server_1() -> None:
    view_of(1)


def t_used_for_two_bits(patch: Patch) -> None:
    change_draws(patch, "t'", first_row_for_all)


def t_known_to_server_0(patch: Patch) -> None:
    change_draws(patch, "t'", zeroed, parties=(1,))


def trees_of_two_thresholds_share_masks(patch: Patch) -> None:
    """The masks of the first threshold serve all."""

    def first_threshold(lanes: Any) -> Any:
        each = lanes.reshape(len(lanes), len(EDGES), -1)
        return (each * np.uint64(0) + each[:, :1]).reshape(lanes.shape)

    change_draws(patch, "masks", first_threshold)


def threshold_off_by_one(patch: Patch) -> None:
    honest = NumpyBackend.add_constant
    patch.setattr(
        NumpyBackend,
        "add_constant",
        lambda self, w, value, bits: honest(self, w, value - (value == -EDGES[3]), bits),
    )


def top_of_r_forgotten(patch: Patch) -> None:
    """The dealer leaves msb(r) in every bit that changes an odd number of times."""
    patch.setattr(module, "split_top", lambda planes: (planes[:-1], planes[-1] * np.uint64(0)))


def tables_of_the_wrong_row(patch: Patch) -> None:
    """Repeated row by row, not threshold by threshold."""

    def repeated(backend: Any, lanes: Any, n: int, times: int) -> Any:
        rows = [np.repeat(np.asarray(backend.from_bit(lane, (n,))), times) for lane in lanes]
        return np.concatenate([backend.bit(row, 0)[None] for row in rows])

    patch.setattr(module, "repeated_lanes", repeated)


def complement_at_both(patch: Patch) -> None:
    """Both servers take the complement in [s >= theta]: the two ones cancel."""

    def at_both(session: Session, n: int) -> Any:
        return session.backend.constant_lane(1, n)

    patch.setattr(module, "ones_at_party_0", at_both)


MISTAKES: list[tuple[Mistake, Checker]] = [
    (t_used_for_two_bits, openings_are_noise),
    (t_known_to_server_0, view_of_server_0),
    (trees_of_two_thresholds_share_masks, openings_are_noise),
    (threshold_off_by_one, values_are_right),
    (top_of_r_forgotten, values_are_right),
    (tables_of_the_wrong_row, values_are_right),
    (complement_at_both, values_are_right),
]


@pytest.mark.parametrize(
    "checker", [values_are_right, openings_are_noise, view_of_server_1], ids=lambda f: f.__name__
)
def test_correct_staircase_passes_every_checker(checker: Checker) -> None:
    checker()


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=lambda f: f.__name__)
def test_a_planted_bug_is_caught(mistake: Mistake, checker: Checker) -> None:
    check_caught(mistake, checker)
