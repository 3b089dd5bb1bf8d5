"""After each job both servers sign what they sent and received, and compare it.

What differs was changed on the way or in memory, or one of them says what is not so. Both servers
see it before a result leaves either. It does not show who computed wrongly: a wrong message that
arrives as it was sent is the same in both records.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from gpumpc import messages as m
from gpumpc.deploy.keys import Card, Identity
from gpumpc.deploy.signatures import sign, verify
from gpumpc.errors import WrongStatement
from gpumpc.server.audit.log import AuditLog, record_digest
from gpumpc.wire.channel import Channel
from gpumpc.wire.transcript import DIGEST_BYTES, Direction, Place, Transcript, total_digest

_HINT = (
    "use no result of this job and ask again; if it happens again, check both machines and the "
    "network between them, and compare both logs (`gpumpc audit log`)"
)
_LENGTH_BYTES = 8

log = logging.getLogger("gpumpc")


class AuditedJob(Protocol):
    """What a record says of a job, beside its messages: see `Job`."""

    client_name: str
    plan: str
    job_id: str
    what: str


class JobAudit:
    """One server's records of jobs, made and compared; for one thread.

    Args:
        peer: the other server's card.
        party: this server's number.
    """

    def __init__(self, identity: Identity, peer: Card, party: int, audit_log: AuditLog) -> None:
        self._identity, self._peer, self.party, self.log = identity, peer, party, audit_log

    def meet(self, channel: Channel) -> None:
        """Take over an entry that the other server has and this one lost: it was killed before it
        wrote, or its state folder is an older copy. So no number of a record is used twice.

        Raises AccessDenied where such an entry is not signed by both, WireError.
        """
        channel.send_control(m.pack(m.LastEntry(self.log.last)))
        theirs, _ = m.unpack(channel.receive_control(channel.patience_s), m.LastEntry)
        if theirs.entry is None or theirs.entry.other.record.number < self._next_number:
            return
        entry = m.Entry(own=theirs.entry.other, other=theirs.entry.own)
        self._verify(self._identity.card, entry.own)
        self._verify(self._peer, entry.other)
        n_missing = entry.own.record.number - self._next_number
        if n_missing:
            log.warning("%d records of jobs are missing in this server's log", n_missing)
        self.log.append(entry)

    def exchange(
        self, channel: Channel, job: AuditedJob, transcripts: Mapping[Place, Transcript]
    ) -> m.Entry:
        """Sign this server's record, and compare the other's with it; the entry to keep.

        Raises WrongStatement naming what differs, AccessDenied for a signature that is not the
        other server's, WireError.
        """
        own = self._signed(job, transcripts)
        channel.send_control(m.pack(own))
        other, _ = m.unpack(channel.receive_control(channel.patience_s), m.SignedRecord)
        self._verify(self._peer, other)
        check_same_job(own.record, other.record)
        if difference := traffic_difference(own.record, other.record):
            where = _first_difference(channel, transcripts) or difference
            raise _differ(own.record.job, where)
        self._check_follows(other.record)
        return m.Entry(own, other)

    @property
    def _next_number(self) -> int:
        return self.log.last.own.record.number + 1 if self.log.last else 0

    def _signed(self, job: AuditedJob, transcripts: Mapping[Place, Transcript]) -> m.SignedRecord:
        last, places = self.log.last, [*transcripts]
        record = m.JobRecord(
            self.party,
            self._next_number,
            record_digest(last.own.record) if last else m.FIRST,
            m.utc_now(),
            job.job_id,
            job.client_name,
            job.plan,
            job.what,
            batch_ranges(places),
            _traffic(places, [transcript.sent for transcript in transcripts.values()]),
            _traffic(places, [transcript.received for transcript in transcripts.values()]),
        )
        signature = sign(self._identity, "job record", m.record_statement(record))
        return m.SignedRecord(record, signature.hex())

    @staticmethod
    def _verify(card: Card, signed: m.SignedRecord) -> None:
        statement = m.record_statement(signed.record)
        verify(card, "job record", statement, bytes.fromhex(signed.signature))

    def _check_follows(self, record: m.JobRecord) -> None:
        """A gap may come from a lost disk: it is told, and `gpumpc audit log` names it."""
        if self.log.last is None:
            return
        last = self.log.last.other.record
        if (record.number, record.previous) != (last.number + 1, record_digest(last)):
            text = "record %d of server %d does not follow on its record %d that is kept here"
            log.warning(text, record.number, record.server, last.number)


def check_same_job(own: m.JobRecord, other: m.JobRecord) -> None:
    """Raises WrongStatement naming the first field in which two records of one job differ."""
    if own.server == other.server:
        raise _differ(own.job, f"both records are of server {own.server}")
    for field in ("job", "user", "plan", "request", "batches"):
        if getattr(own, field) != getattr(other, field):
            raise _differ(own.job, f"their field '{field}' is not the same")


def traffic_difference(own: m.JobRecord, other: m.JobRecord) -> str:
    """What one server sent and the other did not receive so; empty where all arrived."""
    for sender, receiver in ((own, other), (other, own)):
        if sender.sent != receiver.received:
            return (
                f"server {receiver.server} received other messages than server {sender.server} sent"
            )
    return ""


def batch_ranges(places: Sequence[Place]) -> list[m.BatchRange]:
    """Sorted places, with batches of a session that follow each other in one range."""
    ranges = []
    for (session_id, _), run in itertools.groupby(
        enumerate(places), key=lambda at: (at[1][0], at[1][1] - at[0])
    ):
        batches = [batch_index for _, (_, batch_index) in run]
        ranges.append(m.BatchRange(session_id.hex(), batches[0], len(batches)))
    return ranges


def _traffic(places: Sequence[Place], directions: Sequence[Direction]) -> m.Traffic:
    n_messages = sum(direction.n_messages for direction in directions)
    n_bytes = sum(direction.n_bytes for direction in directions)
    return m.Traffic(n_messages, n_bytes, total_digest(places, directions).hex())


def _first_difference(channel: Channel, transcripts: Mapping[Place, Transcript]) -> str:
    """The first message that did not arrive as it was sent, found by both servers together.

    They exchange the digests of their batches, then those of the messages of the first batch that
    differs. Empty where the other server's digests agree, against what it signed.
    """
    both = [(t.sent.digest, t.received.digest) for t in transcripts.values()]
    theirs = _swap(channel, b"".join(sent + received for sent, received in both))
    for i, (place, transcript) in enumerate(transcripts.items()):
        start = 2 * i * DIGEST_BYTES
        if theirs[start : start + 2 * DIGEST_BYTES] != both[i][1] + both[i][0]:
            return _first_message(channel, place, transcript)
    return ""


def _first_message(channel: Channel, place: Place, transcript: Transcript) -> str:
    sent, received = bytes(transcript.sent.digests), bytes(transcript.received.digests)
    theirs = _swap(channel, len(sent).to_bytes(_LENGTH_BYTES, "little") + sent + received)
    n = int.from_bytes(theirs[:_LENGTH_BYTES], "little")
    theirs_sent, theirs_received = theirs[_LENGTH_BYTES:][:n], theirs[_LENGTH_BYTES:][n:]
    for start in range(0, max(len(sent), len(received), n), DIGEST_BYTES):
        message = slice(start, start + DIGEST_BYTES)
        for server, here, there in (
            (channel.party, sent, theirs_received),
            (1 - channel.party, received, theirs_sent),
        ):
            if here[message] != there[message]:
                return (
                    f"message {start // DIGEST_BYTES} from server {server} in batch {place[1]} of "
                    f"session {place[0].hex()[:8]} did not arrive as it was sent"
                )
    return ""


def _swap(channel: Channel, data: bytes) -> bytes:
    channel.send_control(data)
    return channel.receive_control(channel.patience_s)


def _differ(job: str, why: str) -> WrongStatement:
    return WrongStatement(f"the two servers' records of job {job[:8]} differ", why, _HINT)
