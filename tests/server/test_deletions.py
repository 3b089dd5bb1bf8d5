"""A server signs a receipt when the keys of the deleted rows are gone from its disk."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpumpc import messages as m
from gpumpc.deploy import signatures
from gpumpc.deploy.keys import Role, keygen, load_identity
from gpumpc.deploy.signatures import verify
from gpumpc.retrieval import index_store as ix
from gpumpc.ring.choose import choose_backend
from gpumpc.server.requests import request as module
from gpumpc.server.requests.indexes import IndexDelete, IndexRemove
from gpumpc.server.requests.items import Delete
from gpumpc.server.share_store import INPUTS, ShareStore
from gpumpc.store import Store
from gpumpc.wire.channel import memory_pair
from tests.store.shares import items, keys, rows
from tests.store.test_erasure import kept_of, on_disk

PLAN, JOB = "a" * 64, "b" * 32
NAMES = items(keys(3))
KIND = ix.kind_of("user", "archive")
REQUESTS: list[tuple[str, Any, Any]] = [
    (f"{INPUTS}plan", Delete, m.Delete(PLAN, JOB, NAMES, "inputs")),
    ("feature/plan", Delete, m.Delete(PLAN, JOB, NAMES)),
    (KIND, IndexRemove, m.IndexRemove(PLAN, JOB, "archive", NAMES)),
    (KIND, IndexDelete, m.IndexDelete(PLAN, JOB, "archive")),
]


@pytest.mark.parametrize("case", REQUESTS, ids=["inputs", "all", "index rows", "index"])
def test_receipt_is_signed_when_keys_are_gone(
    case: tuple[str, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, request_type, record = case
    monkeypatch.setattr(m, "items_digest", lambda names: "c" * 64)  # these ids are not hex
    monkeypatch.setattr("gpumpc.messages.client_server.items_digest", lambda names: "c" * 64)
    stores, identities, folders = [], [], [tmp_path / "0", tmp_path / "1"]
    roles: tuple[Role, Role] = ("server0", "server1")
    for party, role in enumerate(roles):
        keygen(tmp_path / role, role, role)
        identities.append(load_identity(tmp_path / role))
        store = Store(folders[party], party)
        store.put(kind, keys(3), "user", rows(3, seed=party))
        store.confirm(kind, keys(3))
        stores.append(ShareStore(store, party, choose_backend()))
    wrapped = [key for shares in stores for key, _ in kept_of(shares.store).values()]
    assert len(wrapped) == 6 and all(key in on_disk(*folders) for key in wrapped)
    left: list[bool] = []
    sign = signatures.sign

    def spied(identity: Any, purpose: Any, statement: bytes) -> bytes:
        folder = folders[roles.index(identity.card.role)]
        left.extend(key in on_disk(folder) for key in wrapped)
        return sign(identity, purpose, statement)

    monkeypatch.setattr(module, "sign", spied)
    replies: list[list[Any]] = [[], []]

    def carry_out(party: int, channel: Any) -> None:
        index = SimpleNamespace(kind=kind)
        resources: Any = SimpleNamespace(
            party=party,
            share_store=stores[party],
            identity=identities[party],
            engines={PLAN: None},
            engine_of=lambda plan: None,
            indexes=SimpleNamespace(find=lambda *_: index),
        )
        told = replies[party]
        client: Any = SimpleNamespace(name="user", reply=lambda reply, bulk: told.append(reply))
        request = request_type(resources, client, record, memoryview(b""))
        request.run(channel, 0)
        assert not replies[party]  # until both servers have compared their records
        request.conclude()

    with ThreadPoolExecutor(2) as threads:
        [*threads.map(carry_out, (0, 1), memory_pair(5.0))]
    assert left == [False] * 12
    for party, [reply] in enumerate(replies):
        assert reply.receipt == m.receipt_of(record, party, "user", reply.receipt.time)
        statement = m.receipt_statement(reply.receipt)
        card = identities[party].card
        verify(card, "receipt", statement, bytes.fromhex(reply.signature))
        assert not stores[party].store.find(kind, NAMES, "user")
        stores[party].store.close()
