"""Damage on the disk: the right row or an error that names the file, never a wrong row."""

import errno
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import ConfigError, CorruptStore, GpumpcError, MissingFile
from gpumpc.offline.ledger import Ledger
from gpumpc.store import Store
from tests.store.shares import KIND, fill, items, keys, python, rows

N = 12
OTHER = "index/owner/archive"
PAGE_BYTES = 4096
PAGE_HEAD_BYTES = 12


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """The files of a closed store, by name: ready, pending and unpaired rows, and a note."""
    folder = tmp_path / "whole"
    with Store(folder, 0) as store:
        fill(store, N)
        store.put(OTHER, keys(N), "owner", rows(N, 40, seed=2))
        store.confirm(OTHER, keys(N))
        store.put("input/plan", keys(2), "owner", rows(2))
        store.put("input/other", keys(2), "owner", rows(2))
        store.confirm("input/other", keys(2))
        store.set_unpaired("input/other", keys(2))
        store.note(OTHER, "the record of an index", "owner")
        store.begin_change("0123", "a change")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def put_back(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in {path.name for path in folder.iterdir()} | files.keys():
        (folder / name).unlink(missing_ok=True)
        if name in files:
            (folder / name).write_bytes(files[name])
            (folder / name).chmod(0o600)


def flipped(data: bytes, byte: int, bit: int) -> bytes:
    return data[:byte] + bytes([data[byte] ^ (1 << bit)]) + data[byte + 1 :]


def outcome(folder: Path, name: str) -> str:
    """What reading all of a store gives: "right", or "refused" by an error that names the file."""
    try:
        with Store(folder, 0) as store:
            for kind, right in ((KIND, rows(N)), (OTHER, rows(N, 40, seed=2))):
                assert [row.key for row in store.rows(kind, "ready", "owner")] == keys(N)
                found, data = store.read(kind, items(keys(N)), "owner")
                assert found == keys(N) and (data == right).all()
            for kind in ("input/plan", "input/other"):
                with pytest.raises(MissingFile):
                    store.read(kind, items(keys(1)), "owner")
            assert store.notes(OTHER) == {OTHER: "the record of an index"}
            assert store.changes() == {"0123": "a change"} and store.verify() == 4
    except GpumpcError as error:
        text = str(error).lower()
        assert name in text or ".seg cannot be read" in text or "the manifest's check value" in text
        assert str(folder) in text and error.hint
        return "refused"
    return "right"


def places(data: bytes, n: int) -> list[int]:
    """The file's head, each page's head, and `n` bytes drawn from all others."""
    heads = range(0, len(data), PAGE_BYTES)
    first = [start + i for start in heads for i in range(PAGE_HEAD_BYTES) if start + i < len(data)]
    drawn = np.random.default_rng(7).integers(0, len(data), n).tolist()
    return sorted({*range(0, min(100, len(data)), 3), *first, *drawn})


@pytest.mark.parametrize("file", ["manifest.sqlite", ".seg", "master.key"])
def test_a_flipped_bit_never_gives_a_wrong_row(
    files: dict[str, bytes], tmp_path: Path, file: str
) -> None:
    draw, seen = np.random.default_rng(9), list[str]()
    [name, *_] = [name for name in files if name.endswith(file)]
    for byte in places(files[name], 150):
        data = flipped(files[name], byte, int(draw.integers(8)))
        put_back(tmp_path / "store", {**files, name: data})
        seen.append(outcome(tmp_path / "store", name))
        # Nothing was removed: with the right bytes in their place, all is right again.
        assert {path.name for path in (tmp_path / "store").glob("*.seg")} >= {
            other for other in files if other.endswith(".seg")
        }
    put_back(tmp_path / "store", files)
    assert outcome(tmp_path / "store", name) == "right"
    # A manifest has free pages and counters, which no answer depends on.
    expected = {"refused"} | ({"right"} if file == "manifest.sqlite" else set())
    assert {*seen} == expected and len(seen) > 30


@pytest.mark.parametrize("left", [1, 50, 1000, 4096, 9000])
def test_a_cut_manifest_asks_for_the_backup(
    files: dict[str, bytes], tmp_path: Path, left: int
) -> None:
    put_back(tmp_path / "store", {**files, "manifest.sqlite": files["manifest.sqlite"][:left]})
    with pytest.raises(CorruptStore, match=r"manifest\.sqlite.*from its backup") as caught:
        Store(tmp_path / "store", 0)
    assert "space" not in caught.value.hint


@pytest.mark.parametrize("left", [b"", None])
def test_a_manifest_that_was_lost_erases_no_segment(
    files: dict[str, bytes], tmp_path: Path, left: bytes | None
) -> None:
    """A new, empty manifest knows no segment: they are not taken for leftovers."""
    other = {name: data for name, data in files.items() if name != "manifest.sqlite"}
    put_back(tmp_path / "store", other if left is None else {**other, "manifest.sqlite": left})
    for _ in range(2):
        with pytest.raises(CorruptStore, match="manifest.*was lost.*backup"):
            Store(tmp_path / "store", 0)
    assert len([*(tmp_path / "store").glob("*.seg")]) == 4


def test_a_damaged_ledger_is_told_with_its_own_cure(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    path.write_bytes(flipped(path.read_bytes(), 3, 0))
    with pytest.raises(ConfigError) as caught:
        Ledger(path)
    assert "begins new sessions" in caught.value.hint and "space" not in caught.value.hint


@pytest.mark.parametrize(
    "code, hint",
    [
        (errno.EMFILE, "limit of open files"),
        (errno.ENFILE, "limit of open files"),
        (errno.ENOMEM, "free some memory"),
        (errno.EIO, "check that disk"),
    ],
)
def test_an_error_that_passes_is_no_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, hint: str
) -> None:
    fill(store, 3)
    honest = os.open

    def failing(path: object, *arguments: int) -> int:
        if str(path).endswith(".seg"):
            raise OSError(code, os.strerror(code), str(path))
        return honest(path, *arguments)  # type: ignore[arg-type]  # a path, as it came

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        for read in (lambda: store.read(KIND, items(keys(3))), store.verify):
            with pytest.raises(ConfigError, match=r"\.seg cannot be read now") as caught:
                read()
            assert type(caught.value) is ConfigError and hint in caught.value.hint
    assert (store.read(KIND, items(keys(3)))[1] == rows(3)).all()


def test_no_free_file_numbers_is_no_damage(tmp_path: Path) -> None:
    """The limit of open files is really reached, and raised again."""
    text = """
fill(store, 3)
names = [key.item for key in keys(3)]
def allow(n):
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
spare = os.dup(0)
os.close(spare)
allow(spare)
for action in (lambda: store.read("feature/plan", names), lambda: fill(store, 1, 5)):
    try:
        action()
    except Exception as error:
        print(type(error).__name__, error.hint)
allow(256)
fill(store, 1, 5)
print((store.read("feature/plan", names)[1] == rows(3)).all(), store.verify())
"""
    got = python(text, tmp_path)
    first, second, last = got.stdout.splitlines()
    for line in (first, second):
        assert line.startswith("ConfigError") and "limit of open files" in line, got.stdout
    assert last == "True 2", got.stderr


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_IOERR", "SQLITE_NOMEM", "SQLITE_CANTOPEN"])
def test_sqlites_passing_errors_are_no_damage(store: Store, name: str) -> None:
    for code in (getattr(sqlite3, name), getattr(sqlite3, name) | 3 << 8):
        error = sqlite3.OperationalError("it failed")
        error.sqlite_errorcode = code
        with pytest.raises(ConfigError, match="try again") as caught, store._explained():
            raise error
        assert type(caught.value) is ConfigError
