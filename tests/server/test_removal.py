"""A server's operator erases what a removed user has, while the server does not run."""

import re
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from gpumpc.cli.main import app
from gpumpc.deploy.config import LocalSetup, load_server
from gpumpc.errors import InputError
from gpumpc.retrieval.index_store import IndexRecord, encode_index
from gpumpc.server import store_agreement as agreement
from gpumpc.server.removal import remove_owner
from gpumpc.store import RowKey, Store
from gpumpc.wire.channel import memory_pair
from tests.local.small_plan import compiled_plan
from tests.server.running import written

RECORD = encode_index(IndexRecord("x", "p", 3, "l2", "ann"))


@pytest.fixture
def setup(tmp_path: Path) -> LocalSetup:
    """Stores in which ann, who is not listed, and user have rows and indexes."""
    setup = written(tmp_path, [compiled_plan()], [], "")
    for party in (0, 1):
        store = opened(setup, party)
        for owner in ("ann", "user"):
            for kind in ("input/p", "feature/p", f"index/{owner}/x"):
                keys = [RowKey(f"{owner}{i}", "v") for i in range(3)]
                store.put(kind, keys, owner, np.full((3, 8), 7, np.uint8))
                store.confirm(kind, keys)
            text = encode_index(IndexRecord("x", "p", 3, "l2", owner))
            store.note(f"index/{owner}/x", text, owner)
        store.begin_change("c" * 32, change())
        store.close()
    return setup


def change() -> str:
    made = agreement.CreateIndex("index/ann/y", RECORD.replace('"x"', '"y"'))
    return msgspec.json.encode(made).decode()


def opened(setup: LocalSetup, party: int) -> Store:
    settings = load_server((setup.server0, setup.server1)[party])
    settings.state.mkdir(mode=0o700, exist_ok=True)
    return Store(settings.state / "store", party, settings.store_key)


def store_command(*words: str) -> str:
    result = CliRunner().invoke(app, ["store", *words])
    return re.sub(r"\s+", " ", result.output)


def test_removed_user_has_nothing_left_at_both(setup: LocalSetup) -> None:
    files = [str(file) for file in (setup.server0, setup.server1)]
    text = store_command("users", "--config", files[0])
    assert re.search(r"ann: 9 rows, 1 indexes, \d+ bytes; no card of this name", text), text
    assert re.search(r"user: 9 rows, 1 indexes, \d+ bytes $", text), text
    for file in files:
        assert "9 rows of ann are erased here" in store_command(
            "remove-user", "ann", "--config", file
        )
    stores = [opened(setup, party) for party in (0, 1)]
    meet(stores)
    for store in stores:
        assert store.owners() == {"user": (9, 1)} and store.verify() >= 3
        assert [*store.notes()] == ["index/user/x"] and not store.changes()
        store.close()


def test_one_operator_alone_erases_its_part(setup: LocalSetup) -> None:
    stores = [opened(setup, party) for party in (0, 1)]
    assert remove_owner(stores[0], "ann") == 9
    meet(stores)
    assert stores[0].owners() == {"user": (9, 1)}
    assert not [row for kind in stores[1].kinds() for row in stores[1].rows(kind, "ready", "ann")]
    assert len(stores[1].rows("input/p", "ready", "user")) == 3
    assert remove_owner(stores[1], "ann") == 9
    with pytest.raises(InputError, match="nobody named 'ann' has rows or indexes here"):
        remove_owner(stores[1], "ann")
    for store in stores:
        store.close()


def test_listed_user_is_not_removed(setup: LocalSetup) -> None:
    text = store_command("remove-user", "user", "--config", str(setup.server0))
    assert "the rows of user are not removed" in text
    with opened(setup, 0) as store:
        assert store.owners()["user"] == (9, 1)


def meet(stores: list[Store]) -> None:
    """As two servers do."""
    channels = memory_pair(5.0)

    def work(party: int) -> None:
        agreement.finish_changes(stores[party], channels[party])
        agreement.compare_ready(stores[party], channels[party], party)

    threads = [threading.Thread(target=work, args=[party]) for party in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
