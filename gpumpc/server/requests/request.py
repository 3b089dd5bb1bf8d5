"""The base classes of clients' requests, what they work on, and how they are answered."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from gpumpc import messages as m
from gpumpc.deploy.keys import Card, Identity, seal
from gpumpc.deploy.signatures import sign
from gpumpc.engine.engine import Engine
from gpumpc.errors import BadShape, GpumpcError, HandshakeMismatch
from gpumpc.server.access.budgets import Budgets, Spent
from gpumpc.server.access.checks import Access
from gpumpc.server.access.weight_statements import WeightStatements
from gpumpc.server.dealer_link import DealerLink
from gpumpc.server.index_catalog import IndexCatalog
from gpumpc.server.peer_loop import Job, PeerLoop
from gpumpc.server.share_store import ShareStore
from gpumpc.shares import Additive
from gpumpc.wire.frames import Kind, encode_record
from gpumpc.wire.zmq_channel import Arrival, Listener

ItemJob = m.Settle | m.Delete | m.Run | m.Extract
IndexJob = m.IndexCreate | m.IndexAdd | m.IndexRemove | m.IndexDelete | m.IndexSearch
JointRecord = m.ShareWeights | ItemJob | IndexJob
PlanRecord = JointRecord | m.Share | m.ListItems | m.GetFeatures | m.IndexInfo
# Server 0 gets a request when server 1 has it: the second upload may take so long.
_SAME_REQUEST_S, _SLOWEST_BYTES_PER_S, _LONGEST_S = 3.0, 4096, 600.0
R_co = TypeVar("R_co", bound=m.Request, covariant=True)
J_co = TypeVar("J_co", bound=JointRecord, covariant=True)


@dataclasses.dataclass(frozen=True)
class Resources:
    """What the requests at one server work on.

    Attributes:
        engines: by plan hash.
        dealer_link: None at server 0.
        plan_owners: who may share weights, by plan hash.
        access: who may do what else.
        weight_statements: what the owners signed.
        budgets: what each client has spent today; None where no plan has a budget.
        identity: this server's keys.
        dealer_is_connected: whether the dealer sent something lately.
        task_bytes: how much correlated randomness one batch of a search may take.
    """

    party: int
    engines: Mapping[str, Engine]
    share_store: ShareStore
    indexes: IndexCatalog
    dealer_link: DealerLink | None
    peer_loop: PeerLoop
    task_bytes: int
    dealer_is_connected: Callable[[], bool]
    plan_owners: Mapping[str, Card]
    access: Access
    weight_statements: WeightStatements
    budgets: Budgets | None
    identity: Identity

    def engine_of(self, plan: str) -> Engine:
        """The engine of a plan hash. Raises HandshakeMismatch if this server has none."""
        if plan not in self.engines:
            ours = ", ".join(key[:16] for key in self.engines)
            raise HandshakeMismatch("plan", ours, plan[:16], "the client")
        return self.engines[plan]

    def discard_old_sessions(self) -> None:
        """Delete the corrections of sessions that have ended."""
        if self.dealer_link:
            sessions = [engine.session_id for engine in self.engines.values()]
            self.dealer_link.retain_sessions(sessions)


class ClientLink:
    """The client that sent one request, and the connection back to it."""

    def __init__(self, listener: Listener, arrival: Arrival, card: Card, is_owner: bool) -> None:
        self._listener, self._routing_id = listener, arrival.routing_id
        self._sequence = arrival.frame.sequence
        self.name, self.card, self.is_owner = arrival.peer, card, is_owner

    def reply(self, reply: m.Reply, bulk: bytes = b"") -> None:
        """Send a reply to the request."""
        payload, number = m.pack(reply, bulk), self._sequence
        self._listener.reply(self._routing_id, Kind.REPLY, payload, sequence=number)

    def fail(self, error: GpumpcError) -> None:
        """Tell the client why its request is not carried out."""
        self._listener.reply_error(self._routing_id, error, sequence=self._sequence)


class Request(abc.ABC, Generic[R_co]):
    """One request that has arrived."""

    def __init__(
        self, resources: Resources, client: ClientLink, record: R_co, bulk: memoryview
    ) -> None:
        self.resources, self.share_store = resources, resources.share_store
        self.client, self.record, self.bulk = client, record, bulk

    @property
    def engine(self: Request[PlanRecord]) -> Engine:
        """The engine of the request's plan. Raises HandshakeMismatch if this server has none."""
        return self.resources.engine_of(self.record.plan)

    def check(self) -> None:
        """Raises the reason the request must be refused, where that can be known at once."""

    def reply_last(self, reply: m.Reply, bulk: bytes = b"") -> None:
        """Send the reply that ends the request."""
        self.client.reply(reply, bulk)

    def send_part(
        self: Request[m.Run | m.GetFeatures | m.IndexSearch],
        part: int,
        of: int,
        result: Additive,
        rows: str = "",
    ) -> None:
        """Reply with the result shares of one batch, sealed to the client."""
        plan, job_id = self.record.plan, self.record.job
        packed = bytes(self.share_store.backend.pack(result.words, result.bits))
        aad = m.result_aad(plan, job_id, part, self.resources.party)
        part_record = m.Part(job_id, part, of, len(result.words), rows)
        reply = self.reply_last if part == of - 1 else self.client.reply
        reply(part_record, seal(self.client.card, packed, aad))


