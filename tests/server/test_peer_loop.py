"""The queue of jobs and the peer loop, without processes."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from gpumpc.errors import GpumpcError, InputError
from gpumpc.server.peer_loop import MAX_JOBS_PER_CLIENT, Job, JobQueue, PeerLoop
from gpumpc.wire.channel import memory_pair
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.multiplexer import SubChannel


class SomeJob(Job):
    def __init__(self, job_id: str, client_name: str = "user") -> None:
        self.job_id, self.client_name, self.plan, self.what = job_id, client_name, "a" * 64, "run"
        self.patience_s = 0.04

    def prepare(self) -> str:
        return ""

    def run(self, channel: SubChannel, first_batch: int) -> None: ...

    def conclude(self) -> None: ...

    def fail(self, error: GpumpcError) -> None: ...


def test_jobs_are_taken_in_order() -> None:
    jobs = JobQueue()
    for job in "abc":
        jobs.put(SomeJob(job))
    popped = jobs.pop("b", 0.0)
    assert popped is not None and popped.job_id == "b" and jobs.pop("b", 0.0) is None
    assert [getattr(jobs.first(0.0), "job_id", None) for _ in range(3)] == ["a", "c", None]


def test_pop_waits_for_a_job() -> None:
    jobs = JobQueue()
    threading.Timer(0.05, jobs.put, [SomeJob("a")]).start()
    assert jobs.pop("a", 2.0) is not None


def test_queue_bounds_each_clients_jobs() -> None:
    jobs = JobQueue()
    for i in range(MAX_JOBS_PER_CLIENT):
        jobs.put(SomeJob(str(i)))
    with pytest.raises(InputError, match="user has 32 requests waiting"):
        jobs.put(SomeJob("more"))
    jobs.put(SomeJob("other", "second"))
    with pytest.raises(InputError, match="waits here already"):
        jobs.put(SomeJob("other", "third"))


def test_old_and_impatient_jobs_are_taken() -> None:
    jobs = JobQueue()
    jobs.put(SomeJob("a"))
    jobs.put(SomeJob("patient"))
    next(job for job, _ in jobs._jobs.values() if job.job_id == "patient").patience_s = 60.0
    time.sleep(0.05)
    moment = time.monotonic()
    jobs.put(SomeJob("b"))
    assert [old.job_id for old in jobs.pop_impatient()] == ["a"]
    assert [old.job_id for old in jobs.pop_before(moment)] == ["patient"]
    assert [old.job_id for old in jobs.pop_before(time.monotonic())] == ["b"]


def test_closing_connection_takes_no_requests() -> None:
    """Closing may take two seconds: a request that comes meanwhile must not wait for its end."""
    ends, stopping, connected = memory_pair(), threading.Event(), list[bool]()

    def agreed(channel: SubChannel) -> None:
        ends[1].close()

    def close() -> None:
        connected.append(peer_loop.is_connected)
        stopping.set()

    connection: Any = ends[0]
    connection.wait_peer, connection.close = lambda timeout_s: None, close
    audit: Any = SimpleNamespace(party=0, meet=lambda channel: None)
    peer_loop = PeerLoop({}, lambda: connection, agreed, audit, stopping)
    equal = {"number of plans": "0"}
    exchange = threading.Thread(target=lambda: exchange_hello(ends[1], equal=equal))
    exchange.start()
    peer_loop.run()
    exchange.join()
    assert connected == [False]
