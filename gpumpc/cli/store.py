"""`gpumpc store`: for the operator of a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpumpc.cli.console import exit_on_error

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


def _opened(config: Path) -> Store:
    from gpumpc.deploy.config import load_server
    from gpumpc.store import Store

    settings = load_server(config)
    return Store(settings.state / "store", settings.party, settings.store_key)
