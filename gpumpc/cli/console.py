"""Notes and errors on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from gpumpc.errors import GpumpcError

console = Console(stderr=True)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a known error as its three sentences, and exit with 1."""
    try:
        yield
    except GpumpcError as error:
        console.print(
            f"[bold red]error[/] {type(error).__name__}: {escape(str(error))}",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(1) from None
