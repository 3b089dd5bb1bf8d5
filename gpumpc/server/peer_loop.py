"""The thread of a server that walks programs in lock step with the other server.

Server 0 leads: it takes jobs in the order in which they came and orders server 1 to run the same.
Server 1 runs only jobs that it has received itself, so neither server can make the other evaluate
anything. Whatever can fail at one server alone is done before the order is accepted: such a failure
ends this job at both servers, disturbs nobody else and burns no batch. A failure in the middle of a
job ends the connection, as one server may be in the middle of a batch: the servers connect again
and go on with the jobs that wait.
"""

import abc
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from gpumpc import messages as m
from gpumpc.engine.engine import Engine
from gpumpc.errors import (
    BadFrame,
    CorruptStore,
    GpumpcError,
    HandshakeMismatch,
    InputError,
    PeerLost,
    PeerTimeout,
    RemoteError,
    WireError,
)
from gpumpc.server.audit.exchange import JobAudit
from gpumpc.wire.channel import Channel
from gpumpc.wire.handshake import exchange_hello
from gpumpc.wire.multiplexer import Multiplexer, SubChannel
from gpumpc.wire.wait_for_peer import wait_for_peer

# More would only delay other clients, and each waiting job takes memory.
MAX_JOBS_PER_CLIENT = 32
# Jobs wait for so long for a connection that was lost to come back; then they fail.
GRACE_S = 4.0
# Clients ask server 1 first, so an ordered job that is not here arrives at once or never.
_ALREADY_S = 0.5
_ANSWER_S = 30.0  # for server 1 to prepare a request of the largest size
_IDLE_S = 0.2
_IDLE_MESSAGE_S = 1.0
_RECONNECT_S = 0.5

log = logging.getLogger("gpumpc")


class Job(abc.ABC):
    """A request that both servers run together.

    Attributes:
        client_name: the client that sent it.
        plan, job_id, what: must be the same at both servers.
        patience_s: how long it may wait at server 1 for server 0's order.
    """

    client_name: str
    plan: str
    job_id: str
    what: str
    patience_s: float

    @abc.abstractmethod
    def prepare(self) -> str:
        """Do everything that can fail at this server alone; identifies the rows that `run` reads,
        which must be the same at both servers.
        """

    @abc.abstractmethod
    def run(self, channel: SubChannel, first_batch: int) -> None:
        """Run in lock step with the other server."""

    @abc.abstractmethod
    def conclude(self) -> None:
        """Send the last reply: both servers have signed the same account of the job."""

    @abc.abstractmethod
    def fail(self, error: GpumpcError) -> None:
        """Tell the client why its request is not carried out."""


