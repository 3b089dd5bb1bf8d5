"""What clients have asked the two servers to do together, until it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from gpumpc.errors import GpumpcError, InputError
from gpumpc.wire.multiplexer import SubChannel

# More would only keep others waiting, and what waits here takes memory.
MAX_JOBS_PER_CLIENT = 32

Work = Callable[[SubChannel, int], None]


class Job(NamedTuple):
    """A request that both servers carry out together.

    Attributes:
        client: whose request it is.
        plan, job, what: must be the same at both servers.
        prepare: everything that can fail at this server alone; returns the lock-step part, which
            takes the channel and the number of the first batch.
        fail: tells the client why nothing comes of it.
    """

    client: str
    plan: str
    job: str
    what: str
    prepare: Callable[[], Work]
    fail: Callable[[GpumpcError], None]


class JobQueue:
    """Tasks in the order in which they came, bounded for each client; for several threads."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[Job, float]] = {}
        self._arrived = threading.Condition()

    def put(self, task: Job) -> None:
        """Add a task.

        Raises InputError if its job waits here already, or too many of its client's do.
        """
        with self._arrived:
            if task.job in self._jobs:
                raise InputError(
                    f"job {task.job[:8]} waits here already",
                    "a job has a number of its own",
                    "draw a new one",
                )
            if (
                sum(waiting.client == task.client for waiting, _ in self._jobs.values())
                >= MAX_JOBS_PER_CLIENT
            ):
                raise InputError(
                    f"{task.client} has {MAX_JOBS_PER_CLIENT} requests waiting here",
                    "no client may fill the queue",
                    "wait for the earlier ones",
                )
            self._jobs[task.job] = (task, time.monotonic())
            self._arrived.notify_all()

    def first(self, timeout_s: float) -> Job | None:
        """Take the oldest task; None if none comes in time."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._jobs, timeout_s)
            return self._jobs.pop(next(iter(self._jobs)))[0] if self._jobs else None

    def pop(self, job: str, timeout_s: float) -> Job | None:
        """Take the task of a job; None if it does not come in time."""
        with self._arrived:
            self._arrived.wait_for(lambda: job in self._jobs, timeout_s)
            task, _ = self._jobs.pop(job, (None, 0.0))
            return task

    def pop_older(self, age_s: float) -> list[Job]:
        """Take all jobs that wait here for longer than `age_s` seconds; 0 takes every one."""
        with self._arrived:
            latest = time.monotonic() - age_s
            jobs = [job for job, (_, since) in self._jobs.items() if since <= latest]
            return [self._jobs.pop(job)[0] for job in jobs]
