"""The log of job records: what is appended stays, and what was changed is named."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpumpc import messages as m
from gpumpc.cli.main import app
from gpumpc.deploy.keys import Identity
from gpumpc.errors import ConfigError, MissingFile
from gpumpc.server.audit.check import LogCheck
from gpumpc.server.audit.log import AuditLog, _encoded, read_log
from tests.server.signed_records import Pair, identities_in, job, resigned


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    return identities_in(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def pair(tmp_path: Path, identities: list[Identity]) -> Iterator[Pair]:
    pair = Pair(tmp_path, identities)
    yield pair
    pair.close()


@pytest.fixture
def entries(pair: Pair) -> list[m.Entry]:
    """Server 0's entries of three jobs, which are in its log."""
    return [pair.run([job(i)] * 2)[0] for i in range(3)]


def findings(pair: Pair, folder: Path) -> list[str]:
    check = LogCheck(folder, [identity.card for identity in pair.identities])
    list(check.entries())
    return check.findings


def write(folder: Path, *entries: m.Entry) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "00000001.log").write_bytes(b"".join(map(_encoded, entries)))
    return folder


def test_entries_stay_and_are_private(pair: Pair, entries: list[m.Entry]) -> None:
    folder = pair.folders[0]
    assert [line.entry for line in read_log(folder)] == entries
    assert findings(pair, folder) == findings(pair, pair.folders[1]) == []
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())
    assert AuditLog(folder).last == entries[-1]


@pytest.mark.parametrize("tail", [b"x", b"0123456789abcdef {}\n", bytes(100)])
def test_torn_tail_is_cut_off(pair: Pair, entries: list[m.Entry], tail: bytes) -> None:
    [file] = pair.folders[0].iterdir()
    good = file.read_bytes()
    for torn in (good + tail, good + _encoded(entries[0])[:-1]):
        file.write_bytes(torn)
        log = AuditLog(pair.folders[0])
        assert file.read_bytes() == good and log.last == entries[-1]
        log.close()


def test_files_are_bounded(pair: Pair, entries: list[m.Entry], tmp_path: Path) -> None:
    folder, size = tmp_path / "small", len(_encoded(entries[0]))
    log = AuditLog(folder, file_bytes=2 * size + 20, max_files=2)
    for entry in entries * 3:
        log.append(entry)
    log.close()
    assert sorted(file.name for file in folder.iterdir()) == ["00000004.log", "00000005.log"]
    assert [line.entry for line in read_log(folder)] == entries
    (folder / "00000005.log").write_bytes(b"")
    assert AuditLog(folder).last == entries[1]


def test_full_disk_loses_the_entry_alone(
    entries: list[m.Entry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pair: Pair,
) -> None:
    log, write_all = AuditLog(tmp_path / "full"), os.write
    log.append(entries[0])
    monkeypatch.setattr(os, "write", lambda descriptor, data: write_all(descriptor, data[:10]))
    log.append(entries[1])
    monkeypatch.undo()
    assert "is not kept: the disk is full" in caplog.text and log.last == entries[1]
    log.append(entries[2])
    log.sync()
    log.close()
    log.append(entries[2])  # the process ends meanwhile
    assert [line.entry for line in read_log(tmp_path / "full")] == [entries[0], entries[2]]
    expected = [
        f"record 2 of server {server} comes after its record 0: records are missing, or one is "
        "there twice"
        for server in (0, 1)
    ]
    assert findings(pair, tmp_path / "full") == expected


def test_log_is_made_durable_once_a_second(
    entries: list[m.Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, synced, now = AuditLog(tmp_path / "log"), list[int](), [100.0]
    monkeypatch.setattr("gpumpc.server.audit.log.time.monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fdatasync", synced.append)
    log.sync()
    assert not synced
    for moment, n_syncs in ((100.0, 1), (100.9, 1), (101.1, 2)):
        now[0] = moment
        log.append(entries[0])
        log.sync()
        assert len(synced) == n_syncs
    now[0] = 110.0
    log.sync()
    assert len(synced) == 2
    log.close()


def test_every_change_of_a_log_is_named(pair: Pair, entries: list[m.Entry], tmp_path: Path) -> None:
    first, second, third = entries
    zero, one = pair.identities
    lost = resigned(zero, second.own, received=second.own.record.sent)
    later = resigned(zero, second.own, time="2030-01-01T00:00:00Z")
    bare = m.SignedRecord(second.other.record, "0" * 128)
    other_user = resigned(one, second.other, user="second")
    cases: list[tuple[list[m.Entry], str]] = [
        ([first, m.Entry(second.own, bare), third], "record 1: that of server 1 is not signed"),
        ([first, m.Entry(second.own, other_user)], "record 1: their field 'user' is not the same"),
        ([first, m.Entry(lost, second.other)], "server 0 received other messages than server 1"),
        ([first, m.Entry(later, second.other), third], "record 2 of server 0 does not follow"),
        ([first, third], "record 2 of server 0 comes after its record 0: records are missing"),
        ([first, first], "record 0 of server 0 comes after its record 0"),
        ([first, m.Entry(second.other, second.own)], "in the place of one of server 0"),
    ]
    for changed, expected in cases:
        found = findings(pair, write(tmp_path / "changed", *changed))
        assert any(expected in text for text in found), (expected, found)
    file = write(tmp_path / "changed", *entries) / "00000001.log"
    data = bytearray(file.read_bytes())
    data[len(_encoded(first)) + 40] ^= 1
    file.write_bytes(data)
    assert findings(pair, file.parent)[0] == "00000001.log, line 2 was changed or cut"


def test_log_that_cannot_be_used_is_an_error(pair: Pair, tmp_path: Path) -> None:
    cards = [identity.card for identity in pair.identities]
    with pytest.raises(MissingFile, match="a server's card is missing"):
        LogCheck(pair.folders[0], cards[:1])
    with pytest.raises(MissingFile, match="no log of jobs"):
        LogCheck(tmp_path, cards)
    (tmp_path / "bad" / "00000001.log").mkdir(parents=True)
    (tmp_path / "bad").chmod(0o700)
    with pytest.raises(ConfigError, match="log of jobs in .* cannot be used"):
        AuditLog(tmp_path / "bad")
    with pytest.raises(ConfigError, match="cannot be read"):
        findings(pair, tmp_path / "bad")


def test_command_shows_and_checks_a_log(
    pair: Pair, entries: list[m.Entry], tmp_path: Path, identities: list[Identity]
) -> None:
    def audit(rc: int, *more: object) -> str:
        names = (tmp_path / "card0.toml", tmp_path / "card1.toml")
        for name, identity in zip(names, identities, strict=True):
            fields: dict[str, Any] = {
                field: getattr(identity.card, field) for field in identity.card.__struct_fields__
            }
            name.write_text("".join(f"{key} = '{value}'\n" for key, value in fields.items()))
        cards = ("--card", names[0], "--card", names[1])
        command = [str(word) for word in ("audit", "log", tmp_path, *cards, *more)]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == rc, done.output
        return " ".join(done.output.split())

    write(tmp_path / "audit", *entries)
    text = audit(0, "--last", 2)
    assert "user: run - 2 digest, plan aaaaaaaa, batches 73737373 0..1, sent 8 messages" in text
    assert "3 records: both servers signed each" in text and f"0 {entries[0].own}" not in text
    write(tmp_path / "audit", entries[0], entries[2])
    assert "WrongStatement: 2 of the checks of 2 records failed" in audit(1)