class JobQueue:
    """Jobs in the order in which they came, bounded for each client; for several threads."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[Job, float]] = {}
        self._arrived = threading.Condition()

    def put(self, job: Job) -> None:
        """Add a job. Raises InputError for a waiting id, or if too many of its client's wait."""
        with self._arrived:
            if job.job_id in self._jobs:
                what = f"job {job.job_id[:8]} waits here already"
                raise InputError(what, "a job has a number of its own", "draw a new one")
            n_waiting = sum(
                other.client_name == job.client_name for other, _ in self._jobs.values()
            )
            if n_waiting >= MAX_JOBS_PER_CLIENT:
                raise InputError(
                    f"{job.client_name} has {MAX_JOBS_PER_CLIENT} requests waiting here",
                    "no client may fill the queue",
                    "wait for the earlier ones",
                )
            self._jobs[job.job_id] = (job, time.monotonic())
            self._arrived.notify_all()

    def first(self, timeout_s: float) -> Job | None:
        """Take the oldest job; None if none comes in time."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._jobs, timeout_s)
            return self._jobs.pop(next(iter(self._jobs)))[0] if self._jobs else None

    def pop(self, job_id: str, timeout_s: float) -> Job | None:
        """Take a job by its id; None if it does not come in time."""
        with self._arrived:
            self._arrived.wait_for(lambda: job_id in self._jobs, timeout_s)
            job, _ = self._jobs.pop(job_id, (None, 0.0))
            return job

    def pop_before(self, moment: float) -> list[Job]:
        """Take all jobs that came before a moment of `time.monotonic`."""
        with self._arrived:
            return self._taken(
                [job_id for job_id, (_, since) in self._jobs.items() if since < moment]
            )

    def pop_impatient(self) -> list[Job]:
        """Take all jobs that have waited for longer than their patience."""
        with self._arrived:
            now = time.monotonic()
            return self._taken(
                [
                    job_id
                    for job_id, (job, since) in self._jobs.items()
                    if now - since > job.patience_s
                ]
            )

    def _taken(self, job_ids: list[str]) -> list[Job]:
        return [self._jobs.pop(job_id)[0] for job_id in job_ids]


class PeerLoop:
    """Runs jobs together with the other server; `run` is the body of a thread.

    Args:
        connect: makes a new channel to the other server.
        on_agreement: called with the channel when both servers have agreed, before any job.
        audit: signs, compares and keeps a record of each job.
        stopping: ends `run`, which sets it itself if the other server differs at the first meeting.
        agreed: what else must be the same at both servers, by name.

    Attributes:
        is_connected: whether the other server is connected and agrees.
        fatal: the difference at the first meeting that `run` ended for.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        connect: Callable[[], Channel],
        on_agreement: Callable[[SubChannel], None],
        audit: JobAudit,
        stopping: threading.Event,
        agreed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._party, self._engines, self._jobs = audit.party, engines, JobQueue()
        self._connect, self._on_agreement, self.stopping = connect, on_agreement, stopping
        self._audit, self._agreed = audit, agreed
        self.is_connected = False
        self.fatal: GpumpcError | None = None
        self._process, self._peer_process = secrets.token_hex(16), ""
        self._mismatch: HandshakeMismatch | None = None
        self._lost_at = -GRACE_S
        self._idle_sent_at = 0.0

    def submit(self, job: Job) -> None:
        """Queue a job; from any thread.

        Raises InputError, HandshakeMismatch while the servers differ, and PeerLost if the other
        server has not been connected for some seconds.
        """
        self._jobs.put(job)
        # Checked after `put`: a connection that stays away fails it here or in `_fail_before`.
        if not self.is_connected and not self._may_come_back():
            self._jobs.pop(job.job_id, 0.0)
            raise self._mismatch or self._lost()

    def run(self) -> None:
        """Connect, agree and run jobs until `stopping` is set; reconnect when disconnected."""
        while not self.stopping.is_set():
            try:
                self._run_connection()
            except HandshakeMismatch as error:
                log.error("%s", error)
                self._mismatch = error
                if not self._peer_process:
                    # They have never agreed: the configuration of one is wrong. A server that was
                    # in service goes on: the other one was started again with something else.
                    self.fatal = error
                    self.stopping.set()
            except GpumpcError as error:
                log.warning("%s", error)
            except Exception:  # such as for want of memory: the server goes on
                if not self.stopping.is_set():  # else its files were closed meanwhile
                    log.exception("the connection to server %d failed", 1 - self._party)
            self._fail_after_grace()
            self.stopping.wait(_RECONNECT_S)
        self._fail_before(time.monotonic(), self._lost())

    def _run_connection(self) -> None:
        with contextlib.closing(self._connect()) as connection:

            def wait_peer(timeout_s: float) -> None:
                self._fail_after_grace()
                connection.wait_peer(timeout_s)

            if not wait_for_peer(wait_peer, self.stopping, connects=self._party == 1):
                return
            channel = Multiplexer(connection).first
            self._agree(channel)
            self.is_connected, self._mismatch = True, None
            log.info("server %d is connected to server %d and agrees", self._party, 1 - self._party)
            take_turn = self._lead if self._party == 0 else self._follow
            try:
                while not self.stopping.is_set():
                    take_turn(channel)
                    self._audit.log.sync()
            finally:
                # Closing takes a moment.
                self._lost_at, self.is_connected = time.monotonic(), False

    def _agree(self, channel: SubChannel) -> None:
        equal = {"number of plans": str(len(self._engines)), **self._agreed}
        theirs = exchange_hello(channel, equal=equal, informative={"process": self._process})
        for engine in self._engines.values():
            engine.agree(channel)
        self._audit.meet(channel)
        self._on_agreement(channel)
        process = theirs.get("process", "")
        if self._peer_process and process != self._peer_process:
            # The other server was started again: it does not have the jobs that waited before.
            self._fail_before(self._lost_at, self._lost())
        self._peer_process = process

    def _lead(self, channel: SubChannel) -> None:
        job = self._jobs.first(_IDLE_S)
        if job is None:
            self._send_idle(channel)
            return
        try:
            state = self._prepare(job)
        except GpumpcError as error:
            job.fail(error)
            record = type(error).__name__, error.what, error.why, error.hint
            channel.send_control(m.pack(m.Withdraw(job.job_id, *record)))
            return
        first_batch = self._engines[job.plan].next_batch
        try:
            channel.send_control(
                m.pack(m.Order(job.plan, job.job_id, job.what, state, first_batch))
            )
            answer, _ = m.unpack(channel.receive_control(_ANSWER_S), m.Control)
        except GpumpcError as error:
            job.fail(error)
            raise
        if isinstance(answer, m.Refuse):
            job.fail(RemoteError(f"server 1 refuses: {answer.what}", answer.why, answer.hint))
        elif isinstance(answer, m.Accept) and answer.job == job.job_id:
            self._carry_out(channel, job, first_batch)
        else:
            wrong = BadFrame("server 1 answered another order", hint="restart both servers")
            job.fail(wrong)
            raise wrong

    def _send_idle(self, channel: SubChannel) -> None:
        if time.monotonic() - self._idle_sent_at > _IDLE_MESSAGE_S:
            self._idle_sent_at = time.monotonic()
            channel.send_control(m.pack(m.Idle()))
        with contextlib.suppress(PeerTimeout):
            channel.receive_control(0.0)  # raises PeerLost as soon as server 1 is gone
            raise BadFrame("server 1 answered without an order", hint="restart both servers")

    def _follow(self, channel: SubChannel) -> None:
        try:
            order, _ = m.unpack(channel.receive_control(_IDLE_S), m.Control)
        except PeerTimeout:
            return
        if isinstance(order, m.Idle):
            for waiting in self._jobs.pop_impatient():
                waiting.fail(_one_sided(1))
        elif isinstance(order, m.Withdraw):
            if job := self._jobs.pop(order.job, _ALREADY_S):
                what = f"server 0 refuses: {order.what}"
                job.fail(RemoteError(what, order.why, order.hint))
        elif isinstance(order, m.Order):
            self._answer(channel, order)
        else:
            raise BadFrame("server 0 sent no order", hint="restart both servers")

    def _answer(self, channel: SubChannel, order: m.Order) -> None:
        job = self._jobs.pop(order.job, _ALREADY_S)
        try:
            if job is None:
                raise _one_sided(0)
            if (job.plan, job.what) != (order.plan, order.what):
                what = "the two servers were given different requests"
                raise InputError(what, hint="send the same to both servers")
            if self._prepare(job) != order.state:
                what = "the two servers hold different rows for this request"
                why = "one of the stores is behind, or their `task_limit` differs"
                hint = "restart the servers: they compare their stores when they meet; ask again"
                raise CorruptStore(what, why, hint)
        except GpumpcError as error:
            refusal = m.Refuse(type(error).__name__, error.what, error.why, error.hint)
            channel.send_control(m.pack(refusal))
            if job is not None:
                job.fail(error)
            return
        channel.send_control(m.pack(m.Accept(job.job_id)))
        self._carry_out(channel, job, order.first_batch)

    def _prepare(self, job: Job) -> str:
        try:
            return job.prepare()
        except GpumpcError as error:
            log.warning("%s: %s", job.client_name, error)
            raise
        except Exception as error:
            # Only this request fails, such as for want of memory; the server goes on.
            log.exception("a request of %s failed", job.client_name)
            raise unexpected(error) from error

    def _carry_out(self, channel: SubChannel, job: Job, first_batch: int) -> None:
        try:
            job.run(channel, first_batch)
            transcripts = channel.multiplexer.take_transcripts()
            entry = self._audit.exchange(channel, job, transcripts)
            # Written first: a server that is killed between the two has the record of a result
            # that left it.
            self._audit.log.append(entry)
            job.conclude()
        except HandshakeMismatch as error:
            # The servers agree on their plans; the difference concerns this request alone.
            job.fail(error)
            what = "the two servers differ in a request"
            raise BadFrame(what, error.what, "ask again") from error
        except GpumpcError as error:
            job.fail(error)
            if not isinstance(error, WireError):
                with contextlib.suppress(GpumpcError):
                    channel.send_error(error)
            raise  # the channel may be in the middle of a batch: both servers start a new one
        except Exception as error:
            if not self.stopping.is_set():  # else its files were closed meanwhile
                log.exception("a request of %s failed", job.client_name)
            job.fail(unexpected(error))
            raise unexpected(error) from error

    # jobs that wait while the other server is away

    def _may_come_back(self) -> bool:
        return time.monotonic() - self._lost_at < GRACE_S and not self.stopping.is_set()

    def _fail_after_grace(self) -> None:
        if not self._may_come_back():
            self._fail_before(time.monotonic(), self._mismatch or self._lost())

    def _fail_before(self, moment: float, error: GpumpcError) -> None:
        for waiting in self._jobs.pop_before(moment):
            waiting.fail(error)

    def _lost(self) -> PeerLost:
        """The error of a job that waits in vain; it says nothing of other clients' jobs."""
        what = f"server {self._party} is not connected to server {1 - self._party}"
        why = "the other server does not run, is starting, or their configurations differ"
        return PeerLost(what, why, "start it, see both logs, then ask again: nothing was lost")


def _one_sided(party: int) -> InputError:
    why = "the client sent it to one server, or the connection to the other was lost"
    return InputError(f"the request reached server {party} only", why, "send it to both servers")


def unexpected(error: Exception) -> GpumpcError:
    """The error that a client sees after a bug: it says nothing of the data."""
    hint = "this is a bug: please report what its log says"
    return GpumpcError("the server failed", type(error).__name__, hint)
