"""Owner and user: split inputs between the two servers, ask for a run, put the sealed results together."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt

from gpumpc.errors import (
    AccessDenied,
    BadFrame,
    BadValue,
    ConfigError,
    GpumpcError,
    HandshakeMismatch,
    PeerTimeout,
    RevealError,
    ShareError,
)
from gpumpc.nn.compiler import program_of
from gpumpc.nn.evaluate import check_input
from gpumpc.nn.integers import decode_result, encode_input, integer_weights
from gpumpc.nn.plan import Plan, Weights, plan_hash, weight_digest
from gpumpc.nn.weight_shares import split_weights
from gpumpc.retrieval.programs import Metric
from gpumpc.ring.choose import choose_backend
from gpumpc.ring.fixed_point import signed
from gpumpc.roles import messages as m
from gpumpc.roles.config import ClientConfig
from gpumpc.roles.engine import agreed_fields
from gpumpc.roles.keys import load_identity, open_sealed
from gpumpc.roles.remote_index import RemoteIndex
from gpumpc.shares import split
from gpumpc.wire.frames import Frame, Kind
from gpumpc.wire.handshake import compare
from gpumpc.wire.zmq_channel import Requester

Progress = Callable[[int, int], None]
Array = npt.NDArray[np.float64]

ANSWER_S = 5.0
CONNECT_S = 4.0
_TURN_S = 0.05


@dataclasses.dataclass(frozen=True)
class SharedInput:
    """A handle to inputs that the two servers hold as shares."""

    upload: str
    shape: tuple[int, ...]


class SealedResult:
    """Both servers' result shares, sealed to this user. `reveal` is the only door."""

    def __init__(self, open_both: Callable[[], Array], n_items: int) -> None:
        self._open_both, self.n_items = open_both, n_items

    def reveal(self) -> Array:
        """Open both shares and add them. Raises RevealError if anything was changed."""
        return self._open_both()


