"""Several batches in flight over one connection, with their results in order."""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from gpumpc.errors import GpumpcError, PeerLost
from gpumpc.wire.multiplexer import SubChannel

T = TypeVar("T")


def pipelined(
    channel: SubChannel, n: int, batches: Iterable[Callable[[SubChannel], T]]
) -> Iterator[T]:
    """The results of all batches, in order, with at most `n` batches in flight.

    Args:
        batches: reserved batches, as functions of the sub-channel each is carried out in.

    When one fails, the connection is closed under the others, whose peers cannot go on. Raises the
    cause.
    """
    free = collections.deque(channel.multiplexer.open(n))
    in_flight: collections.deque[tuple[SubChannel, Future[T]]] = collections.deque()

    def finished() -> T:
        sub_channel, future = in_flight.popleft()
        result = future.result()
        free.append(sub_channel)
        return result

    try:
        for work in batches:
            while not free:
                yield finished()
            sub_channel = free.popleft()
            in_flight.append((sub_channel, _started(work, sub_channel)))
        while in_flight:
            yield finished()
    except BaseException as error:
        cause = _give_up(channel, error, [future for _, future in in_flight])
        if cause is error:
            raise
        raise cause from error
    finally:
        channel.multiplexer.end()


def _started(work: Callable[[SubChannel], T], sub_channel: SubChannel) -> Future[T]:
    # Not an executor: a process that stops would wait for its threads.
    future: Future[T] = Future()

    def evaluate() -> None:
        try:
            future.set_result(work(sub_channel))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=evaluate, name="batch", daemon=True).start()
    return future


def _give_up(
    channel: SubChannel, error: BaseException, others: Iterable[Future[T]]
) -> BaseException:
    """Close the connection of all batches in flight, and tell the peer why; returns the cause."""
    if isinstance(error, GpumpcError) and not isinstance(error, PeerLost):
        with contextlib.suppress(GpumpcError):
            channel.send_error(error)
    channel.close()
    # A batch that fails may have closed the connection itself: the others only saw PeerLost.
    failures = [error, *(future.exception() for future in others)]
    causes = (failure for failure in failures if failure and not isinstance(failure, PeerLost))
    return next(causes, error)
