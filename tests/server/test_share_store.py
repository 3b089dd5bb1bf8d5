"""The share stores of two servers, without processes: only rows that both hold may be used."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpumpc import messages as m
from gpumpc.errors import (
    BadFrame,
    ConfigError,
    CorruptStore,
    HandshakeMismatch,
    InputError,
    MissingFile,
    PeerLost,
    PlanError,
)
from gpumpc.program.compiler import program_of
from gpumpc.program.plan import plan_hash
from gpumpc.ring.choose import choose_backend
from gpumpc.server import share_store as module
from gpumpc.server.share_store import ShareStore
from gpumpc.shares import SEED_BYTES
from gpumpc.store import RowKey, Store
from gpumpc.wire.channel import memory_pair
from gpumpc.wire.handshake import exchange_hello
from tests.processes.cluster import tiny

COMPILED = tiny()
PROGRAM = program_of(COMPILED.record, 2)
ENGINE: Any = SimpleNamespace(plan=COMPILED.record, program=PROGRAM)
NOTHING = choose_backend().zeros((1, 4, 4, 1))
ROW_BYTES = SEED_BYTES, len(choose_backend().pack(NOTHING, PROGRAM.input.bits))
A, B, C = ("a" * 32, "b" * 32, "c" * 32)
KIND = f"input/{plan_hash(COMPILED.record).hex()}"


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[ShareStore]]:
    both = [
        ShareStore(
            Store(tmp_path / str(party), party, capacity_bytes=60_000), party, choose_backend()
        )
        for party in (0, 1)
    ]
    yield both
    for share_store in both:
        share_store.store.close()


def put(
    share_store: ShareStore,
    items: list[str],
    version: str = "1" * 32,
    owner: str = "user",
    extra: int = 0,
) -> None:
    request = m.Share("a" * 64, version, items)
    bulk = bytes(range(200)) * 10
    data = memoryview(bulk[: len(items) * ROW_BYTES[share_store.party] + extra])
    share_store.add_inputs(ENGINE, request, owner, data)


def together(
    stores: list[ShareStore], work: Callable[[ShareStore, Any], Any], patience_s: float = 5.0
) -> list[Any]:
    """Both servers' lock-step parts over an in-memory channel: what they return or raise."""
    channels = memory_pair(patience_s)
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(work, *pair) for pair in zip(stores, channels, strict=True)]
    return [future.exception() or future.result() for future in futures]


def settle(stores: list[ShareStore], items: list[str]) -> list[Any]:
    return together(
        stores, lambda share_store, channel: share_store.settle(channel, KIND, items, "user")
    )


def ready(stores: list[ShareStore]) -> list[list[str]]:
    rows = (share_store.store.rows(KIND, "ready", "user") for share_store in stores)
    return [[row.key.item for row in found] for found in rows]


def test_rows_at_both_servers_become_ready(stores: list[ShareStore]) -> None:
    for share_store in stores:
        put(share_store, [A, B])
    assert ready(stores) == [[], []]
    assert settle(stores, [A, B]) == [[], []]
    assert ready(stores) == [[A, B], [A, B]]


def test_mismatched_rows_are_deleted_at_both_servers(stores: list[ShareStore]) -> None:
    put(stores[0], [A, B])
    put(stores[1], [B, C])
    put(stores[0], [C], version="2" * 32)
    assert settle(stores, [A, B, C]) == [[A, C], [A, C]]
    assert ready(stores) == [[B], [B]]
    assert not stores[0].store.find(KIND, [A, C], "user")
    assert not stores[1].store.find(KIND, [C], "user")


def test_settle_completes_after_a_crash_between_confirmations(stores: list[ShareStore]) -> None:
    """Only server 0 has confirmed: both make the same version ready, or delete different ones."""
    for share_store in stores:
        put(share_store, [A])
    stores[0].store.confirm(KIND, [RowKey(A, "1" * 32)])
    assert settle(stores, [A]) == [[], []] and ready(stores) == [[A], [A]]
    for share_store in stores:
        put(share_store, [B])
    stores[0].store.confirm(KIND, [RowKey(B, "1" * 32)])
    for share_store in stores:  # server 0 keeps its ready row, server 1 takes the new half
        put(share_store, [B], version="2" * 32)
    assert settle(stores, [B]) == [[B], [B]]
    for share_store in stores:
        put(share_store, [B], version="3" * 32)
    assert settle(stores, [B]) == [[], []] and ready(stores) == [[A, B], [A, B]]


