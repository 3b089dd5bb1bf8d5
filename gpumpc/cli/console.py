"""Results on stdout; notes and errors on stderr."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
        text = f"[bold red]error[/] {type(error).__name__}: {escape(str(error))}"
        console.print(text, soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


def output(row: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """Write a row of figures as one JSON object, or have `show` print it for people."""
    if as_json:
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        show(row)
