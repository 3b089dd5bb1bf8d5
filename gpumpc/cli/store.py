"""`gpumpc store`: for the operator of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpumpc.cli.console import exit_on_error

app = typer.Typer(name="store", help="The shares that a server keeps.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """The shares that a server keeps, for its operator."""


@app.command()
def verify(
    config: Annotated[
        Path, typer.Option("--config", help="A server's TOML file; the server must not run.")
    ],
) -> None:
    """A server's operator reads every share at rest and compares its SHA-256."""
    from gpumpc.deploy.config import load_server
    from gpumpc.store import Store

    with exit_on_error():
        settings = load_server(config)
        opened = Store(settings.state / "store", settings.party)
        try:
            n_segments = opened.verify()
            rows = sum(n for kind, n in opened.info().items() if kind != "bytes")
        finally:
            opened.close()
        typer.echo(f"{n_segments} segments with {rows} rows are as they were written")