def test_settle_waits_for_a_server_that_waits_for_its_dealer(
    stores: list[ShareStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may begin a later batch, for which its dealer may take long, before it confirms this."""
    waited = []

    def noted(channel: Any, **arguments: Any) -> Any:
        waited.append(arguments["timeout_s"])
        return exchange_hello(channel, **arguments)

    monkeypatch.setattr(module, "exchange_hello", noted)
    keys = [RowKey(A, "1" * 32)]
    together(stores, lambda share_store, channel: share_store.confirm(channel, KIND, keys), 50.0)
    assert waited == [50.0, 50.0]


def test_another_owners_items_are_not_settled(stores: list[ShareStore]) -> None:
    for share_store in stores:
        put(share_store, [A], owner="second")
        with pytest.raises(InputError, match="belongs to someone else"):
            put(share_store, [A])
    assert settle(stores, [A]) == [[A], [A]]
    assert stores[0].store.find(KIND, [A], "second")


def test_old_half_uploads_are_swept(
    stores: list[ShareStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(stores[0], [A])
    settle(stores, [B])
    assert stores[0].store.find(KIND, [A], "user")
    monkeypatch.setattr(module, "SWEEP_S", -1.0)
    settle(stores, [B])
    assert not stores[0].store.find(KIND, [A], "user")


@pytest.mark.parametrize("party", [0, 1])
def test_uploads_of_a_wrong_size_are_refused(
    stores: list[ShareStore], party: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for items, extra in (([A], 1), ([A], -1), ([A, B], -ROW_BYTES[party]), ([], 0)):
        with pytest.raises(BadFrame, match="made for another plan"):
            put(stores[party], items, extra=extra)
    # 32 bytes at server 0 must not make it expand what server 1 could not even be sent.
    monkeypatch.setattr(module, "MAX_PAYLOAD_BYTES", ROW_BYTES[1] - 1)
    with pytest.raises(BadFrame):
        put(stores[party], [A])
    assert not stores[party].store.kinds()


@pytest.mark.parametrize("party", [0, 1])
def test_owner_has_a_bounded_share_of_the_store(stores: list[ShareStore], party: int) -> None:
    names = [secrets.token_hex(16) for _ in range(200)]
    with pytest.raises(ConfigError, match=r"no room.*60000 bytes.*gpumpc delete"):
        for name in names:
            put(stores[party], [name])
    n = len(stores[party].store.rows(KIND))
    assert 20 < n < 200
    put(stores[party], [A], owner="second")
    stores[party].store.delete(names[:20], "user")
    put(stores[party], [B])


def test_stored_input_shares_are_read_back(stores: list[ShareStore]) -> None:
    backend = choose_backend()
    for share_store in stores:
        put(share_store, [A, B])
    settle(stores, [A, B])
    for party, share_store in enumerate(stores):
        words: Any
        _, words = share_store.read(share_store.inputs(ENGINE), ENGINE, [B, A], "user")
        row = (bytes(range(200)) * 10)[: ROW_BYTES[party]]
        shape, bits = (1, 4, 4, 1), PROGRAM.input.bits
        expected: Any
        if party == 0:
            expected = backend.expand_words(COMPILED.record.params.cipher, row, shape, bits)
        else:
            expected = backend.unpack(memoryview(row), shape, bits)
        assert words.shape == (2, 4, 4, 1) and np.array_equal(words[1:], expected)
    with pytest.raises(MissingFile, match=r"item cccccccc is not in the store.*gpumpc list"):
        stores[0].keys(KIND, [A, C], "user")
    with pytest.raises(MissingFile):
        stores[0].keys(KIND, [A], "second")


def test_confirm_refuses_different_rows(stores: list[ShareStore]) -> None:
    keys = ([RowKey(A, "1")], [RowKey(A, "2")])
    results = together(
        stores,
        lambda share_store, channel: share_store.confirm(channel, KIND, keys[share_store.party]),
    )
    assert all(isinstance(result, HandshakeMismatch) for result in results)


def test_unpaired_stores_are_refused(stores: list[ShareStore], tmp_path: Path) -> None:
    with pytest.raises(PeerLost, match="have not been connected yet"):
        stores[0].check_paired()
    assert together(stores, ShareStore.meet) == [None, None]
    for share_store in stores:
        share_store.check_paired()
    other_pair = ShareStore(Store(tmp_path / "other_pair", 1), 1, choose_backend())
    other_pair.store.pair("f" * 32)  # a new one would take the other's id
    together([stores[0], other_pair], ShareStore.meet)
    for share_store in (stores[0], other_pair):
        with pytest.raises(CorruptStore, match="do not belong together"):
            share_store.check_paired()
    other_pair.store.close()


def test_results_are_refused_by_a_plan_that_does_not_take_them(stores: list[ShareStore]) -> None:
    why = "plan 'tiny' does not take the results of plan 'tiny'.*on top of that plan"
    with pytest.raises(PlanError, match=why):
        stores[0].source_of(ENGINE, ENGINE)
