"""The master key: where it comes from, what a wrong one does, and how it is replaced."""

import re
import signal
import stat
from pathlib import Path

import pytest

from gpumpc.errors import ConfigError, CorruptStore, ExposedSecret, MissingFile
from gpumpc.store import KeySource, Store
from tests.store.shares import KIND, fill, items, keys, python, rows
from tests.store.test_erasure import kept_of, on_disk

HALF_WRITTEN = "from gpumpc.store import master_key\nmaster_key.secrets.token_bytes = die"
NAME = "GPUMPC_TEST_STORE_KEY"


def source(tmp_path: Path, kind: str) -> KeySource:
    return KeySource.parse(
        {"file": "file:k", "env": f"env:{NAME}"}.get(kind, "credential:k"), tmp_path
    )


def provide(
    source: KeySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    """What the operator does: the key in its place, or nothing there."""
    if source.kind == "env":
        monkeypatch.delenv(NAME, raising=False)
        if text is not None:
            monkeypatch.setenv(NAME, text)
        return
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "k").unlink(missing_ok=True)
    if text is not None:
        (tmp_path / "k").write_text(text)
        (tmp_path / "k").chmod(0o600)


@pytest.mark.parametrize("kind", ["file", "env", "credential"])
def test_wrong_or_missing_key_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    where, folder = source(tmp_path, kind), tmp_path / "store"
    provide(where, tmp_path, monkeypatch, "ab" * 32)
    with Store(folder, 0, where) as store:
        fill(store, 2)
    for text, error in ((None, MissingFile), ("cd" * 32, ConfigError), ("ab" * 31, ConfigError)):
        provide(where, tmp_path, monkeypatch, text)
        before = on_disk(folder)
        with pytest.raises(error, match=re.escape(str(where))) as caught:
            Store(folder, 0, where)
        assert not isinstance(caught.value, CorruptStore) and "abab" not in str(caught.value)
        assert on_disk(folder) == before
    provide(where, tmp_path, monkeypatch, f"{'ab' * 32}\n")
    with Store(folder, 0, where) as store:
        assert (store.read(KIND, items(keys(2)))[1] == rows(2)).all()


def test_file_is_made_once_and_private(tmp_path: Path) -> None:
    where = source(tmp_path, "file")
    with Store(tmp_path / "store", 0, where) as store:
        fill(store, 1)
        assert "Secret" not in repr(where) and "master.key" not in [
            path.name for path in store.folder.iterdir()
        ]
    text = (tmp_path / "k").read_text()
    assert re.fullmatch(r"[0-9a-f]{64}\n", text)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    Store(tmp_path / "store", 0, where).close()
    assert (tmp_path / "k").read_text() == text and bytes.fromhex(text) not in on_disk(tmp_path)
    (tmp_path / "k").chmod(0o640)
    with pytest.raises(ExposedSecret):
        Store(tmp_path / "store", 0, where)


def test_an_unset_variable_of_a_new_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    for kind in ("env", "credential"):
        with pytest.raises(MissingFile, match="no master key yet.*openssl rand -hex 32"):
            Store(tmp_path / "store", 0, source(tmp_path, kind))


@pytest.mark.parametrize("text", ["", "k", "env:", "env:A B", "http:x", "credential:../k"])
def test_other_places_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="file:PATH, env:NAME or credential:NAME"):
        KeySource.parse(text, tmp_path)


def test_rotation_makes_old_keys_useless(tmp_path: Path) -> None:
    """The old master key opens nothing, and no key wrapped under it is left."""
    with Store(tmp_path, 0) as store:
        fill(store, 5)
        store.set_unpaired(KIND, keys(1))
        old = (tmp_path / "master.key").read_text()
        wrapped = [key for key, _ in kept_of(store).values()]
        assert store.rotate_key() == 5
        assert (store.read(KIND, items(keys(4, 1)))[1] == rows(5)[1:]).all()
        assert not [key for key in wrapped if key in on_disk(tmp_path)]
        fill(store, 1, 5)
    new = (tmp_path / "master.key").read_text()
    assert new != old and old.encode() not in on_disk(tmp_path)
    with Store(tmp_path, 0) as store:
        assert store.verify() == 2
    (tmp_path / "master.key").write_text(old)
    with pytest.raises(ConfigError, match=r"master\.key is not that of this store"):
        Store(tmp_path, 0)


def test_rotation_to_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "ab" * 32)
    first, second = source(tmp_path, "env"), source(tmp_path, "file")
    with Store(tmp_path / "store", 0, first) as store:
        fill(store, 3)
        with pytest.raises(ConfigError, match="--to"):
            store.rotate_key()
        assert store.rotate_key(second) == 3
    with pytest.raises(ConfigError, match=NAME):
        Store(tmp_path / "store", 0, first)
    with Store(tmp_path / "store", 0, second) as store:
        assert (store.read(KIND, items(keys(3)))[1] == rows(3)).all()


@pytest.mark.parametrize(
    "when",
    [
        "from gpumpc.store import master_key\nmaster_key.write_private = die",
        "Store._rewrap = die",
        HALF_WRITTEN,
        """
honest = store._db
class Dying:
    def __getattr__(self, name):
        return getattr(honest, name)
    def execute(self, text, *values):
        return die() if text == "COMMIT" else honest.execute(text, *values)
store._db = Dying()""",
        "Store._erase = die",
        "from gpumpc.store.master_key import KeySource\nKeySource.succeed = die",
        "from gpumpc.store import master_key\nmaster_key.os.replace = die",
        "from gpumpc.store import master_key\nmaster_key.os.fsync = die",
    ],
    ids=["new key", "rewrap", "half written", "commit", "erase", "succeed", "replace", "fsync"],
)
def test_kill_9_in_a_rotation_loses_nothing(tmp_path: Path, when: str) -> None:
    with Store(tmp_path, 0) as store:
        fill(store, 6)
    if when == HALF_WRITTEN:
        (tmp_path / "master.key.new").write_text("ab")
        (tmp_path / "master.key.new").chmod(0o600)
    got = python(f"{when}\nstore.rotate_key()\n", tmp_path)
    assert got.returncode == -signal.SIGKILL, got.stderr
    for _ in range(2):
        with Store(tmp_path, 0) as store:
            assert store.verify() == 1
            assert (store.read(KIND, items(keys(6)))[1] == rows(6)).all()
            assert store.rotate_key() == 6
    assert sorted(path.name for path in tmp_path.iterdir() if "key" in path.name) == ["master.key"]
