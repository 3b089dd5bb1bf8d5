"""A connection with the local catalogue, which says which item is which file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gpumpc.cli.console import exit_on_error
from gpumpc.errors import ConfigError, MissingFile

if TYPE_CHECKING:
    from gpumpc.client.client import Client
    from gpumpc.media.catalog import Catalog

READY_S = 4.0
_ITEM = re.compile("[0-9a-f]{32}")


@contextmanager
def connected(config: Path, plan: Path, catalog: Path | None) -> Iterator[tuple[Client, Catalog]]:
    """A client of both servers, and the catalogue, which never leaves this machine.

    Known errors end the command.
    """
    from gpumpc.client.client import connect
    from gpumpc.media.catalog import Catalog

    with exit_on_error(), connect(config, plan) as client:
        known = Catalog(catalog or config.parent / "catalog.sqlite")
        try:
            yield client, known
        finally:
            known.close()


def items_of(catalog: Catalog, names: Sequence[str]) -> list[str]:
    """Item ids of files and ids, each once. Raises MissingFile for a file that was never shared."""
    items: dict[str, None] = {}
    for name in names:
        found = [entry.item_id for entry in catalog.find_file(Path(name))]
        if not found and _ITEM.fullmatch(name):  # also an id of an input that never was a file
            found = [name]
        if not found:
            raise MissingFile(
                f"'{name}' is neither a file that was shared from here nor an item id",
                "the local catalogue does not have it, and an id has 32 hex digits",
                "see `gpumpc list`, and name the file as it was shared",
            )
        items.update(dict.fromkeys(found))
    return list(items)


def place_of(catalog: Catalog, item: str) -> str:
    """An item's path on this machine, with the frame where its file has several."""
    entries = catalog.find(item)
    if not entries:
        return f"item {item[:8]} (not in this catalogue)"
    several = len({entry.frame for entry in catalog.find_file(entries[0].path)}) > 1
    return f"{entries[0].path}[{entries[0].frame}]" if several else str(entries[0].path)


def check_named(names: Sequence[str] | None, everything: bool = False) -> list[str]:
    """The given names. Raises ConfigError unless either names or --all are given."""
    if bool(names) == everything:
        why = "both were given, and could differ" if everything else "no item was named"
        hint = "name items, or use --all, not both"
        raise ConfigError("either items or --all must be given", why, hint)
    return [*(names or [])]
