"""`gpumpc receipt`: what both servers signed when they had deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpumpc.cli.console import exit_on_error

if TYPE_CHECKING:
    from gpumpc.client.deletions import Deletion

app = typer.Typer(name="receipt", help="Servers' receipts of deletions.", no_args_is_help=True)
_TEXTS = {
    "all": "{n} items of {owner}: inputs, features and index rows",
    "inputs": "inputs of {n} items of {owner}",
    "index rows": "rows of {n} items of {owner} in index '{index}'",
    "index": "index '{index}' of {owner} with all its rows",
}


@app.callback()
def main() -> None:
    """Servers' receipts of deletions, which `--receipt` of delete and index keeps."""


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="What `--receipt` wrote.")],
    card: Annotated[list[Path], typer.Option(help="A server's card.toml; once for each server.")],
) -> None:
    """Verify receipts by both servers' cards, without any server."""
    from gpumpc.client import deletions
    from gpumpc.deploy.keys import load_card

    with exit_on_error():
        cards = [load_card(path) for path in card]
        for deletion in deletions.load(file):
            deletions.check(deletion, cards)
            for signed in deletion.receipts:
                r = signed.receipt
                text = _TEXTS[r.what].format(n=r.n_items, owner=r.owner, index=r.index)
                typer.echo(f"server {r.server} deleted {text}, at {r.time}")


@contextmanager
def kept(path: Path | None) -> Iterator[Callable[[Sequence[Deletion]], None]]:
    """What keeps deletions in a new file, if one is named. A file in its place ends the command
    before anything is deleted.
    """
    from gpumpc.client import deletions

    def keep(done: Sequence[Deletion]) -> None:
        if path is not None:
            deletions.save(path, done)
            typer.echo(f"both servers' receipts are in {path}")

    with exit_on_error():
        if path is not None:
            deletions.check_new(path)
        yield keep
