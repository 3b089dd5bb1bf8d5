"""Virtual time, and tasks of which one at a time runs, chosen by a seeded generator.

A task is a thread that gives up its turn in `World.wait` alone. So a schedule is a function of its
seed, and time passes only while every task waits.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_STEP_S = 0.0005
_FOREVER = float("inf")


class Killed(BaseException):
    """Raised in a task whose process is killed, at the point where it gave up its turn."""


class Stuck(RuntimeError):
    """All tasks wait for each other without a deadline."""


class Task:
    """A thread of one process."""

    def __init__(self, world: World, process: str, work: Callable[[], None]) -> None:
        self.process, self.is_killed, self.has_ended = process, False, False
        self.ready: Callable[[], bool] = lambda: True
        self.deadline = _FOREVER
        self.error: BaseException | None = None
        self.turn = threading.Semaphore(0)
        self._world, self._work = world, work
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self.turn.acquire()
        try:
            if not self.is_killed:
                self._work()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.has_ended = True
        self._world.turn.release()


class World:
    """One schedule.

    Attributes:
        now: seconds since the beginning.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.now, self.turn = np.random.default_rng(seed), 0.0, threading.Semaphore(0)
        self._tasks: list[Task] = []
        self._current: Task | None = None
        self._moments: list[float] = []  # at which a condition may become true

    def spawn(self, process: str, work: Callable[[], None]) -> Task:
        """Add a task to a process."""
        task = Task(self, process, work)
        self._tasks.append(task)
        return task

    def kill(self, process: str) -> None:
        """Kill a process: each of its tasks ends where it waits."""
        for task in self._tasks:
            if task.process == process:
                task.is_killed = True

    def has_tasks(self, process: str) -> bool:
        """Whether a process has tasks left."""
        return any(task.process == process for task in self._tasks)

    def wait(self, ready: Callable[[], bool] = lambda: True, timeout_s: float = _FOREVER) -> bool:
        """Give up the turn until `ready()` or the time is over; whether it is ready."""
        task = self._current
        if task is None or task.is_killed:
            raise Killed
        task.ready, task.deadline = ready, self.now + max(0.0, timeout_s)
        self.turn.release()
        task.turn.acquire()
        if task.is_killed:
            raise Killed
        return ready()

    def look_at(self, moment: float) -> None:
        """Ask the conditions again at a moment, such as when a frame arrives."""
        heapq.heappush(self._moments, moment)

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        return int(self.random.integers(n))

    def run(self, until: Callable[[], bool], limit_s: float) -> None:
        """Run tasks until a condition holds. Raises what a task raised, and Stuck."""
        while not until():
            runnable = [
                t for t in self._tasks if t.is_killed or t.deadline <= self.now or t.ready()
            ]
            if not runnable:
                while self._moments and self._moments[0] <= self.now:
                    heapq.heappop(self._moments)
                moments = [task.deadline for task in self._tasks] + self._moments[:1]
                self.now = min(moments, default=_FOREVER)
                if self.now > limit_s:
                    raise Stuck(f"nothing happens any more before {limit_s:g} s")
                continue
            if self.now > limit_s:
                raise Stuck(f"still busy after {limit_s:g} s")
            self.now += _STEP_S
            self._give_turn(runnable[self.below(len(runnable))])

    def _give_turn(self, task: Task) -> None:
        self._current = task
        task.turn.release()
        self.turn.acquire()
        self._current = None
        if task.has_ended:
            self._tasks.remove(task)
            if task.error is not None:
                raise task.error

    def end(self) -> None:
        """End all tasks that are left."""
        for task in [*self._tasks]:
            task.is_killed = True
        while self._tasks:
            self._give_turn(self._tasks[0])


class Clock:
    """Stands for the module `time` in the code of the parties."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        """Seconds, as `time.monotonic`."""
        return self._world.now

    def time(self) -> float:
        """Seconds, as `time.time`."""
        return 1e9 + self._world.now

    def sleep(self, seconds: float) -> None:
        """As `time.sleep`."""
        self._world.wait(lambda: False, seconds)


class Condition:
    """Stands for `threading.Condition`; only one task runs, so nothing needs a lock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> Condition:
        return self

    def __exit__(self, *_: object) -> None: ...

    def wait_for(self, predicate: Callable[[], Any], timeout: float) -> bool:
        """As `threading.Condition.wait_for`."""
        return self._world.wait(lambda: bool(predicate()), timeout)

    def notify_all(self) -> None:
        """The scheduler asks the predicates itself."""


class Event:
    """Stands for `threading.Event`."""

    def __init__(self, world: World) -> None:
        self._world, self._is_set = world, False

    def is_set(self) -> bool:
        """As `threading.Event.is_set`."""
        return self._is_set

    def set(self) -> None:
        """As `threading.Event.set`."""
        self._is_set = True

    def wait(self, timeout: float) -> bool:
        """As `threading.Event.wait`."""
        return self._world.wait(self.is_set, timeout)


class Secrets:
    """Stands for the module `secrets`, so that ids repeat with the seed."""

    def __init__(self, world: World) -> None:
        self._world = world

    def token_bytes(self, n: int) -> bytes:
        """As `secrets.token_bytes`, and no secret."""
        return self._world.random.bytes(n)

    def token_hex(self, n: int) -> str:
        """As `secrets.token_hex`, and no secret."""
        return self.token_bytes(n).hex()


@contextlib.contextmanager
def replaced(modules: dict[types.ModuleType, dict[str, object]]) -> Iterator[None]:
    """Put other objects into modules for a while."""
    saved = [
        (module, name, getattr(module, name)) for module, names in modules.items() for name in names
    ]
    try:
        for module, names in modules.items():
            for name, value in names.items():
                setattr(module, name, value)
        yield
    finally:
        for module, name, value in saved:
            setattr(module, name, value)
