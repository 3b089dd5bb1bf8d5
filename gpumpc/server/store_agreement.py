"""What two servers do so that their stores stay equal: changes of both, and repair as they meet.

A change is written down at both servers before either makes it, and is struck out when both have
made it. A server that meets the other with a change that the other does not know drops it: either
the other never wrote it down, and then neither has made it, or the other struck it out, and then
both have. So every change is made at both servers or at none. Every function here runs at both
servers in lock step.
"""

import hashlib
import logging
import secrets
from collections.abc import Sequence

import msgspec

from gpumpc.errors import CorruptStore
from gpumpc.retrieval.index_store import decode_index
from gpumpc.store import RowKey, Store
from gpumpc.wire.channel import Channel
from gpumpc.wire.handshake import exchange_hello

# Lines of one record, so that it stays small.
_PORTION = 4000

log = logging.getLogger("gpumpc")

KindAndKey = tuple[str, RowKey]  # a row's kind and key


class _Change(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A change of a store that can be made again without harm."""


class DeleteItems(_Change, frozen=True):
    """Delete an owner's rows of items, of kinds that begin with `prefix`."""

    owner: str
    items: list[str]
    prefix: str


class CreateIndex(_Change, frozen=True):
    """Store an index's record under its name."""

    name: str
    record: str


class RemoveRows(_Change, frozen=True):
    """Delete an owner's rows of items, of one kind."""

    kind: str
    owner: str
    items: list[str]


class DeleteIndex(_Change, frozen=True):
    """Delete an index's record and all its rows."""

    name: str


Change = DeleteItems | CreateIndex | RemoveRows | DeleteIndex


def pair(store: Store, channel: Channel) -> tuple[str, str]:
    """Bind two stores to each other at their first meeting; the pair ids of this and the other.

    A store without an id has no ready row: it is new, or its folder was lost. It takes the id of
    the other, whose rows are then put out of use as after any loss.
    """
    own, fresh = store.store_pair_id, secrets.token_hex(16)
    theirs = exchange_hello(channel, equal={}, informative={"store": own, "fresh": fresh})
    other, theirs_fresh = theirs.get("store", ""), theirs.get("fresh", "")
    drawn = hashlib.sha256("".join(sorted((fresh, theirs_fresh))).encode()).hexdigest()[:32]
    if not own:
        own = other or drawn
        store.pair(own)
    return own, other or own


def change_both(store: Store, channel: Channel, change_id: str, change: Change) -> None:
    """Make a change in both stores. Raises ConfigError; a change is then made as they meet again,
    or at neither.
    """
    text = msgspec.json.encode(change).decode()
    store.begin_change(change_id, text)
    _meet_at(channel, "change", change_id)
    _make(store, change)
    _meet_at(channel, "changed", change_id)
    store.end_change(change_id)


def finish_changes(store: Store, channel: Channel) -> None:
    """Make the changes that both servers have begun, and drop those that one alone knows."""
    own = store.changes()
    theirs = {*_exchange_lines(channel, [*own])}
    for change_id, text in own.items():
        if change_id in theirs:
            _make(store, _decode(text))
    _meet_at(channel, "changed", ",".join(sorted({*own} & theirs)))
    for change_id in own:
        store.end_change(change_id)


def repair_pending(store: Store, channel: Channel, kept: str) -> None:
    """Decide on pending rows: confirm what both hold, delete what one alone holds.

    Rows of kinds that begin with `kept` which are not ready at the other server stay pending.
    """
    own = store.all_rows("pending")
    theirs = _exchange_names(channel, own)
    states = _exchange_lines(channel, store.states(theirs))
    if len(states) != len(own):
        raise _malformed()
    for (kind, key), state in zip(own, states, strict=True):
        if state in ("ready", "unpaired") or (state == "pending" and not kind.startswith(kept)):
            store.confirm(kind, [key])
        elif state == "absent" and not kind.startswith(kept):
            store.delete_rows(kind, [key])


def compare_ready(store: Store, channel: Channel, party: int) -> None:
    """Put rows out of use that one server alone holds, and back into use those that both hold.

    A server has lost rows only where its folder was put back from an older copy: nothing is deleted
    for that, as the right folder may come back.
    """
    digest = store.ready_digest()
    theirs = exchange_hello(channel, equal={}, informative={"ready": digest})
    if theirs.get("ready") == digest:
        return
    ready, unpaired = store.all_rows("ready"), store.all_rows("unpaired")
    there = {*_exchange_names(channel, ready + unpaired)}
    here = {*ready, *unpaired}
    for kind in sorted({kind for kind, _ in here}):
        found = [key for own, key in unpaired if own == kind and (kind, key) in there]
        store.confirm(kind, found)
        lost = [key for own, key in ready if own == kind and (kind, key) not in there]
        store.set_unpaired(kind, lost)
    for server, n_lost in ((party, len(there - here)), (1 - party, len(here - there))):
        if n_lost:
            text = (
                "server %d has lost %d rows: its state folder is older than the other server's. "
                "They are kept there and not used: put the right folder back, or let their owners "
                "share or extract these items again (`gpumpc list`)"
            )
            log.warning(text, server, n_lost)


def held_by_both(channel: Channel, own: Sequence[KindAndKey]) -> set[KindAndKey]:
    """Those of our rows that the other server names too."""
    return {*own} & {*_exchange_names(channel, own)}


def _make(store: Store, change: Change) -> None:
    match change:
        case DeleteItems(owner=owner, items=items, prefix=prefix):
            store.delete(items, owner, prefix)
        case CreateIndex(name=name, record=record):
            store.note(name, record, decode_index(record).owner)
        case RemoveRows(kind=kind, owner=owner, items=items):
            found = store.find(kind, items, owner)
            store.delete_rows(kind, [row.key for row in found.values()])
        case DeleteIndex(name=name):
            store.delete_kind(name)
            store.remove_note(name)


def _decode(text: str) -> Change:
    try:
        change: Change = msgspec.json.decode(text, type=Change)
        return change
    except msgspec.DecodeError as error:
        hint = "restore this server's state folder"
        raise CorruptStore("a change in the store cannot be read", str(error), hint) from error


def _meet_at(channel: Channel, field: str, value: str) -> None:
    exchange_hello(channel, equal={field: value}, timeout_s=channel.patience_s)


def _exchange_names(channel: Channel, own: Sequence[KindAndKey]) -> list[KindAndKey]:
    """The other server's rows, in its order."""
    lines = [f"{kind}\t{key.item}\t{key.version}" for kind, key in own]
    names = []
    for line in _exchange_lines(channel, lines):
        kind, _, key = line.partition("\t")
        item, _, version = key.partition("\t")
        names.append((kind, RowKey(item, version)))
    return names


def _exchange_lines(channel: Channel, own: Sequence[str]) -> list[str]:
    """The other server's lines, in its order; both sides send theirs in portions."""
    mine = [own[i : i + _PORTION] for i in range(0, len(own), _PORTION)]
    fields = exchange_hello(channel, equal={}, informative={"portions": str(len(mine))})
    if not (count := fields.get("portions", "")).isdecimal():
        raise _malformed()
    theirs: list[str] = []
    for i in range(max(len(mine), int(count))):
        part = "\n".join(mine[i]) if i < len(mine) else ""
        fields = exchange_hello(channel, equal={}, informative={"lines": part})
        theirs += fields.get("lines", "").splitlines()
    return theirs


def _malformed() -> CorruptStore:
    return CorruptStore("the other server's list of rows is malformed", hint="see its log")
