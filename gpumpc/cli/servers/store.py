"""`gpumpc store`: for the operator of a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpumpc.cli.console import exit_on_error
from gpumpc.errors import ConfigError

if TYPE_CHECKING:
    from gpumpc.store import Store

app = typer.Typer(name="store", help="The shares that a server keeps.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """The shares that a server keeps, for its operator."""


Config = Annotated[
    Path, typer.Option("--config", help="A server's TOML file; the server must not run.")
]


@app.command()
def verify(config: Config) -> None:
    """A server's operator decrypts every share at rest, which finds each changed byte."""
    with exit_on_error(), _opened(config) as opened:
        n_segments = opened.verify()
        rows = sum(n for kind, n in opened.info().items() if kind != "bytes")
        typer.echo(f"{n_segments} segments with {rows} rows are as they were written")


@app.command("rotate-key")
def rotate_key(
    config: Config,
    to: Annotated[
        str,
        typer.Option(
            help="Where the new key is: file:PATH (made if missing), env:NAME or credential:NAME. "
            "Without it, a new key takes the place of the old one in its file."
        ),
    ] = "",
) -> None:
    """A server's operator gives the shares at rest a new master key; safe to interrupt."""
    from gpumpc.store import KeySource

    with exit_on_error():
        source = KeySource.parse(to, config.absolute().parent) if to else None
        with _opened(config) as opened:
            n_rows = opened.rotate_key(source)
        typer.echo(f"the keys of {n_rows} rows are encrypted under the new master key")
        if to:
            typer.echo(f'now set `store_key = "{to}"` in {config}, and destroy the old key')


@app.command()
def users(config: Config) -> None:
    """A server's operator lists who has rows here, and whose cards are not listed any more."""
    from gpumpc.deploy.config import load_server

    with exit_on_error(), _opened(config) as opened:
        settings = load_server(config)
        listed = {card.name for card in (*settings.owners, *settings.users)}
        for name, (n_rows, n_indexes) in opened.owners().items():
            gone = "" if name in listed else "; no card of this name is listed"
            held = f"{opened.held_bytes(name)} bytes"
            typer.echo(f"{name}: {n_rows} rows, {n_indexes} indexes, {held}{gone}")


@app.command("remove-user")
def remove_user(
    name: Annotated[str, typer.Argument(help="Whose card is not in the configuration any more.")],
    config: Config,
) -> None:
    """A server's operator erases all that a removed user has at this server."""
    from gpumpc.deploy.config import load_server
    from gpumpc.server.removal import remove_owner

    with exit_on_error():
        settings = load_server(config)
        if name in {card.name for card in (*settings.owners, *settings.users)}:
            raise ConfigError(
                f"the rows of {name} are not removed",
                f"{config} lists a card of this name, so it may go on to use them",
                "remove the card from `user_cards` and `owner_cards` at both servers first",
            )
        with _opened(config) as opened:
            n_rows = remove_owner(opened, name)
        typer.echo(f"{n_rows} rows of {name} are erased here; do the same at the other server")


def _opened(config: Path) -> Store:
    from gpumpc.deploy.config import load_server
    from gpumpc.store import Store

    settings = load_server(config)
    return Store(settings.state / "store", settings.party, settings.store_key)
