"""What a store does when things go wrong: killed, full, damaged, opened twice, or asked by many
threads at once.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import (
    BadFrame,
    ConfigError,
    CorruptStore,
    ExposedSecret,
    InputError,
    MissingFile,
)
from gpumpc.store import RowKey, Store
from gpumpc.store.rows import Matrix

ROOT = Path(__file__).resolve().parents[2]
KIND = "feature/plan"


def keys(n: int, start: int = 0, version: str = "v1") -> list[RowKey]:
    return [RowKey(f"item{i:05}", version) for i in range(start, start + n)]


def items(names: list[RowKey]) -> list[str]:
    return [key.item for key in names]


def rows(n: int, size: int = 16, seed: int = 1) -> Matrix:
    return np.random.default_rng(seed).integers(0, 256, (n, size), dtype=np.uint8)


def fill(store: Store, n: int, start: int = 0, seed: int = 1) -> None:
    store.put(KIND, keys(n, start), "owner", rows(n, seed=seed))
    store.confirm(KIND, keys(n, start))


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.seg"))


def python(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, in the repository."""
    command = [sys.executable, "-c", PRELUDE + text, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


PRELUDE = """
import os, resource, signal, sys
import numpy as np
from gpumpc.store import RowKey, Store, rows as module
def keys(n, start=0, version="v1"):
    return [RowKey(f"item{i:05}", version) for i in range(start, start + n)]
def data(n, size=16, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (n, size), dtype=np.uint8)
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
store = Store(sys.argv[1], 0)
"""


# kill -9


BEFORE = {
    "the segment is opened": "module.write_private = die",
    "half of the segment is written": """
def half(path, data):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(descriptor, data[: len(data) // 2])
    die()
module.write_private = half""",
    "the folder is synced": "module.sync_folder = die",
    "the manifest mentions it": "Store._enter = die",
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
def test_kill_9_before(tmp_path: Path, when: str) -> None:
    """Nothing of the put is kept, nothing else is lost, and the next opening removes what it
    left.
    """
    with Store(tmp_path, 0) as store:
        fill(store, 3)
        store.put(KIND, keys(2, 3), "owner", rows(2))
        before = segments(tmp_path)
    got = python(
        BEFORE[when] + "\nstore.put('feature/plan', keys(4, 10), 'owner', data(4, seed=2))\n",
        tmp_path,
    )
    assert got.returncode == -signal.SIGKILL, got.stderr
    with Store(tmp_path, 0) as store:
        assert segments(tmp_path) == before and store.verify() == 2
        assert [row.key for row in store.rows(KIND)] == keys(5)
        assert (store.read(KIND, items(keys(3)))[1] == rows(3)).all()
        assert store.put(KIND, keys(4, 10), "owner", rows(4, seed=2)) == 4


def test_kill_9_after_the_commit_keeps_it_pending(tmp_path: Path) -> None:
    """What one server put down and nobody confirmed is there, but not to be used."""
    got = python("store.put('feature/plan', keys(4), 'owner', data(4))\ndie()\n", tmp_path)
    assert got.returncode == -signal.SIGKILL, got.stderr
    with Store(tmp_path, 0) as store:
        assert [row.key for row in store.rows(KIND, "pending")] == keys(4) and store.verify() == 1
        with pytest.raises(MissingFile):
            store.read(KIND, items(keys(1)))
        store.confirm(KIND, keys(4))
        assert (store.read(KIND, items(keys(4)))[1] == rows(4)).all()


@pytest.mark.parametrize("delay_s", [0.02, 0.05, 0.11])
def test_kill_9_at_any_time(tmp_path: Path, delay_s: float) -> None:
    """Puts and confirms as fast as they go; what was reported done is there, the rest whole or not
    at all.
    """
    text = """
for i in range(100000):
    store.put("feature/plan", keys(3, 3 * i), "owner", data(3, seed=i))
    store.confirm("feature/plan", keys(3, 3 * i))
    print(i, flush=True)
"""
    command = [sys.executable, "-c", PRELUDE + text, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
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


def test_kill_9_between_forgetting_and_unlinking(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 3)
    text = "module.Path.unlink = die\nstore.delete([key.item for key in keys(3)])\n"
    assert python(text, tmp_path).returncode == -signal.SIGKILL
    assert len(segments(tmp_path)) == 1
    with Store(tmp_path, 0) as store:
        assert not store.rows(KIND) and not segments(tmp_path) and store.verify() == 0


# full


def test_a_full_disk_is_told_and_nothing_is_kept(tmp_path: Path) -> None:
    """The segment does not fit."""
    text = """
store.put("feature/plan", keys(3), "owner", data(3))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.put("feature/plan", keys(50, 10), "owner", data(50, 10_000))
except Exception as error:
    print(type(error).__name__, str(error))
print(len(list(store.folder.glob("*.seg"))), len(store.rows("feature/plan")))
print(store.put("feature/plan", keys(2, 70), "owner", data(2)))
"""
    got = python(text, tmp_path)
    assert got.stdout.splitlines()[1:] == ["1 3", "2"], got.stdout + got.stderr
    assert (
        got.stdout.startswith("ConfigError")
        and "free some space" in got.stdout
        and str(tmp_path) in got.stdout
    )


def test_a_manifest_that_cannot_grow_is_told_and_nothing_is_kept(tmp_path: Path) -> None:
    """The segment fits and its entry does not: the write-ahead log is at the limit."""
    text = """
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
done = 0
try:
    for i in range(500):
        store.put("feature/plan", keys(3, 3 * i), "owner", data(3, seed=i))
        done += 1
except Exception as error:
    print(type(error).__name__, str(error))
print(done)
print(len(list(store.folder.glob("*.seg"))), len(store.rows("feature/plan")))
"""
    got = python(text, tmp_path)
    first, done, counts = got.stdout.splitlines()
    assert first.startswith("CorruptStore") and "free disk space" in first, got.stdout + got.stderr
    assert 0 < int(done) < 500 and counts == f"{done} {3 * int(done)}"
    with Store(tmp_path, 0) as store:
        assert store.verify() == int(done) and len(store.rows(KIND, "pending")) == 3 * int(done)


# whose it is


def test_two_processes(tmp_path: Path) -> None:
    with Store(tmp_path, 0):
        got = python("", tmp_path)
        assert (
            got.returncode == 1
            and "ConfigError" in got.stderr
            and "another process holds" in got.stderr
        )
    assert python("", tmp_path).returncode == 0


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    assert python("die()", tmp_path).returncode == -signal.SIGKILL
    Store(tmp_path, 0).close()


def test_files_are_this_users_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "store", 0) as store:
        fill(store, 3)
        modes = {
            path.name.split(".")[-1]: stat.S_IMODE(path.stat().st_mode)
            for path in store.folder.iterdir()
        }
        assert modes == dict.fromkeys(modes, 0o600) and {
            "seg",
            "sqlite",
            "lock",
            "sqlite-wal",
            "sqlite-shm",
        } <= set(modes)
        assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ExposedSecret):
        Store(tmp_path, 0)


def test_a_manifest_of_another_kind_is_refused_and_the_lock_let_go(tmp_path: Path) -> None:
    (tmp_path / "manifest.sqlite").write_bytes(b"this is no database, it only has its name" * 100)
    for _ in range(2):
        with pytest.raises(CorruptStore, match="not a database"):
            Store(tmp_path, 0)


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store, store._change() as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(ConfigError, match="has format 99, not 1"):
        Store(tmp_path, 0)


def test_the_owner_of_no_name_owns_nothing_of_others(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 1)
        assert store.delete(items(keys(1)), "") == 0 and len(store.rows(KIND)) == 1
        assert store.rows(KIND, owner="") == []
        with pytest.raises(MissingFile):
            store.read(KIND, items(keys(1)), "")
        with pytest.raises(InputError):
            store.put(KIND, keys(1), "", rows(1))
        assert store.delete(items(keys(1))) == 1


def test_one_item_of_another_owner_spoils_the_put(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 1)
        with pytest.raises(InputError):
            store.put(KIND, keys(3), "other", rows(3))
        assert len(store.rows(KIND)) == 1 and len(segments(tmp_path)) == 1


def test_hostile_names_are_only_names(tmp_path: Path) -> None:
    odd = ["'; DROP TABLE rows; --", "../../etc/passwd", "%", "", "日本", "a" * 10_000]
    names = [RowKey(name, name) for name in odd]
    with Store(tmp_path, 0) as store:
        store.put("'; --", names, odd[0], rows(len(odd)))
        store.confirm("'; --", names)
        found, data = store.read("'; --", odd, odd[0])
        assert found == names and (data == rows(len(odd))).all()
        assert len(segments(tmp_path)) == 1 and store.delete(["%"], odd[0]) == 1


# what is confirmed, swept, forgotten


def test_the_same_upload_twice_is_one_row(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        assert store.put(KIND, keys(2), "owner", rows(2)) == 2
        assert (
            store.put(KIND, keys(2), "owner", rows(2)) == 2
        )  # pending: the second takes the place of the first
        store.confirm(KIND, keys(2))
        assert store.put(KIND, keys(2), "owner", rows(2, seed=9)) == 0
        assert len(store.rows(KIND)) == 2 and (store.read(KIND, items(keys(2)))[1] == rows(2)).all()
        store.sweep(0.0)
        assert len(segments(tmp_path)) == 1


def test_a_confirmation_of_another_version_confirms_nothing(tmp_path: Path) -> None:
    """The old upload's confirmation comes late: the row in its place is another one."""
    with Store(tmp_path, 0) as store:
        store.put(KIND, keys(1), "owner", rows(1))
        store.put(KIND, keys(1, version="v2"), "owner", rows(1, seed=2))
        store.confirm(KIND, keys(1))
        store.confirm("feature/other", keys(1, version="v2"))
        with pytest.raises(MissingFile):
            store.read(KIND, items(keys(1)))
        store.delete_rows(KIND, keys(1))
        assert [row.key.version for row in store.rows(KIND)] == ["v2"]


def test_a_sweep_takes_old_halves_only(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 2)
        store.put(KIND, keys(2, 2), "owner", rows(2))
        assert store.sweep(60.0) == 0
        with store._change() as db:
            db.execute("UPDATE rows SET since = since - 61 WHERE item IN (?, ?)", items(keys(2, 1)))
        assert store.sweep(60.0) == 1
        assert [row.key for row in store.rows(KIND)] == [*keys(2), *keys(1, 3)]


def test_kinds_are_apart_and_deletion_reaches_all(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        for i, kind in enumerate(("input/plan", "feature/plan")):
            store.put(kind, keys(2), "owner", rows(2, size=8 * (i + 1)))
            store.confirm(kind, keys(2))
        assert store.read("input/plan", items(keys(1)))[1].shape == (1, 8)
        assert store.info() == {"input/plan ready": 2, "feature/plan ready": 2, "bytes": 48}
        assert store.delete(items(keys(1))) == 2 and store.info()["bytes"] == 48
        assert store.delete(items(keys(2))) == 2 and store.info() == {"bytes": 0}


def test_nothing_asked_is_nothing_read(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        assert store.put(KIND, [], "owner", rows(0)) == 0 and not segments(tmp_path)
        found, data = store.read(KIND, [])
        assert found == [] and len(data) == 0


@pytest.mark.parametrize("data", [rows(2).reshape(2, 4, 4), rows(2)[:, 0], rows(2, size=0)])
def test_rows_that_are_no_rows_are_refused(tmp_path: Path, data: Matrix) -> None:
    with Store(tmp_path, 0) as store:
        with pytest.raises(BadFrame):
            store.put(KIND, keys(2), "owner", data)
        assert not segments(tmp_path)


# damage


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 2)
        [name] = segments(tmp_path)
        whole = (tmp_path / name).read_bytes()
        for i in range(len(whole)):
            (tmp_path / name).write_bytes(bytes(b ^ (j == i) for j, b in enumerate(whole)))
            with pytest.raises(CorruptStore, match=name):
                store.verify()
        (tmp_path / name).write_bytes(whole)
        assert store.verify() == 1


@pytest.mark.parametrize("left", [0, 1, 16, 17, 32, 47, 49, 64])
def test_a_segment_of_another_length_is_never_misread(tmp_path: Path, left: int) -> None:
    """Cut in a row, between rows, or grown: what can be read is right, and the rest is refused."""
    with Store(tmp_path, 0) as store:
        fill(store, 3)
        [name] = segments(tmp_path)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes((whole + bytes(32))[:left])
        with pytest.raises(CorruptStore):
            store.verify()
        for i, item in enumerate(items(keys(3))):
            try:
                assert (store.read(KIND, [item])[1] == rows(3)[i]).all()
            except CorruptStore as error:
                assert name in str(error) and (left < 48 or left % 16)


def test_rows_of_two_sizes_are_not_read_together(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 1)
        store.put(KIND, keys(1, 1), "owner", rows(1, size=8))
        store.confirm(KIND, keys(1, 1))
        with pytest.raises(CorruptStore):
            store.read(KIND, items(keys(2)))


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path, 0)
    store.close()
    store.close()
    with pytest.raises(CorruptStore, match="closed"):
        store.put(KIND, keys(1), "owner", rows(1))
    assert not segments(tmp_path)


# many


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(store: Store, place: int) -> None:
        try:
            for i in range(5):
                start = 100 * place + 4 * i
                fill(store, 4, start, seed=start)
                assert (store.read(KIND, items(keys(4, start)))[1] == rows(4, seed=start)).all()
                store.delete(items(keys(1, start)))
        except BaseException as error:  # raised again below
            errors.append(error)

    with Store(tmp_path, 0) as store:
        threads = [threading.Thread(target=work, args=(store, place)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert store.verify() == 20 and store.info()[f"{KIND} ready"] == 60


def test_sixty_four_of_twenty_thousand_rows(tmp_path: Path) -> None:
    with Store(tmp_path, 0) as store:
        data = rows(20_000, size=600)
        for start in range(0, 20_000, 4000):
            store.put(KIND, keys(4000, start), "owner", data[start : start + 4000])
            store.confirm(KIND, keys(4000, start))
        chosen = np.random.default_rng(3).permutation(20_000)[:64]
        found, read = store.read(KIND, [f"item{i:05}" for i in chosen])
        assert (read == data[chosen]).all() and [key.item for key in found] == [
            f"item{i:05}" for i in chosen
        ]
        assert store.verify() == 5 and os.listdir(tmp_path).count("lock") == 1
