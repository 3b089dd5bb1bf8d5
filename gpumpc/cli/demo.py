"""`gpumpc demo`: runs the demo and prints its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli.console import exit_on_error
from gpumpc.demo.demo import rows_for_people, run


def demo(
    gallery: Annotated[int, typer.Option(min=12, help="How many images the archive holds.")] = 66,
    queries: Annotated[
        int, typer.Option(min=6, help="How many images are classified and searched for.")
    ] = 36,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 6,
    folder: Annotated[Path, typer.Option(help="Where keys, logs, plans and results go.")] = Path(
        "out/demo"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Share real medical images, extract features, classify and search them privately; compare with
    the clear.
    """
    with exit_on_error():
        row = run(gallery, queries, batch_size, folder)
    if as_json:
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        _show(row, folder)


def _show(row: dict[str, Any], folder: Path) -> None:
    table = Table(
        "what",
        "measured",
        title="classified and found without any server seeing an image",
        show_header=False,
    )
    for line in rows_for_people(row):
        table.add_row(*line)
    Console().print(table)
    Console().print(f"each query with its results: {folder / 'report.html'}", highlight=False)
