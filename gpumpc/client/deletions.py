"""Both servers' receipts of a deletion: checked as they come, kept in a file, checked later alone.

A receipt shows that a server said it, not that it did it: a server that keeps a copy cannot be
found by it. What it does: who finds rows later can show whose statement was false.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from gpumpc import messages as m
from gpumpc.deploy.keys import Card
from gpumpc.deploy.signatures import verify
from gpumpc.errors import ConfigError, CorruptStore, MissingFile, WrongStatement
from gpumpc.offline.secret import file_error, write_private

_HINT = "keep the receipts, ask both servers' operators, and see `gpumpc list`"


class Deletion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request, carried out at both servers.

    Attributes:
        items: ids of the deleted items, in the order of the request; none for a whole index.
        receipts: of server 0 and of server 1.
    """

    items: m.Items
    receipts: tuple[m.Deleted, m.Deleted]


class ReceiptFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `save` writes, as JSON."""

    deletions: list[Deletion]


def accepted(
    request: m.DeletionRequest,
    owner: str,
    replies: tuple[m.Deleted, m.Deleted],
    cards: tuple[Card, Card],
) -> Deletion:
    """The deletion that both servers answer for.

    Raises WrongStatement naming the first field of a receipt that is not this request's,
    AccessDenied for a signature that is not that server's.
    """
    for party, reply in enumerate(replies):
        expected = m.receipt_of(request, party, owner, reply.receipt.time)
        _compare(reply.receipt, expected, f"server {party} gave a receipt of another deletion")
    items = [] if isinstance(request, m.IndexDelete) else request.items
    deletion = Deletion(list(items), replies)
    check(deletion, cards)
    return deletion


def check(deletion: Deletion, cards: Sequence[Card]) -> None:
    """Verify both receipts by the servers' cards, that they are of one deletion, and of its items.

    Raises MissingFile without the card of a server, AccessDenied for a signature that is not its
    own, WrongStatement naming the first field that does not fit.
    """
    by_role = {card.role: card for card in cards}
    first = deletion.receipts[0].receipt
    for party, signed in enumerate(deletion.receipts):
        role = f"server{party}"
        if role not in by_role:
            hint = "name both servers' cards, each with --card"
            raise MissingFile(f"no card of server {party} was given", "it verifies", hint)
        statement = m.receipt_statement(signed.receipt)
        verify(by_role[role], "receipt", statement, bytes.fromhex(signed.signature))
        items = len(deletion.items), m.items_digest(deletion.items)
        expected = msgspec.structs.replace(
            first, server=party, time=signed.receipt.time, n_items=items[0], items=items[1]
        )
        _compare(signed.receipt, expected, f"the receipt of server {party} does not fit")


def _compare(found: m.Receipt, expected: m.Receipt, what: str) -> None:
    for field in m.Receipt.__struct_fields__:
        have, want = getattr(found, field), getattr(expected, field)
        if have != want:
            raise WrongStatement(what, f"its {field} is {have}, and {want} belongs there", _HINT)


def check_new(path: Path) -> None:
    """Raises ConfigError where a receipt file is there, before anything is deleted."""
    if path.exists():
        hint = "give another name: receipts are never overwritten"
        raise ConfigError(f"{path} is there already", "nothing was deleted", hint)


def save(path: Path, deletions: Sequence[Deletion]) -> None:
    """Write deletions as JSON (0600). Raises ConfigError if the file exists or the disk is full."""
    encoded = msgspec.json.encode(ReceiptFile(list(deletions)))
    write_private(path, msgspec.json.format(encoded) + b"\n")


def load(path: Path) -> list[Deletion]:
    """The deletions in a file; `check` each. Raises MissingFile, CorruptStore, ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ReceiptFile).deletions
    except FileNotFoundError:
        hint = "give the file that `gpumpc delete --receipt` wrote"
        raise MissingFile(f"there is no file {path}", "no such file", hint) from None
    except OSError as error:
        raise file_error(f"{path} cannot be read", error) from error
    except msgspec.DecodeError as error:
        hint = "take the file as `gpumpc delete --receipt` wrote it"
        raise CorruptStore(f"{path} holds no receipts", str(error), hint) from None
