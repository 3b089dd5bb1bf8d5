"""`gpumpc index`: indexes over extracted features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from gpumpc.cli.console import exit_on_error
from gpumpc.cli.item_lookup import READY_S, check_named, connected, items_of, place_of
from gpumpc.cli.options import (
    All,
    CatalogOption,
    ConfigOption,
    Named,
    PlanOption,
    ReceiptOption,
)
from gpumpc.cli.receipt import kept
from gpumpc.progress import counted

if TYPE_CHECKING:
    from gpumpc.retrieval.programs import Metric

app = typer.Typer(name="index", help="Indexes for private search.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The index's name.")]


@app.command()
def create(
    name: Name,
    config: ConfigOption,
    plan: PlanOption,
    metric: Annotated[str, typer.Option(help="l2, ip or cosine.")] = "cosine",
    classes: Annotated[
        str, typer.Option(help="Comma-separated names: rows carry secret labels that can vote.")
    ] = "",
) -> None:
    """Create an empty index over a plan's features."""
    from gpumpc.client.client import connect

    with exit_on_error(), connect(config, plan) as client:
        client.wait_ready(READY_S)
        names = [part.strip() for part in classes.split(",")] if classes else []
        client.create_index(name, cast("Metric", metric), classes=names)
        typer.echo(f"index '{name}' ({metric}) is there")


@app.command()
def add(
    name: Name,
    config: ConfigOption,
    plan: PlanOption,
    items: Named = None,
    everything: All = False,
    labels: Annotated[
        Path | None, typer.Option(help="For an index with classes: a table file,label.")
    ] = None,
    catalog: CatalogOption = None,
) -> None:
    """Add extracted features to an index; those that are there already stay.

    Labels go as shares, like everything.
    """
    from gpumpc.retrieval.evaluation.labels import read_labels

    with connected(config, plan, catalog) as (client, known):
        names = check_named(items, everything)
        client.wait_ready(READY_S)
        opened = client.open_index(name)
        chosen = client.list_features() if everything else items_of(known, names)
        told_labels = None
        if labels is not None:
            found = read_labels(labels).of(chosen, [place_of(known, item) for item in chosen])
            told_labels = [label.label for label in found]
        with counted("batches of rows") as progress:
            opened.add(chosen, progress, told_labels)
        typer.echo(f"index '{name}' has {opened.ntotal} rows")


@app.command()
def info(name: Name, config: ConfigOption, plan: PlanOption, catalog: CatalogOption = None) -> None:
    """Show what is in an index."""
    with connected(config, plan, catalog) as (client, known):
        opened = client.open_index(name)
        ids = opened.ids
        typer.echo(
            f"index '{name}': {len(ids)} rows of {opened.dim} entries, metric {opened.metric}"
        )
        for item in ids:
            typer.echo(place_of(known, item))


@app.command()
def delete(
    name: Name, config: ConfigOption, plan: PlanOption, receipt: ReceiptOption = None
) -> None:
    """Delete an index with its rows at both servers; the features stay."""
    from gpumpc.client.client import connect

    with exit_on_error(), kept(receipt) as keep, connect(config, plan) as client:
        keep([client.delete_index(name)])
        typer.echo(f"index '{name}' is deleted")


@app.command()
def remove(
    name: Name,
    config: ConfigOption,
    plan: PlanOption,
    items: Named = None,
    catalog: CatalogOption = None,
    receipt: ReceiptOption = None,
) -> None:
    """Remove images from an index; their features stay."""
    with kept(receipt) as keep, connected(config, plan, catalog) as (client, known):
        names = check_named(items)
        opened = client.open_index(name)
        keep([opened.remove(items_of(known, names))])
        typer.echo(f"index '{name}' has {opened.ntotal} rows")
