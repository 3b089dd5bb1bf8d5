"""A store whose process is killed, whose disk is full, or that is opened twice."""

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import MissingFile
from gpumpc.store import Store
from tests.store.shares import KIND, ROOT, command, fill, items, keys, python, rows, segments

BEFORE = {
    "the segment is opened": "module.write_private = die",
    "half of the segment is written": """
def half(path, data):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, data[: len(data) // 2])
    die()
module.write_private = half""",
    "the folder is synced": "module.sync_folder = die",
    "the manifest mentions it": "Store._change = die",
    "the rows are entered": """
honest = store._db
class Dying:
    in_transaction = True
    def __getattr__(self, name):
        return die if name == "executemany" else getattr(honest, name)
store._db = Dying()""",
    "the manifest is committed": """
honest = store._db
class Dying:
    def __getattr__(self, name):
        return getattr(honest, name)
    def execute(self, text, *values):
        return die() if text == "COMMIT" else honest.execute(text, *values)
store._db = Dying()""",
}


@pytest.mark.parametrize("when", BEFORE)
def test_kill_9_before_the_commit_keeps_nothing(tmp_path: Path, when: str) -> None:
    """Nothing of the put is stored, all else is, and the next opening removes the rest."""
    with Store(tmp_path, 0) as store:
        fill(store, 3)
        store.put(KIND, keys(2, 3), "owner", rows(2))
        before = segments(tmp_path)
    put = "\nstore.put('feature/plan', keys(4, 10), 'owner', rows(4, seed=2))\n"
    got = python(BEFORE[when] + put, tmp_path)
    assert got.returncode == -signal.SIGKILL, got.stderr
    with Store(tmp_path, 0) as store:
        assert segments(tmp_path) == before and store.verify() == 2
        assert [row.key for row in store.rows(KIND)] == keys(5)
        assert (store.read(KIND, items(keys(3)))[1] == rows(3)).all()
        assert store.put(KIND, keys(4, 10), "owner", rows(4, seed=2)) == 4


def test_kill_9_after_the_commit_keeps_it_pending(tmp_path: Path) -> None:
    """A committed row that was not confirmed is there, but cannot be read."""
    got = python("store.put('feature/plan', keys(4), 'owner', rows(4))\ndie()\n", tmp_path)
    assert got.returncode == -signal.SIGKILL, got.stderr
    with Store(tmp_path, 0) as store:
        assert [row.key for row in store.rows(KIND, "pending")] == keys(4) and store.verify() == 1
        with pytest.raises(MissingFile):
            store.read(KIND, items(keys(1)))
        store.confirm(KIND, keys(4))
        assert (store.read(KIND, items(keys(4)))[1] == rows(4)).all()


@pytest.mark.parametrize("delay_s", [0.02, 0.05, 0.11])
def test_kill_9_at_any_time_keeps_reported_rows(tmp_path: Path, delay_s: float) -> None:
    """Rows that were reported done are there, the others whole or not at all."""
    text = """
for i in range(100000):
    store.put("feature/plan", keys(3, 3 * i), "owner", rows(3, seed=i))
    store.confirm("feature/plan", keys(3, 3 * i))
    print(i, flush=True)
"""
    writer = command(text, tmp_path)
    with subprocess.Popen(writer, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        time.sleep(delay_s)
        process.kill()
        done = [0, *map(int, process.stdout.read().split())]
    with Store(tmp_path, 0) as store:
        store.verify()
        ready, pending = (store.rows(KIND, state) for state in ("ready", "pending"))
        assert len(ready) >= 3 * len(done) and len(ready) % 3 == 0 and len(pending) in (0, 3)
        _, found = store.read(KIND, [row.key.item for row in ready])
        assert (found == np.concatenate([rows(3, seed=i) for i in range(len(ready) // 3)])).all()


def test_kill_9_between_delete_and_unlink_is_cleaned_up(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 3)
    text = "module.Path.unlink = die\nstore.delete([key.item for key in keys(3)])\n"
    assert python(text, tmp_path).returncode == -signal.SIGKILL
    assert len(segments(tmp_path)) == 1
    with Store(tmp_path, 0) as store:
        assert not store.rows(KIND) and not segments(tmp_path) and store.verify() == 0


def test_full_disk_is_reported_and_nothing_kept(tmp_path: Path) -> None:
    """The segment does not fit."""
    text = """
store.put("feature/plan", keys(3), "owner", rows(3))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.put("feature/plan", keys(50, 10), "owner", rows(50, 10_000))
except Exception as error:
    print(type(error).__name__, str(error))
print(len(list(store.folder.glob("*.seg"))), len(store.rows("feature/plan")))
print(store.put("feature/plan", keys(2, 70), "owner", rows(2)))
"""
    got = python(text, tmp_path)
    assert got.stdout.splitlines()[1:] == ["1 3", "2"], got.stdout + got.stderr
    assert got.stdout.startswith("ConfigError")
    assert "free some space" in got.stdout and str(tmp_path) in got.stdout


def test_full_manifest_is_reported_and_nothing_kept(tmp_path: Path) -> None:
    """The segment fits and its entry does not: the write-ahead log is at the limit."""
    text = """
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
done = 0
try:
    for i in range(500):
        store.put("feature/plan", keys(3, 3 * i), "owner", rows(3, seed=i))
        done += 1
except Exception as error:
    print(type(error).__name__, str(error))
print(done)
print(len(list(store.folder.glob("*.seg"))), len(store.rows("feature/plan")))
"""
    got = python(text, tmp_path)
    first, done, counts = got.stdout.splitlines()
    assert first.startswith("ConfigError") and "free disk space" in first, got.stdout + got.stderr
    assert 0 < int(done) < 500 and counts == f"{done} {3 * int(done)}"
    with Store(tmp_path, 0) as store:
        assert store.verify() == int(done) and len(store.rows(KIND, "pending")) == 3 * int(done)


def test_two_processes_cannot_share_a_store(tmp_path: Path) -> None:
    with Store(tmp_path, 0):
        got = python("", tmp_path)
        assert got.returncode == 1
        assert "ConfigError" in got.stderr and "another process holds" in got.stderr
    assert python("", tmp_path).returncode == 0


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    assert python("die()", tmp_path).returncode == -signal.SIGKILL
    Store(tmp_path, 0).close()
