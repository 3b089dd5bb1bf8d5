"""The ledger: a number is used once, also across crashes, restarts, threads and full disks."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from gpumpc.errors import BadValue, BatchAlreadyUsed, ConfigError, ExposedSecret
from gpumpc.offline.ledger import Ledger
from gpumpc.offline.secret import Secret, private_folder, read_private, write_private

A, B = bytes(range(16)), bytes(16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    head = "import os, sys, signal, resource\nfrom pathlib import Path\n"
    head += "from gpumpc.offline.ledger import Ledger\n"
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def opened(path: Path, *sessions: bytes) -> Ledger:
    ledger = Ledger(path)
    for session_id in sessions:
        ledger.open_session(session_id)
    return ledger


def rows_of(path: Path) -> list[tuple[int, int, str]]:
    """(first, n, state) of every row; while no ledger is open."""
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT first, n, state FROM batches ORDER BY session, first").fetchall()
    db.close()
    return rows


def test_batch_indexes_ascend_and_are_spent_once(path: Path) -> None:
    with opened(path, A, B) as ledger:
        assert ledger.high_water(A) == 0
        ledger.reserve(A, 0)
        ledger.spend(A, 0)
        ledger.reserve(A, 1)
        assert (ledger.high_water(A), ledger.high_water(B)) == (2, 0)
        assert ledger.counts(A) == {"spent": 1, "reserved": 1}
        with pytest.raises(BatchAlreadyUsed, match="cannot be spent"):
            ledger.spend(A, 0)
        for batch_index in (0, 1):
            with pytest.raises(BatchAlreadyUsed, match="the next free number is 2"):
                ledger.reserve(A, batch_index)
        ledger.reserve(B, 0)


def test_skipped_batch_indexes_are_burnt(path: Path) -> None:
    with opened(path, A) as ledger:
        ledger.reserve(A, 10**12)
        assert ledger.counts(A) == {"burnt": 10**12, "reserved": 1}
        for batch_index in (0, 7, 10**12 - 1):
            with pytest.raises(BatchAlreadyUsed):
                ledger.reserve(A, batch_index)
            with pytest.raises(BatchAlreadyUsed):
                ledger.spend(A, batch_index)
        ledger.reserve(A, 10**12 + 1)


def test_burn_keeps_spent_batches_spent(path: Path) -> None:
    with opened(path, A) as ledger:
        for batch_index in (0, 1):
            ledger.reserve(A, batch_index)
        ledger.burn(A, 0)
        ledger.burn(A, 0)
        ledger.spend(A, 1)
        ledger.burn(A, 1)
        assert ledger.counts(A) == {"burnt": 1, "spent": 1}
        with pytest.raises(BatchAlreadyUsed):
            ledger.spend(A, 0)
        with pytest.raises(BatchAlreadyUsed):
            ledger.reserve(A, 0)


@pytest.mark.parametrize("batch_index", [-1, 1 << 62, 1 << 64])
def test_invalid_batch_index_is_refused(path: Path, batch_index: int) -> None:
    with Ledger(path) as ledger, pytest.raises(BadValue):
        ledger.reserve(A, batch_index)


def test_opening_ends_earlier_sessions(path: Path) -> None:
    with opened(path, A) as ledger:
        for batch_index in (0, 1):
            ledger.reserve(A, batch_index)
        ledger.spend(A, 0)
        ledger.reserve_once("lite0/conv1")
    with Ledger(path) as ledger:
        assert ledger.counts(A) == {}
        for batch_index in range(3):
            with pytest.raises(BatchAlreadyUsed, match="the session is not open"):
                ledger.reserve(A, batch_index)
            with pytest.raises(BatchAlreadyUsed, match="cannot be spent"):
                ledger.spend(A, batch_index)
        with pytest.raises(BatchAlreadyUsed, match="lite0/conv1"):
            ledger.reserve_once("lite0/conv1")
        ledger.reserve_once("lite0/conv2")


def test_kill_9_ends_the_session(path: Path) -> None:
    killed = run(
        "ledger = Ledger(Path(sys.argv[1])); ledger.open_session(bytes(16))\n"
        "ledger.reserve(bytes(16), 0); ledger.spend(bytes(16), 0); ledger.reserve(bytes(16), 1)\n"
        "print(ledger.nonce(b'program').hex(), flush=True); os.kill(os.getpid(), signal.SIGKILL)",
        path,
    )
    assert killed.returncode == -signal.SIGKILL
    assert rows_of(path) == [(0, 1, "spent"), (1, 1, "reserved")]
    with Ledger(path) as ledger:
        assert ledger.nonce(b"program").hex() != killed.stdout.strip()
        for batch_index in range(3):
            with pytest.raises(BatchAlreadyUsed, match="the session is not open"):
                ledger.reserve(B, batch_index)
    assert rows_of(path) == []


def test_ended_session_is_refused_and_leaves_no_row(path: Path) -> None:
    with opened(path, A, B) as ledger:
        nonce, other = ledger.nonce(b"program"), ledger.nonce(b"other")
        for session_id in (A, B):
            ledger.reserve(session_id, 0)
        ledger.end_session(b"program", A)
        assert ledger.nonce(b"program") != nonce and ledger.nonce(b"other") == other
        ledger.burn(A, 0)  # comes too late, and harms nothing
        with pytest.raises(BatchAlreadyUsed, match="cannot be spent"):
            ledger.spend(A, 0)
        for batch_index in (0, 1):
            with pytest.raises(BatchAlreadyUsed, match="the session is not open"):
                ledger.reserve(A, batch_index)
        ledger.spend(B, 0)
        assert (ledger.counts(A), ledger.counts(B)) == ({}, {"spent": 1})
    assert rows_of(path) == [(0, 1, "spent")]


def test_session_ends_even_on_a_full_disk(path: Path) -> None:
    with opened(path, A) as ledger:
        ledger.reserve(A, 0)
        nonce, full = ledger.nonce(b"program"), ConfigError("the disk is full")
        with mock.patch.object(ledger, "_change", side_effect=full), pytest.raises(ConfigError):
            ledger.end_session(b"program", A)
        assert ledger.nonce(b"program") != nonce
        with pytest.raises(BatchAlreadyUsed, match="the session is not open"):
            ledger.reserve(A, 1)


def test_session_that_is_agreed_again_goes_on(path: Path) -> None:
    with opened(path, A) as ledger:
        ledger.reserve(A, 0)
        ledger.open_session(A)  # after a lost connection
        with pytest.raises(BatchAlreadyUsed, match="the next free number is 1"):
            ledger.reserve(A, 0)
        ledger.reserve(A, 1)


def test_ledger_stays_small(path: Path) -> None:
    with opened(path, A) as ledger:
        ledger._db.execute("PRAGMA synchronous = OFF")  # 10 seconds less
        for batch_index in range(10_000):
            ledger.reserve(A, batch_index)
            ledger.spend(A, batch_index)
        for number in range(1000):  # as index tasks do
            session_id, program = number.to_bytes(16, "big"), b"task %d" % number
            ledger.nonce(program)
            ledger.open_session(session_id)
            ledger.reserve(session_id, 0)
            ledger.spend(session_id, 0)
            ledger.end_session(program, session_id)
        assert ledger.counts(A) == {"spent": 10_000}
        assert not ledger._nonces and ledger._sessions == {A}
    assert rows_of(path) == [(0, 10_000, "spent")]
    assert path.stat().st_size <= 20 << 10  # empty: 16 KiB


def test_nonces_are_drawn_anew_when_opened_again(path: Path) -> None:
    with Ledger(path) as ledger:
        one, two = ledger.nonce(b"one"), ledger.nonce(b"two")
        assert ledger.nonce(b"one") == one != two
        assert len(one) == 16
    with Ledger(path) as ledger:
        assert ledger.nonce(b"one") not in {one, two}


def test_nonces_long_unused_are_forgotten(path: Path) -> None:
    with Ledger(path) as ledger:
        old, kept = ledger.nonce(b"old"), ledger.nonce(b"kept")
        for number in range(4096):
            ledger.nonce(str(number).encode())
            assert ledger.nonce(b"kept") == kept
        assert ledger.nonce(b"old") != old


def test_batches_that_ended_alike_are_one_row(path: Path) -> None:
    with opened(path, A) as ledger:
        for first in range(0, 30, 3):  # three in flight, which end in another order
            for batch_index in range(first, first + 3):
                ledger.reserve(A, batch_index)
            for batch_index in (first + 1, first, first + 2):
                ledger.spend(A, batch_index)
        ledger.reserve(A, 30)
        ledger.burn(A, 30)
        ledger.reserve(A, 40)
        ledger.spend(A, 40)
        assert ledger.counts(A) == {"spent": 31, "burnt": 10}
        assert ledger.high_water(A) == 41
        for batch_index in (0, 17, 30, 39, 40):
            with pytest.raises(BatchAlreadyUsed):
                ledger.spend(A, batch_index)
            with pytest.raises(BatchAlreadyUsed):
                ledger.reserve(A, batch_index)
    assert rows_of(path) == [(0, 30, "spent"), (30, 1, "burnt"), (31, 9, "burnt"), (40, 1, "spent")]


def test_two_processes_cannot_share_a_ledger(path: Path) -> None:
    with Ledger(path):
        second = run("Ledger(Path(sys.argv[1]))", path)
        assert "ConfigError: The ledger" in second.stderr or "is in use" in second.stderr
        assert second.returncode == 1
        with pytest.raises(ConfigError, match="in use"):
            Ledger(path)
    with Ledger(path) as ledger:
        ledger.close()
        ledger.close()


def test_ledger_files_are_private(path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(path, A) as ledger:
            ledger.reserve(A, 0)
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert len(modes) >= 3 and set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_folder_writable_by_others_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(ExposedSecret, match="chmod 700"):
        Ledger(path)


def test_only_one_thread_gets_a_batch_index(path: Path) -> None:
    def reserve(ledger: Ledger, batch_index: int) -> int:
        try:
            ledger.reserve(A, batch_index)
        except BatchAlreadyUsed:
            return 0
        return 1

    with opened(path, A) as ledger, ThreadPoolExecutor(4) as pool:
        for batch_index in range(5):
            assert sum(pool.map(lambda _, b=batch_index: reserve(ledger, b), range(8))) == 1


def test_full_disk_is_explained_and_leaves_no_partial_write(path: Path) -> None:
    full = run(
        """
