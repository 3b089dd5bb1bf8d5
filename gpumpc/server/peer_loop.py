"""The thread of a server that walks programs in lock step with the other server.

Server 0 leads: it takes jobs in the order in which they came and orders server 1 to do the same.
Whatever can fail at one server alone is done before the order is accepted: such a failure disturbs
nobody else and burns no batch.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

from gpumpc import messages as m
from gpumpc.engine.engine import Engine
from gpumpc.errors import (
    BadFrame,
    GpumpcError,
    HandshakeMismatch,
    InputError,
    PeerLost,
    PeerTimeout,
    RemoteError,
    WireError,
)
from gpumpc.server.jobs import Job, JobQueue, Work
from gpumpc.wire.channel import Channel
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.multiplexer import Multiplexer, SubChannel
from gpumpc.wire.wait_for_peer import wait_for_peer

# How long server 1 keeps a request that server 0 does not order. It hears of requests first, so for
# one that it is ordered and does not have it waits for a moment only.
SAME_REQUEST_S = 3.0
_ALREADY_S = 0.5
_ANSWER_S = 30.0  # what server 1 may take to prepare a request of the largest size
_IDLE_S = 0.2
_IDLE_MESSAGE_S = 1.0
_RECONNECT_S = 0.5

log = logging.getLogger("gpumpc")


class PeerLoop:
    """What both servers do together; `run` is the body of a thread.

    Args:
        connect: makes a new channel to the other server.
        agreed: called with the channel when both servers have agreed, before any task.
        stopping: ends `run`; set by it where nothing more can be done, with the reason in `fatal`.

    Attributes:
        is_connected: whether the other server is there and agrees.
    """

    def __init__(
        self,
        party: int,
        engines: Mapping[str, Engine],
        jobs: JobQueue,
        connect: Callable[[], Channel],
        agreed: Callable[[SubChannel], None],
        stopping: threading.Event,
    ) -> None:
        self._party, self._engines, self._jobs = party, engines, jobs
        self._connect, self._agreed, self.stopping = connect, agreed, stopping
        self.is_connected = False
        self.fatal: GpumpcError | None = None
        self._idle_sent_at = 0.0

    def run(self) -> None:
        """Connect, agree and work until `stopping` is set; a lost connection is made anew."""
        while not self.stopping.is_set():
            cause: GpumpcError | None = None
            try:
                self._with_peer()
            except HandshakeMismatch as error:
                # Nothing can be computed with a peer that does not agree: stop, and say which field
                # differs.
                log.error("%s", error)
                self.fatal = cause = error
                self.stopping.set()
            except GpumpcError as error:
                log.warning("%s", error)
                cause = error
            except Exception as error:  # a bug must stop the server loudly, not leave it half alive
                if not self.stopping.is_set():  # else its files were closed under it
                    log.exception("the peer loop's thread failed")
                    self.fatal = cause = unexpected(error)
                    self.stopping.set()
            self.is_connected = False
            self.give_up(cause)
            if cause:
                self.stopping.wait(_RECONNECT_S)

    def _with_peer(self) -> None:
        with contextlib.closing(self._connect()) as connection:
            if not wait_for_peer(connection.wait_peer, self.stopping):
                return
            channel = Multiplexer(connection).first
            exchange_hello(channel, equal={"number of plans": str(len(self._engines))})
            for engine in self._engines.values():
                engine.agree(channel)
            self._agreed(channel)
            self.is_connected = True
            log.info("server %d is connected to server %d and agrees", self._party, 1 - self._party)
            step = self._lead if self._party == 0 else self._follow
            try:
                while not self.stopping.is_set():
                    step(channel)
            finally:
                self.is_connected = (
                    False  # closing takes a moment, and no request should be taken in meanwhile
                )

    def _lead(self, channel: SubChannel) -> None:
        task = self._jobs.first(_IDLE_S)
        if task is None:
            self._send_idle(channel)
            return
        try:
            work = self._prepared(task)
        except GpumpcError as error:
            task.fail(error)
            return
        first_batch = self._engines[task.plan].next_batch
        try:
            channel.send_control(m.pack(m.Order(task.plan, task.job, task.what, first_batch)))
            answer, _ = m.unpack(channel.receive_control(_ANSWER_S), m.Control)
        except GpumpcError as error:
            task.fail(error)
            raise
        if isinstance(answer, m.Refuse):
            task.fail(RemoteError(f"server 1 refuses: {answer.what}", answer.why, answer.hint))
        elif isinstance(answer, m.Accept) and answer.job == task.job:
            self._carry_out(channel, task, work, first_batch)
        else:
            wrong = BadFrame(
                "server 1 answered another order than was given", hint="restart both servers"
            )
            task.fail(wrong)
            raise wrong

    def _send_idle(self, channel: SubChannel) -> None:
        if time.monotonic() - self._idle_sent_at > _IDLE_MESSAGE_S:
            self._idle_sent_at = time.monotonic()
            channel.send_control(m.pack(m.Idle()))
        with contextlib.suppress(PeerTimeout):
            channel.receive_control(0.0)  # raises PeerLost as soon as server 1 is gone
            raise BadFrame("server 1 spoke without an order", hint="restart both servers")

    def _follow(self, channel: SubChannel) -> None:
        try:
            order, _ = m.unpack(channel.receive_control(_IDLE_S), m.Control)
        except PeerTimeout:
            return
        if isinstance(order, m.Idle):
            for waiting in self._jobs.pop_older(SAME_REQUEST_S):
                waiting.fail(_one_sided(1))
            return
        if not isinstance(order, m.Order):
            raise BadFrame("server 0 sent no order where one was due", hint="restart both servers")
        task = self._jobs.pop(order.job, _ALREADY_S)
        try:
            if task is None:
                raise _one_sided(0)
            if (task.plan, task.what) != (order.plan, order.what):
                raise InputError(
                    "the two servers were given different requests",
                    hint="send the same to both servers",
                )
            work = self._prepared(task)
        except GpumpcError as error:
            channel.send_control(
                m.pack(m.Refuse(type(error).__name__, error.what, error.why, error.hint))
            )
            if task is not None:
                task.fail(error)
            return
        channel.send_control(m.pack(m.Accept(task.job)))
        self._carry_out(channel, task, work, order.first_batch)

    def _prepared(self, task: Job) -> Work:
        try:
            return task.prepare()
        except GpumpcError as error:
            log.warning("%s: %s", task.client, error)
            raise
        except (
            Exception
        ) as error:  # this request fails, such as for want of memory, and the server goes on
            log.exception("a request of %s failed", task.client)
            raise unexpected(error) from error

    def _carry_out(self, channel: SubChannel, task: Job, work: Work, first_batch: int) -> None:
        try:
            work(channel, first_batch)
        except HandshakeMismatch as error:
            # The servers agree on their plans; what differs here concerns this request alone.
            task.fail(error)
            raise BadFrame(
                "the two servers differ in a request", error.what, "ask again"
            ) from error
        except GpumpcError as error:
            task.fail(error)
            if not isinstance(error, WireError):
                with contextlib.suppress(GpumpcError):
                    channel.send_error(error)
            raise  # the channel may be in the middle of a batch: both servers start a new one
        except Exception as error:
            task.fail(unexpected(error))
            raise

    def give_up(self, cause: GpumpcError | None) -> None:
        """Tell the clients of all jobs that wait that nothing comes of them."""
        why = cause.what if cause else f"server {self._party} stops"
        lost = PeerLost(
            "the connection between the two servers has ended before the request's turn came",
            why,
            "see both logs, then ask again: the images are still shared",
        )
        for waiting in self._jobs.pop_older(0.0):
            waiting.fail(lost)


def _one_sided(party: int) -> InputError:
    what = f"the request reached server {party} only"
    return InputError(
        what,
        "the client sent it to one server, or lost its way to the other",
        "send it to both servers",
    )


def unexpected(error: Exception) -> GpumpcError:
    """What a client is told of an error that no one foresaw: nothing of what was computed."""
    return GpumpcError(
        "the server failed", type(error).__name__, "this is a bug: please report what its log says"
    )
