"""How a known error reaches a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from gpumpc.errors import GpumpcError

console = Console(stderr=True)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """A known error is three sentences for a person, not a traceback."""
    try:
        yield
    except GpumpcError as error:
        console.print(
            f"[bold red]error[/] {type(error).__name__}: {escape(str(error))}",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(1) from None
