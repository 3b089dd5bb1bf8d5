"""Both servers sign and compare what they sent; a message that did not arrive so is named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumpc.deploy.keys import Identity, keygen, load_identity
from gpumpc.errors import AccessDenied, GpumpcError, WrongStatement
from gpumpc.server.audit.exchange import JobAudit, batch_ranges
from gpumpc.server.audit.log import record_digest
from tests.server.signed_records import ROLES, SESSION, Pair, fault, identities_in, job, resigned


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    return identities_in(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def pair(tmp_path: Path, identities: list[Identity]) -> Iterator[Pair]:
    pair = Pair(tmp_path, identities)
    yield pair
    pair.close()


def test_records_say_what_was_done(pair: Pair) -> None:
    pair.meet()
    first, second = pair.run([job(1)] * 2)
    assert (first.own, first.other) == (second.other, second.own)
    record = first.own.record
    assert (record.server, record.number, record.job, record.user) == (0, 0, f"{1:032x}", "user")
    assert [(run.session, run.first, run.n) for run in record.batches] == [(SESSION.hex(), 0, 2)]
    sent, received = record.sent, record.received
    # two batches of 3 rounds, and one message one way
    assert (sent.n_messages, sent.n_bytes, received.n_messages) == (8, 6 * 9 + 2, 6)
    other, _ = pair.run([job(2)] * 2)
    assert other.own.record.previous == record_digest(record) and other.own.record.number == 1
    assert other.own.record.sent == sent  # of this job alone


def test_job_without_openings_is_recorded(pair: Pair) -> None:
    first, second = pair.run([job()] * 2, n_batches=0)
    assert first.own.record.batches == [] and first.own.record.sent.n_messages == 0
    assert first.own == second.other


@pytest.mark.parametrize("number", [0, 2, 4, 7])
@pytest.mark.parametrize("party", [0, 1])
def test_changed_message_is_named_with_its_sender(pair: Pair, party: int, number: int) -> None:
    """Of each batch of 3 rounds, server 1 receives 4 messages and server 0 receives 3."""
    of_batch = 3 + party
    if number >= 2 * of_batch:
        number = 2 * of_batch - 1
    fault(pair.transports[party], number)
    place = (
        f"message {number % of_batch} from server {1 - party} in batch {number // of_batch} of "
        f"session {SESSION.hex()[:8]}"
    )
    for error in pair.run([job()] * 2):
        assert isinstance(error, WrongStatement), error
        assert place in error.why and "did not arrive as it was sent" in error.why and error.hint


@pytest.mark.parametrize("field", ["job_id", "client_name", "plan", "what"])
def test_records_of_different_jobs_are_refused(pair: Pair, field: str) -> None:
    names = {"job_id": "job", "client_name": "user", "plan": "plan", "what": "request"}
    other = {"job_id": "f" * 32, "client_name": "second", "plan": "f" * 64, "what": "user: delete"}
    second = job()
    setattr(second, field, other[field])
    for error in pair.run([job(), second]):
        assert isinstance(error, WrongStatement) and f"field '{names[field]}'" in error.why


def test_server_that_signs_something_else_is_found(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sent what arrived, and signs that it sent something else: no single message differs."""
    signed: Any = JobAudit._signed

    def lying(self: JobAudit, *arguments: object) -> object:
        record = signed(self, *arguments)
        if record.record.server:
            traffic = record.record.sent.__class__(8, 1, "f" * 64)
            return resigned(pair.identities[1], record, sent=traffic)
        return record

    monkeypatch.setattr(JobAudit, "_signed", lying)
    error, _ = pair.run([job()] * 2)
    assert isinstance(error, WrongStatement)
    assert error.why == "server 0 received other messages than server 1 sent"


def test_record_of_a_foreign_key_is_refused(pair: Pair, tmp_path: Path) -> None:
    keygen(tmp_path / "other", ROLES[1], ROLES[1])
    pair.audits[1]._identity = load_identity(tmp_path / "other")
    error, _ = pair.run([job()] * 2)
    assert isinstance(error, AccessDenied) and "for 'job record'" in error.what


def test_killed_server_takes_its_entry_over(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """It was killed after the exchange and before it wrote; no number is used twice."""
    pair.run([job(1)] * 2)
    pair.run([job(2)] * 2)
    [kept] = pair.folders[1].glob("*.log")
    lines = kept.read_bytes().splitlines(keepends=True)
    pair.audits[1].log.close()
    kept.write_bytes(lines[0])
    pair.audits[1] = pair.opened(1)
    pair.connect()
    assert pair.meet() == [None, None] and not caplog.messages
    assert kept.read_bytes() == b"".join(lines)
    first, _ = pair.run([job(3)] * 2)
    assert first.other.record.number == 2 and not caplog.messages
    pair.audits[1].log.close()
    kept.unlink()
    pair.audits[1] = pair.opened(1)
    pair.connect()
    pair.meet()
    assert "2 records of jobs are missing in this server's log" in caplog.text
    first, _ = pair.run([job(4)] * 2)
    assert first.other.record.number == 3


def test_entry_that_is_not_signed_is_not_taken_over(pair: Pair) -> None:
    pair.run([job(1)] * 2)
    last = pair.audits[0].log.last
    assert last is not None
    forged = resigned(pair.identities[0], last.other, number=7)
    pair.audits[0].log.last = last.__class__(last.own, forged)
    errors: list[GpumpcError] = pair.meet()
    assert isinstance(errors[1], AccessDenied)
    assert pair.audits[1].log.last is not None and pair.audits[1]._next_number == 1


def test_record_that_does_not_follow_is_told(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.run([job(1)] * 2)
    pair.audits[1].log.last = None
    first, _ = pair.run([job(2)] * 2)
    assert first.other.record.number == 0
    assert "record 0 of server 1 does not follow on its record 0" in caplog.text


def test_batches_that_follow_each_other_are_one_range() -> None:
    other = b"t" * 16
    places = [(SESSION, 1), (SESSION, 2), (SESSION, 5), (other, 6)]
    runs = [(run.session, run.first, run.n) for run in batch_ranges(places)]
    assert runs == [(SESSION.hex(), 1, 2), (SESSION.hex(), 5, 1), (other.hex(), 6, 1)]
