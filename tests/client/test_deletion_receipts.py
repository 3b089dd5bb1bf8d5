"""Receipts of deletions: accepted, kept and verified only if they are of that deletion."""

from pathlib import Path

import msgspec
import pytest

from gpumpc import messages as m
from gpumpc.client import deletions
from gpumpc.client.deletions import Deletion
from gpumpc.deploy.keys import Identity, Role, keygen, load_identity
from gpumpc.deploy.signatures import Purpose, sign
from gpumpc.errors import (
    AccessDenied,
    ConfigError,
    CorruptStore,
    GpumpcError,
    MissingFile,
    WrongStatement,
)

PLAN, JOB, ITEMS, NOW = "a" * 64, "b" * 32, ["c" * 32, "d" * 32], "2026-11-25T02:00:00Z"
REQUESTS: list[m.DeletionRequest] = [
    m.Delete(PLAN, JOB, ITEMS),
    m.Delete(PLAN, JOB, ITEMS, "inputs"),
    m.IndexRemove(PLAN, JOB, "archive", ITEMS),
    m.IndexDelete(PLAN, JOB, "archive"),
]
DELETE = REQUESTS[0]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> list[Identity]:
    folder = tmp_path_factory.mktemp("keys")
    roles: tuple[Role, Role] = ("server0", "server1")
    for role in roles:
        keygen(folder / role, role, role)
    return [load_identity(folder / role) for role in roles]


def signed(identity: Identity, receipt: m.Receipt, purpose: Purpose = "receipt") -> m.Deleted:
    return m.Deleted(receipt, sign(identity, purpose, m.receipt_statement(receipt)).hex())


def replies(
    servers: list[Identity], request: m.DeletionRequest, owner: str = "user"
) -> tuple[m.Deleted, m.Deleted]:
    first, second = (
        signed(identity, m.receipt_of(request, party, owner, NOW))
        for party, identity in enumerate(servers)
    )
    return first, second


def accept(servers: list[Identity], both: tuple[m.Deleted, m.Deleted]) -> Deletion:
    cards = servers[0].card, servers[1].card
    return deletions.accepted(DELETE, "user", both, cards)


def test_every_deletion_is_kept_and_verified(servers: list[Identity], tmp_path: Path) -> None:
    cards = servers[0].card, servers[1].card
    made = [deletions.accepted(r, "user", replies(servers, r), cards) for r in REQUESTS]
    assert [d.receipts[0].receipt.what for d in made] == ["all", "inputs", "index rows", "index"]
    assert [len(d.items) for d in made] == [2, 2, 2, 0]
    deletions.check_new(tmp_path / "receipts.json")
    deletions.save(tmp_path / "receipts.json", made)
    found = deletions.load(tmp_path / "receipts.json")
    assert found == made
    for deletion in found:
        deletions.check(deletion, cards[::-1])
        with pytest.raises(MissingFile, match=r"no card of server 1.*both servers' cards"):
            deletions.check(deletion, cards[:1])
    with pytest.raises(ConfigError, match="nothing was deleted"):
        deletions.check_new(tmp_path / "receipts.json")
    with pytest.raises(ConfigError, match="there already"):
        deletions.save(tmp_path / "receipts.json", made)


def test_forged_receipts_are_refused(servers: list[Identity]) -> None:
    good = replies(servers, DELETE)
    accept(servers, good)
    for party in (0, 1):
        receipt = good[party].receipt
        changed = f"{int(good[party].signature[0], 16) ^ 1:x}{good[party].signature[1:]}"
        forged = [
            signed(servers[1 - party], receipt),
            signed(servers[party], receipt, "weights"),
            msgspec.structs.replace(good[party], signature=changed),
            m.Deleted(
                msgspec.structs.replace(receipt, time="2026-11-25T02:00:01Z"), good[party].signature
            ),
        ]
        for reply in forged:
            both = (reply, good[1]) if party == 0 else (good[0], reply)
            with pytest.raises(AccessDenied, match=f"not one of server{party} for 'receipt'"):
                accept(servers, both)


def test_receipts_of_another_deletion_are_refused(servers: list[Identity]) -> None:
    others: dict[str, tuple[m.Deleted, m.Deleted]] = {
        "job": replies(servers, m.Delete(PLAN, "e" * 32, ITEMS)),
        "plan": replies(servers, m.Delete("e" * 64, JOB, ITEMS)),
        "what": replies(servers, m.Delete(PLAN, JOB, ITEMS, "inputs")),
        "n_items": replies(servers, m.Delete(PLAN, JOB, ITEMS[:1])),
        "items": replies(servers, m.Delete(PLAN, JOB, [ITEMS[0], "e" * 32])),
        "owner": replies(servers, DELETE, "second"),
        "server": replies(servers, DELETE)[::-1],
    }
    for field, both in others.items():
        with pytest.raises(WrongStatement, match=rf"receipt of another deletion.*its {field} is"):
            accept(servers, both)


def test_changed_file_of_receipts_is_refused(servers: list[Identity], tmp_path: Path) -> None:
    cards = servers[0].card, servers[1].card
    good = accept(servers, replies(servers, DELETE))
    for field, item in (("items", "e" * 32), ("n_items", None)):
        items = [*good.items[:-1], item] if item else good.items[:-1]
        with pytest.raises(WrongStatement, match=f"its {field} is"):
            deletions.check(Deletion(items, good.receipts), cards)
    other = replies(servers, m.Delete(PLAN, "e" * 32, ITEMS))
    with pytest.raises(WrongStatement, match="server 1 does not fit.*its job is"):
        deletions.check(Deletion(good.items, (good.receipts[0], other[1])), cards)
    path = tmp_path / "receipts.json"
    cases: list[tuple[bytes | None, type[GpumpcError]]] = [
        (None, MissingFile),
        (b"{}", CorruptStore),
        (b"no JSON", CorruptStore),
    ]
    for content, kind in cases:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(kind) as found:
            deletions.load(path)
        assert found.value.why and found.value.hint
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        deletions.load(path)