from gpumpc.errors import ConfigError
ledger = Ledger(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    for i in range(10**6):
        ledger.reserve_once(f"{i} " + "x" * 5000)
except ConfigError as error:
    print(i, error)
""",
        path,
    )
    assert "free some space on its disk" in full.stdout, full.stderr
    n_written = int(full.stdout.split()[0])
    with Ledger(path) as ledger:
        with pytest.raises(BatchAlreadyUsed):
            ledger.reserve_once(f"{n_written - 1} " + "x" * 5000)
        ledger.reserve_once(f"{n_written} " + "x" * 5000)


def test_damaged_file_and_newer_format_are_refused(path: Path) -> None:
    private_folder(path.parent)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="not a database"):
        Ledger(path)
    path.unlink()
    Ledger(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(ConfigError, match="format is 9"):
        Ledger(path)


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "ledger.db", tmp_path / "file" / "deeper" / "ledger.db"):
        with pytest.raises(ConfigError):
            Ledger(path)


def test_secret_does_not_print() -> None:
    secret = Secret(b"hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {secret.__reduce__.__doc__}"
    assert secret == Secret(b"hunter2") != Secret(b"other")
    assert secret != b"hunter2"
    assert secret.expose() == b"hunter2"
    with pytest.raises(TypeError):
        hash(secret)
    with pytest.raises(TypeError, match="not serialised"):
        secret.__reduce__()


def test_private_files_are_checked_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"abc")
    assert read_private(path) == b"abc"
    with pytest.raises(ConfigError, match="there already"):
        write_private(path, b"def")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ExposedSecret, match=f"chmod 600 {path}"):
            read_private(path)
    with pytest.raises(ConfigError, match="missing"):
        read_private(tmp_path / "none")
