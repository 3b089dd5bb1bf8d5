"""`gpumpc demo`: runs the demo and prints its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli.console import exit_on_error, output
from gpumpc.demo.demo import rows_for_people, run


def demo(
    gallery: Annotated[int, typer.Option(min=12, help="How many images the archive holds.")] = 66,
    queries: Annotated[int, typer.Option(min=6, help="How many images are asked about.")] = 36,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 6,
    folder: Annotated[Path, typer.Option(help="Keys, logs, plans and results.")] = Path("out/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Share real medical images, classify and search them privately; compare with the clear."""
    with exit_on_error():
        row = run(gallery, queries, batch_size, folder)
    output(row, as_json, lambda figures: _show(figures, folder))


def _show(row: dict[str, Any], folder: Path) -> None:
    title = "classified and found without any server seeing an image"
    table = Table("what", "measured", title=title, show_header=False)
    for line in rows_for_people(row):
        table.add_row(*line)
    Console().print(table)
    Console().print(f"each query with its results: {folder / 'report.html'}", highlight=False)
