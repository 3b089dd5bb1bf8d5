"""Several batches at a time over one connection: what they yield comes in their order."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from gpumpc.errors import GpumpcError, PeerLost
from gpumpc.wire.multiplexer import SubChannel

T = TypeVar("T")


def in_flight(
    channel: SubChannel, n: int, flights: Iterable[Callable[[SubChannel], T]]
) -> Iterator[T]:
    """The results of all flights, in order, at most `n` of them under way.

    Args:
        flights: batches that have begun; each is carried out in the lane that it is given.

    When one fails, the connection is closed under the others: they have lost their peer's half.
    Raises the cause.
    """
    free = collections.deque(channel.multiplexer.open(n))
    under_way: collections.deque[tuple[SubChannel, Future[T]]] = collections.deque()

    def landed() -> T:
        sub_channel, future = under_way.popleft()
        result = future.result()
        free.append(sub_channel)
        return result

    try:
        for flight in flights:
            while not free:
                yield landed()
            sub_channel = free.popleft()
            under_way.append((sub_channel, _started(flight, sub_channel)))
        while under_way:
            yield landed()
    except BaseException as error:
        cause = _give_up(channel, error, [future for _, future in under_way])
        if cause is error:
            raise
        raise cause from error
    finally:
        channel.multiplexer.end()


def _started(flight: Callable[[SubChannel], T], sub_channel: SubChannel) -> Future[T]:
    """A flight in a thread of its own, and not an executor's: a process that stops waits for
    those.
    """
    future: Future[T] = Future()

    def fly() -> None:
        try:
            future.set_result(flight(sub_channel))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=fly, name="flight", daemon=True).start()
    return future


def _give_up(
    channel: SubChannel, error: BaseException, others: Iterable[Future[T]]
) -> BaseException:
    """End what else is under way; if this end is the cause, say so to the peer first.

    What was the cause of it all.
    """
    if isinstance(error, GpumpcError) and not isinstance(error, PeerLost):
        with contextlib.suppress(GpumpcError):
            channel.send_error(error)
    channel.close()
    # One that fails may have closed the connection itself: those that began before it see no more
    # than that.
    failures = [error, *(future.exception() for future in others)]
    return next(
        (failure for failure in failures if failure and not isinstance(failure, PeerLost)), error
    )
