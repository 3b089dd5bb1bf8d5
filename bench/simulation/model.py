"""Which rows two servers hold, as plain dictionaries, and what a request may make of them."""

from __future__ import annotations

from collections.abc import Set

from bench.simulation.clients import Wrong
from gpumpc.store import Store

Row = tuple[str, str]  # kind and item
Rows = dict[Row, str]  # with the version of each
_RECORD = "record"


def record_of(index_kind: str) -> Row:
    """The record of an index, which is kept like a row."""
    return index_kind, _RECORD


def observed(store: Store) -> Rows:
    """The rows that a server holds, ready or out of use, and its indexes' records.

    Raises Wrong for a change or a row that is half done; half an upload may stay for an hour.
    """
    held = [*store.all_rows("ready"), *store.all_rows("unpaired")]
    pending = [kind for kind, _ in store.all_rows("pending") if not kind.startswith("input/")]
    if pending or store.changes():
        raise Wrong(f"{len(pending)} rows and {len(store.changes())} changes are half done")
    rows = {(_short(kind), key.item): key.version for kind, key in held}
    return rows | {(name, _RECORD): text for name, text in store.notes().items()}


def _short(kind: str) -> str:
    """Inputs and features are of one plan."""
    name, _, _ = kind.partition("/")
    return name if name in ("input", "feature") else kind


class Model:
    """What each server holds.

    Attributes:
        at: by server, the version of each row.
    """

    def __init__(self) -> None:
        self.at: tuple[Rows, Rows] = ({}, {})

    def rows(self) -> set[Row]:
        """Rows that any server holds."""
        return {*self.at[0], *self.at[1]}

    def of_kind(self, kind: str) -> list[Row]:
        """Rows of a kind that any server holds."""
        return [row for row in self.rows() if row[0] == kind]

    def ready(self) -> set[Row]:
        """Rows that may be used: both servers hold the same version."""
        first, second = self.at
        return {row for row in first if first[row] == second.get(row)}

    def items(self, kind: str) -> list[str]:
        """Items with a row of this kind that may be used, sorted."""
        return sorted(i for k, i in self.ready() if k == kind and i != _RECORD)

    def lost(self, kind: str) -> list[str]:
        """Items with a row of this kind that one server has lost, sorted."""
        return sorted(i for k, i in self.rows() - self.ready() if k == kind and i != _RECORD)

    def every_item(self) -> list[str]:
        """Items of which any server holds a row, sorted."""
        return sorted({item for _, item in self.rows() if item != _RECORD})

    def missing(self, kind: str) -> list[str]:
        """Items that have a row, and none of this kind that may be used."""
        return sorted({*self.every_item()} - {*self.items(kind)})

    def change(
        self,
        after: tuple[Rows, Rows],
        rows: Set[Row],
        is_present: bool,
        is_done: bool,
        is_whole: bool,
    ) -> None:
        """Follow a request that makes rows present or absent. Raises Wrong.

        Args:
            after: what the servers hold now.
            is_done: whether the client was told so.
            is_whole: whether all rows must be as before, or all as after.
        """
        self.compare(after, rows)
        ready = self.ready()
        new = {row for row in rows if self._is_made(row, after, ready, is_present)}
        old = {row for row in rows if self._is_as_before(row, after, ready)}
        if is_done and new != rows:
            raise Wrong(f"rows {sorted(rows - new)} are not as the client was told")
        if rows - new - old:
            raise Wrong(f"rows {sorted(rows - new - old)} are half done")
        if is_whole and rows not in (new, old):
            raise Wrong(f"rows {sorted(new)} alone of {sorted(rows)} were changed")
        self.at = after

    def _is_made(
        self, row: Row, after: tuple[Rows, Rows], ready: Set[Row], is_present: bool
    ) -> bool:
        """Whether a row is as the request wants it; one that was ready stays the same."""
        first, second = (rows.get(row) for rows in after)
        stays = row not in ready or first == self.at[0][row]
        return first == second and (first is not None and stays if is_present else first is None)

    def _is_as_before(self, row: Row, after: tuple[Rows, Rows], ready: Set[Row]) -> bool:
        """A row out of use may be gone: a new one that was given up has replaced it."""
        for before, now in zip(self.at, after, strict=True):
            is_gone = row not in ready and row not in now
            if now.get(row) != before.get(row) and not is_gone:
                return False
        return True

    def compare(self, found: tuple[Rows, Rows], except_for: Set[Row] = frozenset()) -> None:
        """Compare what the servers hold with the model. Raises Wrong."""
        for party, (rows, held) in enumerate(zip(found, self.at, strict=True)):
            differ = {row for row, _ in {*rows.items()} ^ {*held.items()}} - except_for
            if differ:
                raise Wrong(f"server {party} holds other rows than it must: {sorted(differ)}")
