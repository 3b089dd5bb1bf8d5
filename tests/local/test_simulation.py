"""Dealer and both servers in one process: arithmetic on handles, the one door, and errors that end
in an error.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

import gpumpc
from gpumpc.engine.dealer_engine import DealerEngine
from gpumpc.errors import (
    BadShape,
    BadValue,
    BatchAlreadyUsed,
    CorrelationsMissing,
    CostMismatch,
    ForeignShare,
    FracMismatch,
    GpumpcError,
    LeftoverCorrelations,
    OutOfRange,
    PlanError,
    RangeTooWide,
    RevealError,
    SelectionFailed,
)
from gpumpc.local.compile import Plan
from gpumpc.local.shared_tensor import SharedTensor
from gpumpc.local.simulation import LocalSession
from gpumpc.nn.graph import Argmax, Conv2d, Flatten, Graph, Input, Linear, ReLU
from gpumpc.offline.deal_batch import Send
from gpumpc.offline.memory_pool import MemoryCorrections
from gpumpc.params import Params
from gpumpc.program.program import Program
from gpumpc.shares import Additive, reconstruct
from tests.plans import MODES, evaluate, secure

PARAMS = Params(ring_bits=40, frac_bits=10)
ULP = 2.0**-PARAMS.frac_bits
SOON_S = 5.0

LAYERS = (
    Input("x", (), (4, 4, 1), -1.0, 1.0),
    Conv2d("conv", ("x",), (3, 3), 2, padding=(1, 1, 1, 1)),
    ReLU("relu", ("conv",)),
    Flatten("flat", ("relu",)),
    Linear("fc", ("flat",), 3),
)


def compiled_plan(*more: Any, params: Params = PARAMS) -> Plan:
    graph = Graph((*LAYERS, *more))
    rng = np.random.default_rng(3)
    weights = {name: 0.3 * rng.normal(size=shape) for name, shape in graph.weight_shapes().items()}
    return gpumpc.compile((graph, weights), name="tiny", params=params)


@pytest.fixture(scope="module")
def compiled() -> Plan:
    return compiled_plan()


@pytest.fixture(scope="module")
def session(compiled: Plan) -> Iterator[LocalSession]:
    with compiled.simulate(batch_size=2) as session:
        yield session


def numbers(*shape: int, seed: int = 1) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def law(compiled: Plan) -> npt.NDArray[np.float64]:
    weights = np.abs(compiled.weights["fc.weight"]).astype(np.float64)
    return np.asarray((1 + weights.sum(axis=0)) * ULP, dtype=np.float64)


# arithmetic on handles


def test_add_and_subtract_are_exact(session: LocalSession) -> None:
    x, y = np.round(numbers(3, 5) / ULP) * ULP, np.round(numbers(3, 5, seed=2) / ULP) * ULP
    a, b = session.share_array(x), session.share_array(y)
    assert np.array_equal((a + b).reveal(), x + y) and np.array_equal((a - b).reveal(), x - y)
    assert np.array_equal((a - a).reveal(), np.zeros((3, 5)))


def test_products(session: LocalSession) -> None:
    x, y = numbers(4, 6), numbers(6, 5, seed=2)
    a, b, c = session.share_array(x), session.share_array(y), session.share_array(x[::-1])
    product = a @ b
    assert (product.shape, product.frac, product.bits) == (
        (4, 5),
        PARAMS.frac_bits,
        PARAMS.ring_bits,
    )
    # Rounding of the operands, |x|, |y| <= 1, and 1 ulp of the truncation.
    assert np.abs(product.reveal() - x @ y).max() <= (1 + 6 * 1.01) * ULP
    assert np.abs((a * c).reveal() - x * x[::-1]).max() <= 2.1 * ULP
    assert np.abs(((a @ b) + (a @ b)).reveal() - 2 * (x @ y)).max() <= 2 * (1 + 6 * 1.01) * ULP


def test_a_product_that_is_not_defined(session: LocalSession) -> None:
    a, b = session.share_array(numbers(2, 3)), session.share_array(numbers(2, 3))
    with pytest.raises(BadShape, match="'@' wants"):
        a @ b
    with pytest.raises(BadShape, match="'\\*' wants equal shapes"):
        a * session.share_array(numbers(3))
    wide = session.share_array(numbers(2, 3), bits=20)
    with pytest.raises(FracMismatch, match="does not fit 20 bits"):
        wide * wide


def test_scales_do_not_mix(session: LocalSession) -> None:
    a, b = session.share_array(numbers(2)), session.share_array(numbers(2), frac=3)
    with pytest.raises(FracMismatch):
        a + b


@pytest.mark.parametrize("other", [1.0, 3, np.ones(2), None, "x"])
def test_only_handles_combine(session: LocalSession, other: Any) -> None:
    a = session.share_array(numbers(2))
    for work in (lambda: a + other, lambda: a - other, lambda: a * other, lambda: a @ other):
        with pytest.raises(TypeError, match="share the other operand first"):
            work()
    for reflected in (lambda: other + a, lambda: other * a, lambda: other @ a):
        with pytest.raises(TypeError):
            reflected()


# the one door

ACCIDENTS: list[Callable[[Any], Any]] = [
    np.asarray, np.array, float, int, bool, len, list, np.sum, np.exp,
    lambda x: x[0], lambda x: [*x], lambda x: not x, lambda x: 1 if x else 0, lambda x: f"{x:.3f}",
    lambda x: np.float64(1) + x, lambda x: np.ones(2) == x, lambda x: x < 1,
    lambda x: x == x, lambda x: x != 0, lambda x: abs(x), lambda x: np.add(x, 1),
]  # fmt: skip


@pytest.mark.parametrize("accident", ACCIDENTS, ids=range(len(ACCIDENTS)))
def test_nothing_reveals_by_accident(session: LocalSession, accident: Callable[[Any], Any]) -> None:
    x = session.share_array(np.array([0.125, 0.75]))
    with pytest.raises(TypeError):
        accident(x)


def test_no_text_shows_a_value(session: LocalSession) -> None:
    x = session.share_array(np.array([123.625, -7.5]))
    for text in (repr(x), str(x), f"{x}", f"{x!r}", "%s" % x, repr([x])):  # noqa: UP031  one more way to print
        assert (
            "123.6" not in text and "7.5" not in text and "shape=(2,)" in text and "owner" in text
        )
    assert np.array_equal(x.reveal(), [123.625, -7.5])


def test_another_session_has_no_shares_of_it(session: LocalSession, compiled: Plan) -> None:
    with compiled.simulate(batch_size=1) as other:
        foreign = other.share(numbers(1, 4, 4, 1))
        for work in (
            session.run,
            session.reveal,
            lambda x: session.share_array(numbers(1, 4, 4, 1)) + x,
        ):
            with pytest.raises(ForeignShare, match="share the value in this session"):
                work(foreign)


def test_shares_are_forgotten_with_their_handle(session: LocalSession) -> None:
    gc.collect()
    before = [len(store) for store in session._stores]
    handles = [session.share_array(numbers(2)) for _ in range(5)]
    assert [len(store) for store in session._stores] == [n + 5 for n in before]
    del handles
    gc.collect()
    assert [len(store) for store in session._stores] == before


def test_shares_of_two_results_do_not_add_up(session: LocalSession) -> None:
    words = session.backend.zeros((2,))
    one = Additive(words, 8, 0)
    with pytest.raises(RevealError, match="do not belong together"):
        reconstruct(session.backend, one, Additive(words, 9, 0))


# a network


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_any_number_of_items_runs(session: LocalSession, compiled: Plan, n: int) -> None:
    x = numbers(n, 4, 4, 1)
    result = session.run(session.share(x))
    assert isinstance(result, SharedTensor) and result.shape == (n, 3)
    assert (
        np.abs(result.reveal() - compiled.evaluate(x, fixed_point=True)) <= law(compiled) + 1e-12
    ).all()


def test_a_result_goes_on(session: LocalSession, compiled: Plan) -> None:
    x = numbers(2, 4, 4, 1)
    result = session.run(session.share(x))
    assert np.abs((result - result).reveal()).max() == 0
    with pytest.raises(BadShape, match="the plan takes"):
        session.run(result)


def test_argmax_reveals_an_index() -> None:
    compiled = compiled_plan(Argmax("top", ("fc",)))
    x = numbers(5, 4, 4, 1)
    logits = compiled_plan().evaluate(x)
    sorted_logits = np.sort(logits, axis=1)
    assert (sorted_logits[:, -1] - sorted_logits[:, -2]).min() > 20 * ULP  # no tie within the error
    assert np.array_equal(secure(compiled, x, 2), logits.argmax(axis=1))
    assert np.array_equal(compiled.evaluate(x, fixed_point=True), logits.argmax(axis=1))
    assert compiled.evaluate(x).shape == (5,)


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        Params(ring_bits=40, frac_bits=10, cipher="chacha20"),
        Params(ring_bits=40, frac_bits=10, weights="public"),
    ],
)
def test_one_object_three_modes(params: Params, tmp_path: Path) -> None:
    compiled = compiled_plan(params=params)
    x = numbers(3, 4, 4, 1)
    real, fixed, on_shares = (evaluate(compiled, x, mode) for mode in MODES)
    assert np.abs(fixed - real).max() < 64 * ULP
    assert (np.abs(on_shares - fixed) <= law(compiled) + 1e-12).all()
    compiled.save(tmp_path)
    again = Plan.load(tmp_path)
    assert np.array_equal(again.evaluate(x, fixed_point=True), fixed) and repr(again).startswith(
        "Plan('tiny'"
    )


def test_what_a_plan_does_not_admit(compiled: Plan, session: LocalSession) -> None:
    for mode in MODES:
        for x, error in (
            (np.zeros((1, 4, 4, 2)), BadShape),
            (np.full((1, 4, 4, 1), 2.0), OutOfRange),
            (np.full((1, 4, 4, 1), np.inf), BadValue),
        ):
            with pytest.raises(error):
                evaluate(compiled, x, mode)
    with pytest.raises(OutOfRange):
        session.share_array([1e12])
    with pytest.raises(BadValue):
        session.share_array([np.nan])


def test_what_cannot_be_compiled() -> None:
    with pytest.raises(RangeTooWide):
        compiled_plan(params=Params(ring_bits=22, frac_bits=10))
    with pytest.raises(PlanError):
        Params(ring_bits=20, frac_bits=10)


# errors end in an error, and the next run is right


def fails_then_works(compiled: Plan, where: Any, error: type[BaseException], match: str) -> None:
    x = numbers(2, 4, 4, 1)
    with compiled.simulate(batch_size=2) as session:
        shared = session.share(x)
        session.run(shared)
        with where:
            start = time.monotonic()
            with pytest.raises(error, match=match):
                session.run(shared)
            assert time.monotonic() - start < SOON_S
        for _ in range(2):
            assert (
                np.abs(session.run(shared).reveal() - compiled.evaluate(x, fixed_point=True))
                <= law(compiled) + 1e-12
            ).all()
        product = session.share_array(numbers(2, 2)) @ session.share_array(numbers(2, 2))
        assert product.shape == (2, 2)
        rows = [ledger.counts(session._engines[0].session_id) for ledger in session._ledgers]
        assert all(row["spent"] >= 3 for row in rows)
        assert not session._pool.n_bytes_held


class _Bug(Exception):
    pass


def _broken(party: int) -> Any:
    """One server's program fails in its middle."""
    from gpumpc.protocols.relu import ReLU as Step

    run = Step.run

    def broken(step: Any, session: Any, *values: Any) -> Any:
        if session.party == party:
            raise _Bug(f"server {party}")
        return run(step, session, *values)

    return mock.patch.object(Step, "run", broken)


