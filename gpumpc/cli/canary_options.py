"""`gpumpc canaries`, and the options of verbs that mix canaries in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpumpc.cli.console import exit_on_error
from gpumpc.cli.options import PlanOption
from gpumpc.errors import BadValue

if TYPE_CHECKING:
    from gpumpc.client.canaries import Canaries

FILE = "canaries.npz"

FractionOption = Annotated[
    str,
    typer.Option(
        "--canaries", help="Mix in so many images with known results, such as 2%, and check them."
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--canary-file", help="What `gpumpc canaries` wrote; by default canaries.npz in the plan."
    ),
]


def canaries_of(fraction: str, file: Path | None, plan: Path) -> Canaries | None:
    """The canaries that the options ask for. Raises BadValue, MissingFile, ConfigError."""
    from gpumpc.client.canaries import Canaries

    return Canaries.load(file or plan / FILE, _parsed(fraction)) if fraction else None


def _parsed(text: str) -> float:
    """`2%` or `0.02` as 0.02. Raises BadValue."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        what = f"'{text}' is not a fraction of canaries"
        raise BadValue(what, "it is no number", "write for example 2% or 0.02") from None


def canaries(
    plan: PlanOption,
    out: Annotated[
        Path | None,
        typer.Option(help="The new file; by default canaries.npz in the plan's folder."),
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 16,
    head: Annotated[
        Path | None, typer.Option(help="Folder of a head: the results are then its answers.")
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(help="A .npy file of inputs to take; random ones unless given."),
    ] = None,
) -> None:
    """The model's owner makes canaries: inputs with known results, which a user mixes in to see
    whether the servers compute rightly. The file shows results of the model: give it to users only.
    """
    from gpumpc.cli.inputs import load_array
    from gpumpc.local.canary_maker import make_canaries
    from gpumpc.local.compile import Plan

    with exit_on_error():
        file = out or (head or plan) / FILE
        values = load_array(inputs) if inputs else None
        made = make_canaries(Plan.load(plan), count, Plan.load(head) if head else None, values)
        made.save(file)
        typer.echo(f"{count} canaries are in {file}")
