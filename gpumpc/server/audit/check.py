"""A log of job records, checked by both servers' cards alone: no server, no key."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from gpumpc import messages as m
from gpumpc.deploy.keys import Card
from gpumpc.deploy.signatures import verify
from gpumpc.errors import AccessDenied, MissingFile, WrongStatement
from gpumpc.server.audit.exchange import check_same_job, traffic_difference
from gpumpc.server.audit.log import read_log, record_digest


class LogCheck:
    """Reads a log once, oldest record first, and notes what is wrong with it.

    Args:
        folder: the folder `audit` of a server's state folder, or a copy.
        cards: of both servers.

    Attributes:
        findings: what is wrong, in order, each with its place; complete after `entries`.

    Raises MissingFile without a card of each server, or without a log.
    """

    def __init__(self, folder: Path, cards: Sequence[Card]) -> None:
        self._cards: dict[str, Card] = {card.role: card for card in cards}
        if not {"server0", "server1"} <= {*self._cards}:
            hint = "name both servers' cards, each with --card"
            raise MissingFile("a server's card is missing", "each record is signed by one", hint)
        if not any(folder.glob("[0-9]*.log")):
            hint = "give the folder `state` of a server's configuration"
            raise MissingFile(f"there is no log of jobs in {folder}", "no such file", hint)
        self._folder, self.findings = folder, list[str]()
        self._before: m.Entry | None = None

    def entries(self) -> Iterator[m.Entry]:
        """Every entry that can be read. Raises ConfigError where a file cannot be opened."""
        for line in read_log(self._folder):
            if line.entry is None:
                self.findings.append(f"{line.file.name}, line {line.number} was changed or cut")
                continue
            self.findings += self._wrong(line.entry)
            self._before = line.entry
            yield line.entry

    def _wrong(self, entry: m.Entry) -> Iterator[str]:
        own, other = entry.own.record, entry.other.record
        for signed in (entry.own, entry.other):
            record = signed.record
            place = f"record {own.number}: that of server {record.server}"
            card = self._cards[f"server{record.server}"]
            statement, signature = m.record_statement(record), bytes.fromhex(signed.signature)
            try:
                verify(card, "job record", statement, signature)
            except AccessDenied:
                yield f"{place} is not signed by it"
        try:
            check_same_job(own, other)
        except WrongStatement as error:
            yield f"record {own.number}: {error.why}"
        if difference := traffic_difference(own, other):
            yield f"record {own.number}: {difference}"
        if self._before is not None:
            yield from _gap(self._before.own.record, own)
            yield from _gap(self._before.other.record, other)


def _gap(before: m.JobRecord, record: m.JobRecord) -> Iterator[str]:
    if before.server != record.server:
        yield f"record {record.number}: it is in the place of one of server {before.server}"
    elif record.number != before.number + 1:
        yield (
            f"record {record.number} of server {record.server} comes after its record "
            f"{before.number}: records are missing, or one is there twice"
        )
    elif record.previous != record_digest(before):
        yield (
            f"record {record.number} of server {record.server} does not follow on its record "
            f"{before.number}, which was replaced"
        )