@pytest.mark.parametrize("party", [0, 1])
def test_a_server_that_fails(compiled: Plan, party: int) -> None:
    fails_then_works(compiled, _broken(party), _Bug, f"server {party}")


def test_a_dealer_that_fails(compiled: Plan) -> None:
    def broken(
        _: DealerEngine, weight_sharing_id: str, nonces: Any, batch_index: int, send: Send
    ) -> None:
        send(memoryview(b"abc"))
        raise _Bug("the dealer")

    fails_then_works(compiled, mock.patch.object(DealerEngine, "deal", broken), _Bug, "the dealer")


def test_a_dealer_that_deals_too_little(compiled: Plan) -> None:
    def short(
        _: DealerEngine, weight_sharing_id: str, nonces: Any, batch_index: int, send: Send
    ) -> None:
        send(memoryview(b"abc"))

    fails_then_works(
        compiled,
        mock.patch.object(DealerEngine, "deal", short),
        GpumpcError,
        "were announced and 3 came",
    )


def test_corrections_of_another_program(compiled: Plan) -> None:
    read = MemoryCorrections.read

    def skipping(corrections: MemoryCorrections, n_bytes: int) -> memoryview:
        read(corrections, 1)
        return read(corrections, n_bytes)

    where = mock.patch.object(MemoryCorrections, "read", skipping)
    fails_then_works(compiled, where, CorrelationsMissing, "too few corrections")


