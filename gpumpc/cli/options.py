"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="This party's TOML file.")]
PlanOption = Annotated[Path, typer.Option("--plan", help="Folder with plan.json.")]
CatalogOption = Annotated[
    Path | None,
    typer.Option(
        "--catalog", help="The local map from item ids to files; by default next to --config."
    ),
]
Named = Annotated[list[str] | None, typer.Argument(help="Files that were shared, or item ids.")]
All = Annotated[bool, typer.Option("--all", help="Everything that is shared.")]
ReceiptOption = Annotated[
    Path | None,
    typer.Option("--receipt", help="New file for what both servers sign when they have deleted."),
]
FeaturesFile = Annotated[
    Path, typer.Argument(help="A .npz or .csv file of features, as `gpumpc extract --out` writes.")
]
