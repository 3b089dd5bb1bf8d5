"""The queue of requests, server 1's dealer_link for the dealer, without processes."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gpumpc import messages as m
from gpumpc.engine.session_binding import SessionBinding
from gpumpc.errors import BadFrame, CorrelationsMissing, GpumpcError, InputError
from gpumpc.nn.graph import Graph, Input, ReLU
from gpumpc.offline.pool import Pool
from gpumpc.params import Params
from gpumpc.program.lowering import compile_program
from gpumpc.server.dealer_link import DealerLink
from gpumpc.server.jobs import MAX_JOBS_PER_CLIENT, Job, JobQueue
from gpumpc.server.peer_loop import PeerLoop
from gpumpc.wire.channel import memory_pair
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.multiplexer import SubChannel

PROGRAM = compile_program(
    Graph((Input("x", (), (3,), -1.0, 1.0), ReLU("y", ("x",)))),
    Params(ring_bits=40, frac_bits=10),
    2,
)
PLAN, NAME = "a" * 64, "b" * 32
SESSION = bytes(range(16))


def task(job: str, client: str = "user") -> Job:
    return Job(client, PLAN, job, "run", lambda: lambda channel, batch: None, lambda error: None)


def test_tasks_leave_in_their_order() -> None:
    jobs = JobQueue()
    for job in "abc":
        jobs.put(task(job))
    popped = jobs.pop("b", 0.0)
    assert popped is not None and popped.job == "b" and jobs.pop("b", 0.0) is None
    assert [getattr(jobs.first(0.0), "job", None) for _ in range(3)] == ["a", "c", None]


def test_a_task_is_waited_for() -> None:
    jobs = JobQueue()
    threading.Timer(0.05, jobs.put, [task("a")]).start()
    assert jobs.pop("a", 2.0) is not None


def test_a_client_has_its_share_of_the_queue() -> None:
    jobs = JobQueue()
    for i in range(MAX_JOBS_PER_CLIENT):
        jobs.put(task(str(i)))
    with pytest.raises(InputError, match="user has 32 requests waiting"):
        jobs.put(task("more"))
    jobs.put(task("other", "second"))
    with pytest.raises(InputError, match="waits here already"):
        jobs.put(task("other", "third"))


def test_old_tasks_are_given_up() -> None:
    jobs = JobQueue()
    jobs.put(task("a"))
    time.sleep(0.05)
    jobs.put(task("b"))
    assert [old.job for old in jobs.pop_older(0.04)] == ["a"] and [
        old.job for old in jobs.pop_older(0.0)
    ] == ["b"]


@pytest.fixture
def dealer_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("gpumpc.server.dealer_link.DEALER_SILENCE_S", 0.2)
    pool = Pool(tmp_path / "pool", 100)
    yield DealerLink(pool)
    pool.close()


def engine(first: int = 0, weight_sharing_id: str = NAME, session_id: bytes = SESSION) -> Any:
    program = SimpleNamespace(cost=SimpleNamespace(dealer_bytes=10))
    plan = msgspec.structs.replace(_plan(), weight_digest="c" * 64)
    binding = SessionBinding(weight_sharing_id, (bytes(16), bytes(16)), session_id)
    return SimpleNamespace(binding=binding, first_needed=first, program=program, plan=plan)


def _plan() -> Any:
    from tests.local.small_plan import compiled_plan

    return compiled_plan().record


def test_the_desk_asks_for_two_batches_and_takes_no_others(dealer_link: DealerLink) -> None:
    served = engine()
    wants = [dealer_link.ask(served) for _ in range(3)]
    assert [want and want.batch_index for want in wants] == [0, 1, None]
    with pytest.raises(BadFrame, match="unasked"):
        dealer_link.store(SESSION, 2, 10, memoryview(bytes(10)))
    dealer_link.store(SESSION, 0, 10, memoryview(bytes(4)))
    dealer_link.store(SESSION, 0, 10, memoryview(bytes(6)))
    with pytest.raises(BadFrame, match="unasked"):
        dealer_link.store(SESSION, 0, 10, memoryview(bytes(10)))
    with pytest.raises(BadFrame, match="10 bytes were announced and 11 came"):
        dealer_link.store(SESSION, 1, 10, memoryview(bytes(11)))
    assert dealer_link.ask(engine(weight_sharing_id="", session_id=b"")) is None


def test_a_batch_that_a_run_waits_for_is_asked_again(dealer_link: DealerLink) -> None:
    """The dealer was started again while a reserved batch waited for its corrections."""
    served = engine(first=4)
    assert getattr(dealer_link.ask(served), "batch_index", None) == 4
    dealer_link.store(SESSION, 4, 10, memoryview(bytes(4)))
    dealer_link.restart()
    assert getattr(dealer_link.ask(served), "batch_index", None) == 4
    dealer_link.store(SESSION, 4, 10, memoryview(bytes(10)))
    assert dealer_link.take(SESSION, 4, 1.0).read(10) == bytes(10)


def test_sessions_that_ended_leave_the_pool(dealer_link: DealerLink) -> None:
    dealer_link.ask(engine())
    dealer_link.ask(engine())
    dealer_link.store(SESSION, 0, 10, memoryview(bytes(10)))
    dealer_link.store(SESSION, 1, 10, memoryview(bytes(3)))
    dealer_link.keep_only([b"x" * 16])
    dealer_link.forget(SESSION, 1)
    assert dealer_link.pool.sessions() == set() and not [*dealer_link.pool.folder.glob("*.*")]
    assert (
        getattr(dealer_link.ask(engine()), "batch_index", None) == 0
    )  # nothing is in flight any more


def test_without_a_dealer(dealer_link: DealerLink) -> None:
    for attempt in (
        lambda: dealer_link.check(SESSION, 0),
        lambda: dealer_link.take(SESSION, 0, 5.0),
    ):
        with pytest.raises(
            CorrelationsMissing, match="no dealer is connected.*start `gpumpc dealer`"
        ):
            attempt()
    dealer_link.note_heartbeat()
    dealer_link.check(SESSION, 0)
    with pytest.raises(CorrelationsMissing):
        dealer_link.take(SESSION, 0, 0.0)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x05", b"\xff\xff\xff\xffabc", b"\x01\x00\x00\x00\xc1", m.pack(m.Heartbeat())],
)
def test_a_record_that_is_none_of_a_union(payload: bytes) -> None:
    with pytest.raises(GpumpcError, match="BadFrame|message|record|frame") as caught:
        m.unpack(payload, m.Request)
    assert isinstance(caught.value, BadFrame)


def test_a_connection_that_closes_takes_no_requests() -> None:
    """To close it may take two seconds: a client that asks again at once must not be told of the
    end of this one.
    """
    ends, stopping, connected = memory_pair(), threading.Event(), list[bool]()

    def agreed(channel: SubChannel) -> None:
        ends[1].close()

    def close() -> None:
        connected.append(peer_loop.is_connected)
        stopping.set()

    connection: Any = ends[0]
    connection.wait_peer, connection.close = lambda timeout_s: None, close
    peer_loop = PeerLoop(0, {}, JobQueue(), lambda: connection, agreed, stopping)
    exchange = threading.Thread(
        target=lambda: exchange_hello(ends[1], equal={"number of plans": "0"})
    )
    exchange.start()
    peer_loop.run()
    exchange.join()
    assert connected == [False]