def test_corrections_that_nobody_reads(compiled: Plan) -> None:
    finish = MemoryCorrections.finish

    def early(corrections: MemoryCorrections) -> None:
        corrections._n_read -= 4
        finish(corrections)

    fails_then_works(
        compiled,
        mock.patch.object(MemoryCorrections, "finish", early),
        LeftoverCorrelations,
        "4 bytes",
    )


def test_a_run_that_costs_more_than_declared(compiled: Plan) -> None:
    from gpumpc.wire.channel import Channel

    measured = Channel.measured
    more = mock.patch.object(
        Channel, "measured", lambda channel: measured(channel) + measured(channel)
    )
    fails_then_works(compiled, more, CostMismatch, "the result was not released")


def test_a_number_is_used_once(compiled: Plan) -> None:
    back = mock.patch.object(LocalSession, "_next_batch", 0)
    fails_then_works(compiled, back, BatchAlreadyUsed, "batch 0 of session .* was used before")


def test_a_session_that_cannot_start_leaves_nothing_behind(compiled: Plan) -> None:
    weights = type(compiled.weights)(compiled.weights, compiled.weights.salt)
    weights["conv.bias"] = np.full(2, np.nan)
    before = threading.active_count()
    with pytest.raises(BadValue, match="the bias of layer 'conv'"):
        Plan(compiled.record, weights).simulate(1)
    gc.collect()
    assert threading.active_count() == before


