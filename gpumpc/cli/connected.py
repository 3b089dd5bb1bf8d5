"""What the verbs of owners and users have in common: a client, a catalogue, files that become
items.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gpumpc.errors import ConfigError, MissingFile

if TYPE_CHECKING:
    from gpumpc.client.client import Client
    from gpumpc.media.catalog import Catalog

READY_S = 4.0
_ITEM = re.compile("[0-9a-f]{32}")

console = Console(stderr=True)

ConfigOption = Annotated[Path, typer.Option("--config", help="This party's TOML file.")]
PlanOption = Annotated[Path, typer.Option("--plan", help="Folder with plan.json.")]
CatalogOption = Annotated[
    Path | None,
    typer.Option(
        "--catalog", help="The local map from item ids to files; beside --config unless given."
    ),
]


@contextmanager
def connected(config: Path, plan: Path) -> Iterator[Client]:
    """A client of both servers for a plan."""
    from gpumpc.client.client import connect
    from gpumpc.deploy.config import load_client
    from gpumpc.program import plan as plan_files

    with connect(load_client(config), plan_files.load(plan)) as client:
        yield client


@contextmanager
def catalogued(config: Path, catalog: Path | None) -> Iterator[Catalog]:
    """The map from item ids to files, which never leaves this machine."""
    from gpumpc.media.catalog import Catalog

    opened = Catalog(catalog or config.parent / "catalog.sqlite")
    try:
        yield opened
    finally:
        opened.close()


def items_of(catalog: Catalog, names: Sequence[str]) -> list[str]:
    """Item ids of files and ids, each once. Raises MissingFile for a file that was never shared."""
    items: dict[str, None] = {}
    for name in names:
        found = [entry.item_id for entry in catalog.find_file(Path(name))]
        if not found and _ITEM.fullmatch(name):  # also of inputs that never were files
            found = [name]
        if not found:
            raise MissingFile(
                f"'{name}' is no file that was shared from here, and no item",
                hint="see `gpumpc store info`",
            )
        items.update(dict.fromkeys(found))
    return list(items)


def place_of(catalog: Catalog, item: str) -> str:
    """Where an item is on this machine, for people: a path, with the frame where the file has
    several.
    """
    entries = catalog.find(item)
    if not entries:
        return f"item {item[:8]} (not in this catalogue)"
    several = len({entry.frame for entry in catalog.find_file(entries[0].path)}) > 1
    return f"{entries[0].path}[{entries[0].frame}]" if several else str(entries[0].path)


def check_named(names: Sequence[str], everything: bool) -> None:
    """Raises ConfigError unless either items or --all are given."""
    if bool(names) == everything:
        raise ConfigError(
            "either items or --all must be given", hint="name files or item ids, or use --all"
        )