class Client:
    """A connection to both servers for one plan.

    Args:
        config: endpoints, cards and this party's keys.
        plan: must be one that the servers serve.
        patience_s: how long a server may be silent while it computes.

    Raises AccessDenied, PeerTimeout, HandshakeMismatch naming the differing field.
    """

    def __init__(self, config: ClientConfig, plan: Plan, patience_s: float = 600.0) -> None:
        self.plan, self._patience_s = plan, patience_s
        self._identity = load_identity(config.identity)
        self._backend = choose_backend()
        self._plan = plan_hash(plan).hex()
        self._sequence = 0
        self._servers: list[Requester] = []
        try:
            for party, (endpoint, card) in enumerate(zip(config.server_endpoints, config.server_cards, strict=True)):
                server = Requester(endpoint, self._identity.curve, card.curve_key, peer=f"server {party}")
                self._servers.append(server)
                server.wait_peer(CONNECT_S)
            self.batch = self._check_plan()
        except BaseException:
            self.close()
            raise
        self.program = program_of(plan, self.batch)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End both connections; safe to call twice."""
        for server in self._servers:
            server.close()

    # requests

    def _ask(self, requests: tuple[m.Request, m.Request], bulks: tuple[bytes, bytes] = (b"", b"")) -> int:
        """Send one request to each server; its number, which answers carry."""
        self._sequence += 1
        for server, request, bulk in zip(self._servers, requests, bulks, strict=True):
            server.send(Kind.REQUEST, m.pack(request, bulk), sequence=self._sequence)
        return self._sequence

    def _ask_together(self, request: m.Request, bulks: tuple[bytes, bytes] = (b"", b"")) -> int:
        """A request that both carry out in lock step: server 0 hears of it when server 1 has all of it."""
        self._sequence += 1
        self._servers[1].send(Kind.REQUEST, m.pack(request, bulks[1]), sequence=self._sequence)
        reply, _ = self._answer(1, self._sequence, self._patience_s)
        if not isinstance(reply, m.Queued):
            raise BadFrame("server 1 did not take the request", "", "use the same version everywhere")
        self._servers[0].send(Kind.REQUEST, m.pack(request, bulks[0]), sequence=self._sequence)
        return self._sequence

    def _answer(self, party: int, sequence: int, timeout_s: float) -> tuple[m.Reply, memoryview]:
        """A server's next answer to this request; late answers to earlier ones are dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            frame: Frame = self._servers[party].receive(max(0.0, deadline - time.monotonic()), errors_of=sequence)
            if frame.sequence == sequence:
                return m.unpack(frame.payload, m.Reply)

    def _both_done(self, sequence: int, timeout_s: float) -> None:
        """Wait until both servers say Done, and hear the first that says no."""
        open_parties = {0, 1}
        deadline = time.monotonic() + timeout_s
        while open_parties:
            for party in sorted(open_parties):
                with contextlib.suppress(PeerTimeout):
                    self._answer(party, sequence, _TURN_S)
                    open_parties.discard(party)
            if open_parties and time.monotonic() > deadline:
                raise PeerTimeout(f"server {min(open_parties)} did not answer for {timeout_s:g} s", "", "see its log")

    def status(self) -> tuple[m.Status, m.Status]:
        """What each server says of itself. Raises PeerTimeout, PeerLost."""
        sequence = self._ask((m.AskStatus(), m.AskStatus()))
        first, second = (self._answer(party, sequence, ANSWER_S)[0] for party in (0, 1))
        if not isinstance(first, m.Status) or not isinstance(second, m.Status):
            raise BadFrame("a server answered something else than its status", "", "use the same version everywhere")
        return first, second

    def plan_status(self) -> tuple[m.PlanStatus, m.PlanStatus]:
        """This plan's status at each server. Raises HandshakeMismatch if one does not serve it."""
        found = []
        for status in self.status():
            served = [plan for plan in status.plans if plan.fields["plan"] == self._plan]
            if not served:
                raise self._not_served(status)
            found.append(served[0])
        return found[0], found[1]

    def _not_served(self, status: m.Status) -> HandshakeMismatch:
        """The first field in which this plan differs from the one most like it at a server."""
        peer = f"server {status.party}"
        alike = [plan.fields for plan in status.plans if plan.fields.get("model") == self.plan.name]
        fields = next(iter([*alike, *(plan.fields for plan in status.plans)]), {"model": "none"})
        try:
            compare(agreed_fields(self.plan, program_of(self.plan, int(fields.get("batch size", "1")))), fields, peer)
        except HandshakeMismatch as error:
            return error
        return HandshakeMismatch("plan", self._plan[:16], "another", peer)

    def _check_plan(self) -> int:
        batch = 0
        for party, status in enumerate(self.plan_status()):
            batch = int(status.fields["batch size"])
            compare(agreed_fields(self.plan, program_of(self.plan, batch)), status.fields, f"server {party}")
        return batch

    @property
    def is_ready(self) -> bool:
        """Whether the servers are connected to each other and have the same weight shares and session."""
        first, second = self.plan_status()
        return bool(first.session) and first.session == second.session and self.is_connected

    @property
    def is_connected(self) -> bool:
        """Whether both servers say that they are connected to each other."""
        return all(status.peer_connected for status in self.status())

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until the servers are connected to each other. Raises PeerTimeout."""
        deadline = time.monotonic() + timeout_s
        while not self.is_connected:
            if time.monotonic() > deadline:
                raise PeerTimeout(
                    f"the two servers are not connected to each other after {timeout_s:g} s",
                    "one of them does not run, or their configurations differ",
                    "see both servers' logs",
                )
            time.sleep(0.1)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the servers are connected to each other and have weights. Raises ShareError."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready:
            if time.monotonic() > deadline:
                raise ShareError(
                    f"plan '{self.plan.name}' is not ready at the servers",
                    "its weights are not shared yet, or the servers are not connected to each other",
                    "the model's owner runs `gpumpc share-weights`; see both servers' logs",
                )
            time.sleep(0.1)

    # the model's owner

    def share_weights(self, weights: Weights) -> None:
        """Split the weights between the servers under a fresh share-pair id, and wait until they have opened F.

        Raises BadValue for NaN or for weights that are not those of the plan, before anything is sent.
        """
        sent = split_weights(self.program, integer_weights(self.program, weights), self._backend)
        if weight_digest(weights) != self.plan.weight_digest:
            raise BadValue(
                f"the weights are not those of plan '{self.plan.name}'",
                "their digest differs from the plan's weight_digest",
                "take the weights.safetensors that was compiled together with this plan.json",
            )
        request = m.PutWeights(self._plan, secrets.token_hex(16))
        self._both_done(self._ask_together(request, sent), self._patience_s)

    # owner and user of images

    def share(self, values: npt.ArrayLike) -> SharedInput:
        """Split real inputs (B, *shape): a 32-byte seed to server 0, words to server 1.

        Raises BadShape, BadValue, OutOfRange before anything is sent.
        """
        x = check_input(self.plan.graph.input, values)
        bits = self.program.input.bits
        seed, upload = secrets.token_bytes(32), secrets.token_hex(16)
        words = self._backend.upload(encode_input(self.program, x))
        _, share_1 = split(self._backend, self.plan.params.cipher, seed, words, bits)
        request = m.PutShares(self._plan, upload, len(x))
        self._both_done(self._ask((request, request), (seed, bytes(self._backend.pack(share_1, bits)))), self._patience_s)
        return SharedInput(upload, x.shape)

    def drop(self, shared: SharedInput) -> None:
        """Delete an upload at both servers."""
        self._both_done(self._ask((m.Drop(shared.upload),) * 2), ANSWER_S)

    def run(self, shared: SharedInput, progress: Progress | None = None) -> SealedResult:
        """Evaluate an upload; the result stays sealed until `reveal`. `progress(done, of)` counts batches.

        Raises RemoteError with the server's reason, PeerLost, PeerTimeout: the upload stays where it is.
        """
        job = secrets.token_hex(16)
        sequence = self._ask_together(m.Run(self._plan, job, shared.upload))
        parts = self._collect(job, sequence, progress)
        return SealedResult(lambda: self._reveal(job, parts), shared.shape[0])

    # results that stay at the servers

    def keep(self, shared: SharedInput, items: Sequence[str] | None = None, progress: Progress | None = None) -> list[str]:
        """Evaluate an upload and keep the results there as shares, under these item ids or new random ones.

        An item that is kept already stays as it is. Raises like `run`, and BadShape for another number of ids.
        """
        names = list(items) if items is not None else [secrets.token_hex(16) for _ in range(shared.shape[0])]
        job = secrets.token_hex(16)
        self._until_stored(self._ask_together(m.Keep(self._plan, job, shared.upload, names)), progress, last=m.Stored)
        return names

    def _until_stored(self, sequence: int, progress: Progress | None, last: type[m.Stored] | type[m.Done]) -> None:
        """Hear both servers' progress until each has said the last word."""
        open_parties, heard = {0, 1}, time.monotonic()
        while open_parties:
            for party in sorted(open_parties):
                with contextlib.suppress(PeerTimeout):
                    reply, _ = self._answer(party, sequence, _TURN_S)
                    heard = time.monotonic()
                    if isinstance(reply, m.Stored) and progress and party == 0:
                        progress(reply.part + (last is m.Stored), reply.of)
                    whole = not isinstance(reply, m.Stored) or reply.part + 1 == reply.of
                    if isinstance(reply, last) and whole:
                        open_parties.discard(party)
            if time.monotonic() - heard > self._patience_s:
                raise PeerTimeout(f"no progress for {self._patience_s:g} s", "a server hangs", "see both servers' logs")

    def kept(self) -> list[str]:
        """Items of this user with results at both servers."""
        first, second = self._listed(m.ListKept(self._plan))
        return sorted({*first} & {*second})

    def _listed(self, request: m.ListKept | m.AskIndex) -> tuple[list[str], list[str]]:
        sequence = self._ask((request, request))
        first, second = (self._answer(party, sequence, ANSWER_S)[0] for party in (0, 1))
        if not isinstance(first, m.Kept) or not isinstance(second, m.Kept):
            raise BadFrame("a server sent no list of items", "", "use the same version everywhere")
        return first.items, second.items

    def forget(self, items: Sequence[str]) -> None:
        """Delete items at both servers: their results, and their rows in every index."""
        self._both_done(self._ask((m.Forget(self._plan, list(items)),) * 2), ANSWER_S)

    def index(self, name: str, metric: Metric = "l2") -> RemoteIndex:
        """An index over this plan's results, made if there is none of this name. Raises RemoteError for another metric."""
        self._both_done(self._ask((m.MakeIndex(self._plan, name, metric),) * 2), ANSWER_S)
        return RemoteIndex(self, name, metric)

    def _collect(
        self, job: str, sequence: int, progress: Progress | None
    ) -> tuple[dict[int, tuple[m.Part, bytes]], dict[int, tuple[m.Part, bytes]]]:
        parts: tuple[dict[int, tuple[m.Part, bytes]], dict[int, tuple[m.Part, bytes]]] = ({}, {})
        of, done, heard = 1, 0, time.monotonic()
        while min(len(parts[0]), len(parts[1])) < of:
            for party in (0, 1):
                with contextlib.suppress(PeerTimeout):
                    reply, bulk = self._answer(party, sequence, _TURN_S)
                    if not isinstance(reply, m.Part) or reply.job != job:
                        raise BadFrame(f"server {party} sent no part of this job", "", "use the same version everywhere")
                    parts[party][reply.part] = (reply, bytes(bulk))
                    of, heard = reply.of, time.monotonic()
            if progress and min(map(len, parts)) > done:
                done = min(map(len, parts))
                progress(done, of)
            if time.monotonic() - heard > self._patience_s:
                raise PeerTimeout(f"no result for {self._patience_s:g} s", "a server hangs", "see both servers' logs")
        return parts

    def _reveal(self, job: str, parts: tuple[dict[int, tuple[m.Part, bytes]], dict[int, tuple[m.Part, bytes]]]) -> Array:
        results = []
        for part in range(len(parts[0])):
            shares = [self._open_part(job, party, *parts[party][part]) for party in (0, 1)]
            if shares[0].shape != shares[1].shape:
                raise RevealError("the servers sent results of different sizes", "", "ask for the result again")
            words = self._backend.reduce(shares[0] + shares[1], self.program.result.bits)
            results.append(decode_result(self.program, self._backend.download(words)))
        return np.concatenate(results)

    def _open_keys(
        self,
        job: str,
        parts: tuple[dict[int, tuple[m.Part, bytes]], dict[int, tuple[m.Part, bytes]]],
        part: int,
        shape: tuple[int, ...],
        bits: int,
    ) -> npt.NDArray[np.int64]:
        """Both shares of one part, opened and added, as signed integers (n_items, *shape)."""
        total = None
        for party in (0, 1):
            record, sealed = parts[party][part]
            packed = open_sealed(self._identity, sealed, m.result_aad(self._plan, job, part, party))
            share = self._backend.unpack(memoryview(packed), (record.n_items, *shape), bits)
            total = share if total is None else self._backend.reduce(total + share, bits)
        return signed(np.ascontiguousarray(total), bits)

    def _open_part(self, job: str, party: int, part: m.Part, sealed: bytes) -> npt.NDArray[np.uint64]:
        packed = open_sealed(self._identity, sealed, m.result_aad(self._plan, job, part.part, party))
        value = self.program.result
        words: npt.NDArray[np.uint64] = self._backend.unpack(
            memoryview(packed), (part.n_items, *value.shape[1:]), value.bits
        )
        return words


def connect(config: ClientConfig, plan: Plan, timeout_s: float = CONNECT_S) -> Client:
    """A client, waiting for servers that are still starting. Raises the last error after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return Client(config, plan)
        except (AccessDenied, ConfigError, HandshakeMismatch):
            raise  # waiting would not change it
        except GpumpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
