"""A client's connection to both servers: numbered requests, answers and sealed results."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from gpumpc import messages as m
from gpumpc.client.deletions import Deletion, accepted
from gpumpc.deploy.config import ClientConfig
from gpumpc.deploy.keys import load_identity, open_sealed
from gpumpc.errors import BadFrame, PeerTimeout, RevealError
from gpumpc.ring.choose import choose_backend
from gpumpc.ring.values import Words
from gpumpc.wire.frames import Frame, Kind
from gpumpc.wire.zmq_channel import Requester

Progress = Callable[[int, int], None]
Parts = tuple[dict[int, tuple[m.Part, bytes]], dict[int, tuple[m.Part, bytes]]]
RowLists = dict[int, tuple[m.IndexRows, bytes]]

ANSWER_S = 5.0
CONNECT_S = 4.0
# A record names so many items at most.
ITEMS_PER_REQUEST = 4096
_TURN_S = 0.05

T = TypeVar("T", bound=m.Reply)


class Connection:
    """Both servers, as one party sees them.

    Args:
        config: endpoints, cards and this party's keys.
        patience_s: how long a server may be silent while it computes.

    Attributes:
        owner: who must have signed the weights that are used; None: not checked.

    Raises AccessDenied, PeerTimeout.
    """

    def __init__(self, config: ClientConfig, patience_s: float) -> None:
        # A client draws, adds and packs: loading compiled loops would take longer than all of it.
        self.patience_s, self.backend = patience_s, choose_backend("numpy")
        self._identity, self.owner = load_identity(config.identity), config.owner
        self.server_cards = config.server_cards
        self._sequence = 0
        self._servers: list[Requester] = []
        try:
            for party, (endpoint, card) in enumerate(
                zip(config.server_endpoints, config.server_cards, strict=True)
            ):
                server = Requester(
                    endpoint, self._identity.curve, card.curve_key, peer=f"server {party}"
                )
                self._servers.append(server)
                server.wait_peer(CONNECT_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End both connections; safe to call twice."""
        for server in self._servers:
            server.close()

    def status(self) -> tuple[m.Status, m.Status]:
        """Each server's status. Raises PeerTimeout, PeerLost."""
        (first, _), (second, _) = self.both(m.GetStatus(), m.Status)
        return first, second

    def store_status(self) -> tuple[m.StoreStatus, m.StoreStatus]:
        """How much each server holds of this user's. Raises PeerTimeout."""
        (first, _), (second, _) = self.both(m.GetStoreStatus(), m.StoreStatus)
        return first, second

    @property
    def is_connected(self) -> bool:
        """Whether both servers say that they are connected to each other."""
        return all(status.peer_connected for status in self.status())

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until the servers are connected to each other. Raises PeerTimeout."""
        deadline = time.monotonic() + timeout_s
        while not self.is_connected:
            if time.monotonic() > deadline:
                what = f"the two servers are not connected to each other after {timeout_s:g} s"
                why = "one of them does not run, or their configurations differ"
                raise PeerTimeout(what, why, "see both servers' logs")
            time.sleep(0.1)

    # requests and answers

    def ask(
        self, requests: tuple[m.Request, m.Request], bulks: tuple[bytes, bytes] = (b"", b"")
    ) -> int:
        """Send one request to each server; its number, which answers carry."""
        self._sequence += 1
        for server, request, bulk in zip(self._servers, requests, bulks, strict=True):
            server.send(Kind.REQUEST, m.pack(request, bulk), sequence=self._sequence)
        return self._sequence

    def ask_together(self, request: m.Request, bulks: tuple[bytes, bytes] = (b"", b"")) -> int:
        """Send a request that both run in lock step: server 0 gets it when server 1 has it."""
        self._sequence += 1
        self._servers[1].send(Kind.REQUEST, m.pack(request, bulks[1]), sequence=self._sequence)
        reply, _ = self.answer(1, self._sequence, self.patience_s)
        if not isinstance(reply, m.Queued):
            raise BadFrame("server 1 did not take the request", hint="use one version everywhere")
        self._servers[0].send(Kind.REQUEST, m.pack(request, bulks[0]), sequence=self._sequence)
        return self._sequence

    def done_together(self, request: m.Request, bulks: tuple[bytes, bytes] = (b"", b"")) -> None:
        """Have both servers carry out a request in lock step. Raises the first refusal."""
        self.both_done(self.ask_together(request, bulks), self.patience_s)

    def answer(self, party: int, sequence: int, timeout_s: float) -> tuple[m.Reply, memoryview]:
        """A server's next answer to this request; late answers to earlier ones are dropped."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            frame: Frame = self._servers[party].receive(left_s, errors_of=sequence)
            if frame.sequence == sequence:
                return m.unpack(frame.payload, m.Reply)

    def answers(
        self, sequence: int, waiting: set[int], timeout_s: float
    ) -> Iterator[tuple[int, m.Reply, memoryview]]:
        """Answers of the parties in `waiting` as they come, until the caller has emptied it.

        Raises PeerTimeout after `timeout_s` of silence, and the first refusal.
        """
        heard = time.monotonic()
        while waiting:
            for party in sorted(waiting):
                with contextlib.suppress(PeerTimeout):
                    reply, bulk = self.answer(party, sequence, _TURN_S)
                    heard = time.monotonic()
                    yield party, reply, bulk
            if waiting and time.monotonic() - heard > timeout_s:
                what = f"server {min(waiting)} did not answer for {timeout_s:g} s"
                why = "it hangs, or waits for the other server"
                raise PeerTimeout(what, why, "see both servers' logs")

    def both_done(self, sequence: int, timeout_s: float) -> None:
        """Wait until both servers have answered. Raises the first refusal, PeerTimeout."""
        waiting = {0, 1}
        for party, _, _ in self.answers(sequence, waiting, timeout_s):
            waiting.discard(party)

    def both(
        self, request: m.Request, kind: type[T]
    ) -> tuple[tuple[T, memoryview], tuple[T, memoryview]]:
        """Both servers' answers to one request, which must be of this kind, with their bulk."""
        sequence = self.ask((request, request))
        first, second = (self.answer(party, sequence, ANSWER_S) for party in (0, 1))
        if not isinstance(first[0], kind) or not isinstance(second[0], kind):
            raise BadFrame("an answer is of another kind", hint="use one version everywhere")
        return (first[0], first[1]), (second[0], second[1])

    def listed(self, request: m.ListItems | m.IndexInfo) -> tuple[list[str], list[str]]:
        """Items as each server lists them."""
        first, second = self.both(request, m.ItemList)
        return m.unpack_items(first[1]), m.unpack_items(second[1])

    def deleted_together(self, request: m.DeletionRequest) -> Deletion:
        """Have both servers delete in lock step; what both signed, verified.

        Raises the first refusal; AccessDenied for a signature that is not that server's, and
        WrongStatement for a receipt of something else: both servers then say that they deleted.
        """
        sequence, replies = self.ask_together(request), dict[int, m.Deleted]()
        waiting = {0, 1}
        for party, reply, _ in self.answers(sequence, waiting, self.patience_s):
            if not isinstance(reply, m.Deleted):
                what = f"server {party} sent no receipt of a deletion"
                raise BadFrame(what, hint="use one version everywhere")
            replies[party] = reply
            waiting.discard(party)
        both = replies[0], replies[1]
        return accepted(request, self._identity.card.name, both, self.server_cards)

    def until_done(self, sequence: int, progress: Progress | None) -> None:
        """Report server 0's progress until both servers say Done."""
        waiting = {0, 1}
        for party, reply, _ in self.answers(sequence, waiting, self.patience_s):
            if isinstance(reply, m.Progress) and progress and party == 0:
                progress(reply.part + 1, reply.of)
            if isinstance(reply, m.Done):
                waiting.discard(party)

    # sealed results

    def collect(
        self,
        job: str,
        sequence: int,
        progress: Progress | None = None,
        row_lists: RowLists | None = None,
    ) -> Parts:
        """Every part of a job from both servers. Raises PeerTimeout, BadFrame.

        Args:
            row_lists: filled with each server's rows, by party; None: the job has none.
        """
        parts: Parts = ({}, {})
        waiting, done = {0, 1}, 0
        for party, reply, bulk in self.answers(sequence, waiting, self.patience_s):
            if row_lists is not None and isinstance(reply, m.IndexRows) and reply.job == job:
                row_lists[party] = (reply, bytes(bulk))
                continue
            if not isinstance(reply, m.Part) or reply.job != job:
                raise BadFrame(
                    f"server {party} sent something else than a part of this job",
                    hint="use one version everywhere",
                )
            parts[party][reply.part] = (reply, bytes(bulk))
            if len(parts[party]) >= reply.of:
                waiting.discard(party)
            if progress and min(map(len, parts)) > done:
                done = min(map(len, parts))
                progress(done, reply.of)
        return parts

    def opened(
        self, plan: str, job: str, parts: Parts, shape: tuple[int, ...], bits: int
    ) -> npt.NDArray[np.uint64]:
        """Both shares of every part, added modulo 2^bits: (n_items, *shape). Raises RevealError."""
        numbers = range(len(parts[0]))
        return np.concatenate([self._opened(plan, job, parts, n, shape, bits) for n in numbers])

    def _opened(
        self, plan: str, job: str, parts: Parts, part: int, shape: tuple[int, ...], bits: int
    ) -> npt.NDArray[np.uint64]:
        records = [parts[party][part][0] for party in (0, 1)]
        if (records[0].n_items, records[0].rows) != (records[1].n_items, records[1].rows):
            what = "the servers sent results that do not belong together"
            raise RevealError(what, "one of them lost or changed rows", "extract these items again")
        shares: list[Words] = []
        for party in (0, 1):
            aad = m.result_aad(plan, job, part, party)
            packed = open_sealed(self._identity, parts[party][part][1], aad)
            wanted = (records[party].n_items, *shape)
            shares.append(self.backend.unpack(memoryview(packed), wanted, bits))
        total = self.backend.reduce(shares[0] + shares[1], bits)
        return np.ascontiguousarray(self.backend.download(total))
