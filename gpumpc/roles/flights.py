"""Several batches at a time over one connection: what they yield comes in their order."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gpumpc.errors import GpumpcError, PeerLost
from gpumpc.wire.lanes import Lane

T = TypeVar("T")


def in_flight(channel: Lane, n: int, flights: Iterable[Callable[[Lane], T]]) -> Iterator[T]:
    """The results of all flights, in order, at most `n` of them under way.

    Args:
        flights: batches that have begun; each is carried out in the lane that it is given.

    When one fails, the connection is closed under the others: they have lost their peer's half. Raises the cause.
    """
    free = collections.deque(channel.lanes.beside(n))
    under_way: collections.deque[tuple[Lane, Future[T]]] = collections.deque()
    with ThreadPoolExecutor(n, thread_name_prefix="flight") as threads:

        def landed() -> T:
            lane, future = under_way.popleft()
            result = future.result()
            free.append(lane)
            return result

        try:
            for flight in flights:
                while not free:
                    yield landed()
                lane = free.popleft()
                under_way.append((lane, threads.submit(flight, lane)))
            while under_way:
                yield landed()
        except BaseException as error:
            _give_up(channel, error, [future for _, future in under_way])
            raise
        finally:
            channel.lanes.end()


def _give_up(channel: Lane, error: BaseException, others: Iterable[Future[T]]) -> None:
    """End what else is under way; if this end is the cause, say so to the peer first."""
    if isinstance(error, GpumpcError) and not isinstance(error, PeerLost):
        with contextlib.suppress(GpumpcError):
            channel.send_error(error)
    channel.close()
    for future in others:
        future.exception()
