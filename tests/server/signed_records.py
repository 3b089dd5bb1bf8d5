"""Two servers' audits over an in-memory connection, and faults in it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from gpumpc import messages as m
from gpumpc.deploy.keys import Identity, Role, keygen, load_identity
from gpumpc.server.audit.exchange import JobAudit
from gpumpc.server.audit.log import AuditLog
from gpumpc.wire.channel import memory_pair
from gpumpc.wire.frames import Frame, Kind
from gpumpc.wire.multiplexer import Multiplexer

SESSION = b"s" * 16
ROLES: tuple[Role, Role] = ("server0", "server1")


def job(number: int = 0) -> Any:
    known = {"client_name": "user", "plan": "a" * 64, "job_id": f"{number:032x}"}
    return SimpleNamespace(**known, what="user: run - 2 digest")


def identities_in(folder: Path) -> list[Identity]:
    for role in ROLES:
        keygen(folder / role, role, role)
    return [load_identity(folder / role) for role in ROLES]


def fault(transport: Any, number: int) -> None:
    """Change one byte of the opening with this number, from 0, as it arrives."""
    get, seen = transport.get, [0]

    def changed(timeout_s: float) -> Frame:
        frame: Frame = get(timeout_s)
        if frame.kind is Kind.OPENING:
            seen[0] += 1
            if seen[0] == number + 1:
                payload = bytearray(frame.payload)
                payload[-1] ^= 1
                place = frame.session, frame.batch_index, frame.sequence
                return Frame(frame.kind, memoryview(payload), *place)
        return frame

    transport.get = changed


class Pair:
    """Both servers' audits, with logs in two folders of `folder`."""

    def __init__(self, folder: Path, identities: Sequence[Identity]) -> None:
        self.identities = identities
        self.folders = [folder / "log0", folder / "log1"]
        self.audits: list[JobAudit] = []
        self.transports: list[Any] = []
        for party in (0, 1):
            self.audits.append(self.opened(party))
        self.connect()

    def opened(self, party: int) -> JobAudit:
        """A server's audit after a start of its process."""
        peer = self.identities[1 - party].card
        log = AuditLog(self.folders[party])
        return JobAudit(self.identities[party], peer, party, log)

    def connect(self) -> None:
        """A new connection."""
        channels = memory_pair(5.0)
        self.transports = [channel.transport for channel in channels]
        self.ends = [Multiplexer(channel) for channel in channels]

    def both(self, work: Callable[[int], Any]) -> list[Any]:
        """What a function of the party returns or raises at each server, side by side."""
        with ThreadPoolExecutor(2) as threads:
            futures = [threads.submit(work, party) for party in (0, 1)]
        return [future.exception() or future.result() for future in futures]

    def run(self, jobs: Sequence[Any], n_batches: int = 2, n_rounds: int = 3) -> list[Any]:
        """One job with so many batches of so many rounds: the entries, or what was raised."""

        def carry_out(party: int) -> m.Entry:
            end = self.ends[party]
            for batch in range(n_batches):
                end.first.begin(SESSION, batch)
                for i in range(n_rounds):
                    end.first.exchange([b"from", f"{party} {batch} {i}".encode()])
                end.first.send([b"1"]) if party == 0 else end.first.receive()
            audit = self.audits[party]
            entry = audit.exchange(end.first, jobs[party], end.take_transcripts())
            audit.log.append(entry)
            return entry

        return self.both(carry_out)

    def meet(self) -> list[Any]:
        """Both servers meet."""
        return self.both(lambda party: self.audits[party].meet(self.ends[party].first))

    def close(self) -> None:
        for audit in self.audits:
            audit.log.close()


def resigned(identity: Identity, signed: m.SignedRecord, **fields: Any) -> m.SignedRecord:
    """A record with other fields, signed again by a server that says so."""
    from gpumpc.deploy.signatures import sign

    record = msgspec.structs.replace(signed.record, **fields)
    signature = sign(identity, "job record", m.record_statement(record))
    return m.SignedRecord(record, signature.hex())
