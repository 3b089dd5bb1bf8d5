"""Verbs over what the servers hold: `gpumpc store` and `gpumpc index`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli.connected import (
    READY_S,
    CatalogOption,
    ConfigOption,
    PlanOption,
    catalogued,
    check_named,
    connected,
    console,
    items_of,
    place_of,
)
from gpumpc.cli.errors_shown import exit_on_error
from gpumpc.cli.items import All, Named
from gpumpc.progress import counted

if TYPE_CHECKING:
    from gpumpc.retrieval.programs import Metric

store = typer.Typer(name="store", help="What the two servers hold as shares.", no_args_is_help=True)
index = typer.Typer(name="index", help="Indexes for private search.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The index's name.")]


@store.command()
def info(config: ConfigOption, plan: PlanOption, catalog: CatalogOption = None) -> None:
    """How much each server holds of this user's, and how many images of it the local catalogue
    knows.
    """
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
        table = Table("", "server 0", "server 1")
        first, second = client.store_status()
        table.add_row(
            "store pair", first.store_pair_id[:8] or "none", second.store_pair_id[:8] or "none"
        )
        for kind in sorted({*first.rows, *second.rows}):
            table.add_row(
                _kind(kind), *(str(status.rows.get(kind, 0)) for status in (first, second))
            )
        table.add_row("bytes of shares", *(str(status.n_bytes) for status in (first, second)))
        Console().print(table)
        stored, kept, here = (
            client.list_inputs(),
            client.list_features(),
            {entry.item_id for entry in known.all()},
        )
        typer.echo(
            f"of this plan: {len(stored)} images, {len(kept)} features; {len(here)} images in the "
            "local catalogue"
        )
        if foreign := {*stored} - here:
            console.print(f"[yellow]{len(foreign)} shared images are not in this catalogue[/]")


def _kind(kind: str) -> str:
    """`input/HASH ready` for people."""
    name, _, state = kind.rpartition(" ")
    what, _, rest = name.partition("/")
    return f"{what} {rest[:8] if len(rest) == 64 else rest}, {state}"


@store.command()
def delete(
    config: ConfigOption,
    plan: PlanOption,
    items: Named = None,
    everything: All = False,
    inputs_only: Annotated[
        bool, typer.Option("--images-only", help="Keep the features and index rows.")
    ] = False,
    catalog: CatalogOption = None,
) -> None:
    """Delete images at both servers, with their features and index rows."""
    names = items or []
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
        check_named(names, everything)
        chosen = (
            sorted({*client.list_inputs(), *client.list_features()})
            if everything
            else items_of(known, names)
        )
        client.delete(chosen, inputs_only)
        if not inputs_only:
            for item in chosen:
                known.remove(item)
        typer.echo(f"{len(chosen)} items deleted at both servers")


@store.command()
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
            n_segments, rows = (
                opened.verify(),
                sum(n for kind, n in opened.info().items() if kind != "bytes"),
            )
        finally:
            opened.close()
        typer.echo(f"{n_segments} segments with {rows} rows are as they were written")


@index.command()
def create(
    name: Name,
    config: ConfigOption,
    plan: PlanOption,
    metric: Annotated[str, typer.Option(help="l2, ip or cosine.")] = "cosine",
    classes: Annotated[
        str,
        typer.Option(help="Names, separated by commas: rows carry secret labels that can vote."),
    ] = "",
) -> None:
    """Make an empty index over a plan's features."""
    with exit_on_error(), connected(config, plan) as client:
        client.wait_ready(READY_S)
        names = [part.strip() for part in classes.split(",")] if classes else []
        client.create_index(name, cast("Metric", metric), classes=names)
        typer.echo(f"index '{name}' ({metric}) is there")


@index.command()
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
    """Take extracted features into an index; what is there already stays.

    Labels go as shares, like everything.
    """
    from gpumpc.retrieval.evaluation.labels import read_labels

    names = items or []
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
        check_named(names, everything)
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


@index.command(name="info")
def index_info(
    name: Name, config: ConfigOption, plan: PlanOption, catalog: CatalogOption = None
) -> None:
    """What is in an index."""
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
        opened = client.open_index(name)
        ids = opened.ids
        typer.echo(
            f"index '{name}': {len(ids)} rows of {opened.dim} entries, metric {opened.metric}"
        )
        for item in ids:
            typer.echo(place_of(known, item))


@index.command()
def remove(
    name: Name,
    config: ConfigOption,
    plan: PlanOption,
    items: Named = None,
    catalog: CatalogOption = None,
) -> None:
    """Take images out of an index; their features stay."""
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
        check_named(items or [], everything=False)
        opened = client.open_index(name)
        opened.remove(items_of(known, items or []))
        typer.echo(f"index '{name}' has {opened.ntotal} rows")