class ImmediateRequest(Request[R_co]):
    """A request that one server answers alone, in the listening thread."""

    @abc.abstractmethod
    def answer(self) -> None:
        """Send the answer."""


class JointRequest(Request[J_co], Job):
    """A request that both servers carry out together, in the peer loop's thread."""

    def __init__(
        self, resources: Resources, client: ClientLink, record: J_co, bulk: memoryview
    ) -> None:
        super().__init__(resources, client, record, bulk)
        self.client_name, self.plan = client.name, record.plan
        self.job_id = record.weight_sharing_id if isinstance(record, m.ShareWeights) else record.job
        self.what = f"{client.name}: {self._description()}"
        n_bytes = len(bulk) + len(encode_record(record))
        self.patience_s = min(_SAME_REQUEST_S + n_bytes / _SLOWEST_BYTES_PER_S, _LONGEST_S)

    @abc.abstractmethod
    def _description(self) -> str:
        """A text that the two servers compare; a list of items stands there as `named(items)`."""

    def prepare(self) -> str:
        """See `Job.prepare`."""
        return ""

    def check_budget(self, what: Spent, n: int) -> None:
        """Raises AccessDenied where this is more than the client may ask for today."""
        if self.resources.budgets:
            self.resources.budgets.check(self.client_name, self.engine.plan.name, what, n)

    def spend(self, what: Spent, n: int) -> None:
        """Count what both servers have accepted."""
        if self.resources.budgets:
            self.resources.budgets.spend(self.client_name, self.engine.plan.name, what, n)

    def reply_last(self, reply: m.Reply, bulk: bytes = b"") -> None:
        """Hold the reply back until both servers have compared their records of the job."""
        self._last = reply, bulk

    def conclude(self) -> None:
        """See `Job.conclude`."""
        self.client.reply(*self._last)

    def fail(self, error: GpumpcError) -> None:
        """See `Job.fail`."""
        self.client.fail(error)

    def reply_deleted(self, record: m.DeletionRequest) -> None:
        """Sign and send the receipt of a deletion that this server has carried out."""
        resources, owner = self.resources, self.client.name
        receipt = m.receipt_of(record, resources.party, owner, m.utc_now())
        signature = sign(resources.identity, "receipt", m.receipt_statement(receipt))
        self.reply_last(m.Deleted(receipt, signature.hex()))


def check_items(items: Sequence[str]) -> None:
    """Raises BadShape unless there is an item and each is named once."""
    if not items or len(set(items)) != len(items):
        why = "a row has a name of its own"
        raise BadShape("no item is named, or one is named twice", why, "name each once")


def named(items: Sequence[str]) -> str:
    """Short, and different for every list of items."""
    return f"{len(items)} {hashlib.sha256(','.join(items).encode()).hexdigest()}"