def test_closing_twice_is_safe(compiled: Plan) -> None:
    session = compiled.simulate(1)
    folder = Path(session._folder.name)
    session.close()
    session.close()
    assert not folder.exists()


def test_dealing_ahead(compiled: Plan) -> None:
    with compiled.simulate(batch_size=1) as session:
        session.deal_ahead(3)
        session.deal_ahead(2)
        shared = session.share(numbers(3, 4, 4, 1))
        assert session.run(shared).shape == (3, 3)
        assert not session._pool.n_bytes_held


@pytest.mark.parametrize("n_ahead", [0, 1, 3])
def test_a_selection_that_fails_is_dealt_for_again(compiled: Plan, n_ahead: int) -> None:
    run, x = Program.run, numbers(1, 4, 4, 1)
    failed: list[int] = []

    def unlucky(program: Any, running: Any, *shares: Additive) -> Additive:
        result = run(program, running, *shares)
        if failed.count(running.party) < 2:
            failed.append(running.party)
            raise SelectionFailed("an unlucky sample")
        return result

    with compiled.simulate(batch_size=1) as session:
        shared = session.share(x)
        session.deal_ahead(n_ahead)
        with mock.patch.object(Program, "run", unlucky):
            result = session.run(shared)
        assert sorted(failed) == [0, 0, 1, 1]
        assert (
            np.abs(result.reveal() - compiled.evaluate(x, fixed_point=True))
            <= law(compiled) + 1e-12
        ).all()
        assert not session._pool.n_bytes_held
        assert (
            np.abs(session.run(shared).reveal() - compiled.evaluate(x, fixed_point=True))
            <= law(compiled) + 1e-12
        ).all()


def test_released_shares_are_rerandomised(session: LocalSession, compiled: Plan) -> None:
    """The dealer knows the masks in a step's output share; what leaves a server differs from it by
    what it cannot know.
    """
    inside: dict[int, Additive] = {}
    run = type(session.program).run

    def recording(program: Any, running: Any, *shares: Additive) -> Additive:
        inside[running.party] = run(program, running, *shares)
        return inside[running.party]

    with mock.patch.object(type(session.program), "run", recording):
        result = session.run(session.share(numbers(*session.program.input.shape, seed=9)))
    bits = session.program.result.bits
    keep = np.uint64((1 << bits) - 1)
    released: list[Any] = [store[result._key].words for store in session._stores]
    added = [(after - inside[party].words) & keep for party, after in enumerate(released)]
    assert not ((added[0] + added[1]) & keep).any()  # the value is the same
    assert len(np.unique(added[0])) == added[0].size  # and no share is what it was
    other = session.run(session.share(numbers(*session.program.input.shape, seed=9)))
    again: Any = session._stores[0][other._key].words
    assert (again != released[0]).all()
