"""A run that fails ends in an error, and the next run is right."""

import gc
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from gpumpc import errors
from gpumpc.engine.dealer_engine import DealerEngine
from gpumpc.local.compile import Plan
from gpumpc.local.simulation import LocalSession
from gpumpc.offline.deal_batch import Send
from gpumpc.offline.memory_pool import MemoryCorrections
from gpumpc.program.program import Program
from gpumpc.shares import Additive
from tests.local.small_plan import is_close, numbers

SOON_S = 5.0


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
            assert is_close(compiled, x, session.run(shared).reveal())
        product = session.share_array(numbers(2, 2)) @ session.share_array(numbers(2, 2))
        assert product.shape == (2, 2)
        rows = [ledger.counts(session._engines[0].session_id) for ledger in session._ledgers]
        assert all(row["spent"] >= 3 for row in rows)
        assert not session._pool.n_unread_bytes


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
def test_server_error_ends_the_run(compiled: Plan, party: int) -> None:
    fails_then_works(compiled, _broken(party), _Bug, f"server {party}")


def test_dealer_error_ends_the_run(compiled: Plan) -> None:
    def broken(_: DealerEngine, sharing_id: str, nonces: Any, index: int, send: Send) -> None:
        send(memoryview(b"abc"))
        raise _Bug("the dealer")

    fails_then_works(compiled, mock.patch.object(DealerEngine, "deal", broken), _Bug, "the dealer")


def test_too_few_dealt_bytes_are_refused(compiled: Plan) -> None:
    def short(_: DealerEngine, sharing_id: str, nonces: Any, index: int, send: Send) -> None:
        send(memoryview(b"abc"))

    where = mock.patch.object(DealerEngine, "deal", short)
    fails_then_works(compiled, where, errors.GpumpcError, "were announced and 3 came")


def test_too_few_corrections_are_refused(compiled: Plan) -> None:
    read = MemoryCorrections.read

    def skipping(corrections: MemoryCorrections, n_bytes: int) -> memoryview:
        read(corrections, 1)
        return read(corrections, n_bytes)

    where = mock.patch.object(MemoryCorrections, "read", skipping)
    fails_then_works(compiled, where, errors.CorrelationsMissing, "too few corrections")


def test_unread_corrections_are_refused(compiled: Plan) -> None:
    finish = MemoryCorrections.finish

    def early(corrections: MemoryCorrections) -> None:
        corrections._n_read -= 4
        finish(corrections)

    where = mock.patch.object(MemoryCorrections, "finish", early)
    fails_then_works(compiled, where, errors.LeftoverCorrelations, "4 bytes")


def test_undeclared_cost_withholds_the_result(compiled: Plan) -> None:
    from gpumpc.wire.channel import Channel

    measured = Channel.measured
    twice = mock.patch.object(Channel, "measured", lambda it: measured(it) + measured(it))
    fails_then_works(compiled, twice, errors.CostMismatch, "the result was not released")


def test_batch_index_is_used_once(compiled: Plan) -> None:
    back = mock.patch.object(LocalSession, "_next_batch", 0)
    text = "batch 0 of session .* was used before"
    fails_then_works(compiled, back, errors.BatchAlreadyUsed, text)


def test_new_weights_end_the_session(compiled: Plan) -> None:
    with compiled.simulate(batch_size=2) as session:
        before = session._engines[0].session_id
        session._start(compiled.weights)
        for ledger in session._ledgers:
            with pytest.raises(errors.BatchAlreadyUsed, match="the session is not open"):
                ledger.reserve(before, 100)
        x = numbers(2, 4, 4, 1)
        assert is_close(compiled, x, session.run(session.share(x)).reveal())


def test_failed_session_leaves_no_thread(compiled: Plan) -> None:
    weights = type(compiled.weights)(compiled.weights, compiled.weights.salt)
    weights["conv.bias"] = np.full(2, np.nan)
    before = threading.active_count()
    with pytest.raises(errors.BadValue, match="the bias of layer 'conv'"):
        Plan(compiled.record, weights).simulate(1)
    gc.collect()
    assert threading.active_count() == before


def test_closing_twice_is_safe(compiled: Plan) -> None:
    session = compiled.simulate(1)
    folder = Path(session._folder.name)
    session.close()
    session.close()
    assert not folder.exists()


def test_deal_ahead_is_used_up_by_the_runs(compiled: Plan) -> None:
    with compiled.simulate(batch_size=1) as session:
        session.deal_ahead(3)
        session.deal_ahead(2)
        shared = session.share(numbers(3, 4, 4, 1))
        assert session.run(shared).shape == (3, 3)
        assert not session._pool.n_unread_bytes


@pytest.mark.parametrize("n_ahead", [0, 1, 3])
def test_failed_selection_is_dealt_for_again(compiled: Plan, n_ahead: int) -> None:
    run, x = Program.run, numbers(1, 4, 4, 1)
    failed: list[int] = []

    def unlucky(program: Any, running: Any, *shares: Additive) -> Additive:
        result = run(program, running, *shares)
        if failed.count(running.party) < 2:
            failed.append(running.party)
            raise errors.SelectionFailed("an unlucky sample")
        return result

    with compiled.simulate(batch_size=1) as session:
        shared = session.share(x)
        session.deal_ahead(n_ahead)
        with mock.patch.object(Program, "run", unlucky):
            result = session.run(shared)
        assert sorted(failed) == [0, 0, 1, 1]
        assert is_close(compiled, x, result.reveal())
        assert not session._pool.n_unread_bytes
        assert is_close(compiled, x, session.run(shared).reveal())
