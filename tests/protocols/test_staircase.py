"""The staircase: values of a public step function, exact in small rings and at both edges; silent.

Seeds are fixed; for the rate of false alarms see `checkers`.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BitsMismatch, PlanError
from gpumpc.protocols.functions import staircase
from gpumpc.protocols.functions import staircase as module
from gpumpc.ring.backend import lane_bytes, packed_bytes
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import Session
from tests import harness
from tests.harness import BACKEND, Cell, Outcome, every, opened_cells, run_step, share, unsigned
from tests.protocols import checkers, mistakes
from tests.protocols.cases import SIZES, Ints
from tests.protocols.mistakes import Cases, Mistake, check_caught, draws, name_of, replaced, zeroed

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
) -> staircase.Staircase:
    return staircase.Staircase("stairs", ("s",), "g", (n,), bits, high, 7, edges, values)


def by_search(s: Ints, edges: tuple[int, ...] = EDGES, values: tuple[int, ...] = VALUES) -> Ints:
    return np.array(values)[np.searchsorted(edges, s, side="right")]


def lowest(step: staircase.Staircase) -> int:
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
    near = [e + d for e in EDGES for d in (-1, 0)]
    around = [lowest(step), (1 << (bits - 1)) - 1, *near, 0, -1]
    s[: len(around)] = around[:n]
    got = run_step(step, share(s, bits, seed=1))
    assert np.array_equal(got.values, by_search(s)) and np.array_equal(
        harness.plain(step, s), by_search(s)
    )
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


@pytest.mark.parametrize("edges", [(), (0,), (3, 3), (4, 3), (1 << (BITS - 1),)])
def test_thresholds_that_do_not_ascend_in_the_ring_are_refused(edges):
    with pytest.raises(PlanError, match="do not ascend"):
        stairs(3, BITS, edges, tuple(range(len(edges) + 1)) if edges else (1,))


@pytest.mark.parametrize("values", [(0,), (0, 1, 2), (-1, 0), (0, 1 << HIGH)])
def test_values_that_do_not_fit_are_refused(values):
    with pytest.raises(PlanError, match="values that do not fit"):
        stairs(3, BITS, (5,), values)


@pytest.mark.parametrize(("n", "times"), [(1, 1), (3, 5), (64, 3), (65, 7)])
def test_lanes_are_repeated_threshold_by_threshold(n, times):
    bits = np.random.default_rng(3).integers(0, 2, (5, n), dtype=np.uint64)
    lanes: Any = np.concatenate([BACKEND.bit(row, 0)[None] for row in bits])
    got: Any = staircase.repeated_lanes(BACKEND, lanes, n, times)
    assert np.array_equal(
        got, np.concatenate([BACKEND.bit(np.tile(row, times), 0)[None] for row in bits])
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 13])
def test_rows_are_added_without_carry(rows):
    words: Any = np.random.default_rng(4).integers(0, 1 << 63, (rows, 5), dtype=np.uint64)
    found: Any = staircase.xor_rows(BACKEND, words)
    assert np.array_equal(found, np.bitwise_xor.reduce(words, axis=0))


# cost


@pytest.mark.parametrize("n", [1, 63, 64, 65, 989])
@pytest.mark.parametrize("edges", [(5,), EDGES, tuple(range(1, 100))])
def test_declared_cost_is_measured(n, edges):
    step = stairs(n, BITS, edges, tuple(range(len(edges) + 1)))
    got = run_step(step, share(np.zeros(n, dtype=np.int64), BITS))
    checkers.check_cost(got, step.cost)
    tree, every_n = step.comparison.high, n * len(edges)
    choices = lane_bytes(n, step.value_bits)
    sent = packed_bytes(n, BITS) + lane_bytes(every_n, tree.opened_bits) + choices
    dealt = lane_bytes(n, tree.table_bits) + lane_bytes(every_n, tree.product_bits)
    dealt += packed_bytes(n * step.value_bits, HIGH)
    assert got.cost == Cost.both_ways(2 + len(tree.levels), sent, dealt)


def test_each_threshold_costs_only_its_tree():
    """docs/protocols.md section 9a: no table, no word and no opened choice a threshold."""
    one, two = (staircase.plan_stairs(33, times) for times in (900, 901))
    assert isinstance(one, staircase.RepeatedTables) and one.high == two.high
    tree = one.high
    assert (tree.opened_bits, tree.product_bits, tree.table_bits, one.rounds) == (21, 18, 111, 3)
    costs = [stairs(64, 34, tuple(range(1, j + 1)), (0,) * (j + 1)).cost for j in (900, 901)]
    assert costs[1].s0_bytes - costs[0].s0_bytes == 8 * 21
    assert costs[1].dealer_bytes - costs[0].dealer_bytes == 8 * 18


# transcripts


def constant(kind: str, n: int = N) -> Ints:
    values = {"zero": 0, "lowest": lowest(stairs(1)), "highest": 2047, "on an edge": 100}
    return np.full(n, values[kind])


def run_on(s: Ints, seed: int = 6) -> Outcome:
    return run_step(stairs(s.size), share(s, BITS, seed=seed), seed=seed)


@pytest.mark.parametrize("kind", ["zero", "lowest", "highest", "on an edge"])
def test_every_opened_byte_lane_is_uniform(kind):
    checkers.check_opened(run_on(constant(kind)))


def test_two_inputs_give_transcripts_of_one_distribution():
    first, second = run_on(constant("lowest"), seed=7), run_on(constant("highest"), seed=8)
    for party in (0, 1):
        checkers.check_same_law(opened_cells(first, party), opened_cells(second, party))


def pieces(got: Outcome) -> Outcome:
    """Lanes of all thresholds cut into those of one each: one element a row in every cell."""

    def parts(side: dict[Any, tuple[int, Any]]) -> dict[Any, tuple[int, Any]]:
        return {
            name: (bits, v if bits else _cut(v, 64 * v.shape[1]))
            for name, (bits, v) in side.items()
        }

    def opened(side: list[Any]) -> list[Any]:
        return [dataclasses.replace(o, n=N, values=_cut(o.values, o.n)) for o in side]

    (first, second), (one, other) = got.openings, got.drawn
    return dataclasses.replace(
        got, openings=(opened(first), opened(second)), drawn=(parts(one), parts(other))
    )


def _cut(values: Any, n: int) -> Any:
    return values if n == N else values.reshape(-1, N // 64)


def view_of(party: int) -> None:
    rng = np.random.default_rng(9)
    s = rng.integers(lowest(stairs(1)), 1 << (BITS - 1), N)
    pair = share(s, BITS, seed=10)
    got = run_step(stairs(N), pair, seed=11)
    steps = [(s >= edge).astype(np.uint64) for edge in (9, 1024)]
    peer = Cell("the peer's share", BITS, N, pair[1 - party].words)
    secret = [Cell("s", BITS, N, unsigned(s)), peer]
    for bit in steps:
        lane = BACKEND.bit(bit, 0)[None] ^ BACKEND.bit(np.roll(bit, 1), 0)[None]
        secret.append(Cell("a step", 0, N, lane))
    checkers.check_view(pieces(got), party, N, secret)


@pytest.mark.parametrize("party", [0, 1])
def test_view_of_a_server_is_independent_of_the_secret(party):
    view_of(party)


# checkers, and mistakes that they must catch


def values_are_right() -> None:
    s = np.random.default_rng(12).integers(lowest(stairs(1)), 1 << (BITS - 1), 989)
    s[:14] = [e + d for e in EDGES for d in (-1, 0)]
    assert np.array_equal(run_step(stairs(989), share(s, BITS, seed=1)).values, by_search(s))


def openings_are_noise() -> None:
    checkers.check_independent(opened_cells(pieces(run_on(constant("on an edge")))))


view_0, view_1 = (functools.partial(view_of, party) for party in (0, 1))


def masks_of_the_first_threshold(lanes: Any) -> Any:
    each = lanes.reshape(len(lanes), len(EDGES), -1)
    return (zeroed(each) + each[:, :1]).reshape(lanes.shape)


def fourth_edge_one_less(honest: Any) -> Any:
    return lambda self, w, value, bits: honest(self, w, value - (value == -EDGES[3]), bits)


def repeated_by_row(backend: Any, lanes: Any, n: int, times: int) -> Any:
    """Not threshold by threshold."""
    rows = [np.repeat(np.asarray(backend.from_bit(lane, (n,))), times) for lane in lanes]
    return np.concatenate([backend.bit(row, 0)[None] for row in rows])


def without_top(planes: Any) -> Any:
    """The dealer leaves msb(r) in every bit that changes an odd number of times."""
    return planes[:-1], zeroed(planes[-1])


def ones_at_both(session: Session, n: int) -> Any:
    """Both servers take the complement in [s >= theta]: the two ones cancel."""
    return session.backend.constant_lane(1, n)


def in_module(name: str, attribute: str, wrong: Any) -> Mistake:
    return replaced(name, module, attribute, lambda _: wrong)


off_by_one = replaced("threshold_off_by_one", NumpyBackend, "add_constant", fourth_edge_one_less)
MISTAKES: Cases = [
    (draws("t_used_for_two_bits", "t'", mistakes.first_row_for_all), openings_are_noise),
    (draws("t_known_to_server_0", "t'", parties=(1,)), view_0),
    (draws("trees_share_masks", "masks", masks_of_the_first_threshold), openings_are_noise),
    (off_by_one, values_are_right),
    (in_module("top_of_r_forgotten", "split_top", without_top), values_are_right),
    (in_module("tables_of_the_wrong_row", "repeated_lanes", repeated_by_row), values_are_right),
    (in_module("complement_at_both", "ones_at_party_0", ones_at_both), values_are_right),
]


@pytest.mark.parametrize("checker", [values_are_right, openings_are_noise, view_1], ids=name_of)
def test_correct_staircase_passes_every_checker(checker):
    checker()


@pytest.mark.parametrize(("mistake", "checker"), MISTAKES, ids=name_of)
def test_a_planted_bug_is_caught(mistake, checker):
    check_caught(mistake, checker)
