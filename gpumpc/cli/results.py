"""Verbs over features at the servers: extract, classify, search."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpumpc.cli.canary_options import FileOption, FractionOption, canaries_of
from gpumpc.cli.console import console
from gpumpc.cli.inputs import recipe_of, share_items
from gpumpc.cli.item_lookup import READY_S, check_named, connected, items_of, place_of
from gpumpc.cli.options import All, CatalogOption, ConfigOption, Named, PlanOption
from gpumpc.errors import ConfigError, MissingFile
from gpumpc.progress import counted

if TYPE_CHECKING:
    from gpumpc.client.client import Classes, Client
    from gpumpc.media.catalog import Catalog


def extract(
    config: ConfigOption,
    plan: PlanOption,
    items: Named = None,
    everything: All = False,
    out: Annotated[
        Path | None, typer.Option(help="Reveal the features to this user: a .npz or .csv file.")
    ] = None,
    catalog: CatalogOption = None,
    canaries: FractionOption = "",
    canary_file: FileOption = None,
) -> None:
    """Extract the features of shared images; they stay at the servers as shares, for searches.

    Asked again after any interruption it goes on where it was.
    """
    from gpumpc.retrieval.evaluation.feature_file import check_name, write_features

    with connected(config, plan, catalog) as (client, known):
        names = check_named(items, everything)
        if out is not None:
            check_name(out)  # now, not when all is computed
        mixed_in = canaries_of(canaries, canary_file, plan)
        client.wait_ready(READY_S)
        chosen = client.list_inputs() if everything else items_of(known, names)
        done = {*client.list_features()}
        todo = [item for item in chosen if item not in done]
        console.print(f"{len(chosen) - len(todo)} of {len(chosen)} images are extracted already")
        if todo:
            with counted("images", client.batch_size, len(todo)) as progress:
                client.extract(todo, progress, canaries=mixed_in)
        if out is not None and chosen:
            with counted("revealed") as progress:
                features = client.features(chosen, progress).reveal()
            write_features(out, features, chosen, [place_of(known, item) for item in chosen])
            typer.echo(f"features {features.shape} of {len(chosen)} images saved to {out}")


def classify(
    config: ConfigOption,
    plan: PlanOption,
    items: Named = None,
    everything: All = False,
    head: Annotated[
        Path | None, typer.Option(help="Folder of a head, which takes the plan's features.")
    ] = None,
    index: Annotated[
        str, typer.Option(help="Let the nearest rows of this index vote, instead of a head.")
    ] = "",
    top: Annotated[int, typer.Option(min=1, help="How many of them vote.")] = 5,
    catalog: CatalogOption = None,
    canaries: FractionOption = "",
    canary_file: FileOption = None,
) -> None:
    """Classify shared images: by a head, by the nearest rows of an index, or by the plan itself if
    it ends in classes. What a user learns of an image is the policy's answer, sealed to this user.
    """
    from gpumpc.client.served_plan import record_of

    with connected(config, plan, catalog) as (client, known):
        names = check_named(items, everything)
        if canaries and index:
            what, hint = "--canaries and --index were given together", "leave one of them out"
            raise ConfigError(what, "the rows of an index have no known answer", hint)
        mixed_in = canaries_of(canaries, canary_file, head or plan)
        client.wait_ready(READY_S)
        if everything:
            chosen = client.list_features() if head or index else client.list_inputs()
        else:
            chosen = items_of(known, names)
        if not chosen:
            raise MissingFile(
                "no image is shared, or none is extracted",
                hint="use `gpumpc share` and `gpumpc extract`",
            )
        classes: Classes
        if index:
            record, classes = client.plan, client.open_index(index).classify(chosen, top)
        else:
            record = record_of(head or plan)
            with counted("images", client.batch_size, len(chosen)) as progress:
                classes = client.classify(chosen, head, progress, mixed_in)
        for item, row in zip(chosen, classes, strict=True):
            typer.echo(f"{place_of(known, item)}\t{_shown(row, record.classes)}")


def _shown(row: str | list[str] | npt.NDArray[np.float64], classes: Sequence[str]) -> str:
    if isinstance(row, str):
        return row
    if isinstance(row, list):
        return "\t".join(row)
    names = classes or range(len(row))
    return "\t".join(f"{name}={value:.4f}" for name, value in zip(names, row, strict=True))


def search(
    image: Annotated[str, typer.Argument(help="An image file, or an item that is extracted.")],
    config: ConfigOption,
    plan: PlanOption,
    index: Annotated[str, typer.Option(help="Name of the index.")],
    top: Annotated[int, typer.Option(min=1, help="How many neighbours.")] = 5,
    catalog: CatalogOption = None,
) -> None:
    """Find the images most like one; neither server learns query, answer or distances."""
    with connected(config, plan, catalog) as (client, known):
        client.wait_ready(READY_S)
        asked, temporary = _asked(client, known, image)
        try:
            found = client.open_index(index)
            scores, ids = found.search([asked], top)
        finally:
            if temporary:
                client.delete([asked])
        table = Table("rank", found.score_name, "image")
        for rank, (score, item) in enumerate(zip(scores[0], ids[0], strict=True), 1):
            table.add_row(str(rank), f"{score:.4f}", escape(place_of(known, item)))
        Console().print(table)


def _asked(client: Client, known: Catalog, image: str) -> tuple[str, bool]:
    """The asked image as an extracted item, and whether it was shared for this search alone."""
    from gpumpc.media.catalog import pixel_digest
    from gpumpc.media.read import read_image

    kept = {*client.list_features()}
    path = Path(image)
    if not path.exists():
        [item, *_] = items_of(known, [image])
        if item not in kept:
            client.extract([item])
        return item, False
    read = read_image(path, recipe_of(client.plan))
    if len(read) > 1:
        raise ConfigError(
            f"{path} holds {len(read)} images", "a search takes one", "share it; search by item id"
        )
    digest = pixel_digest(read[0].pixels)
    for entry in known.find_file(path):
        if entry.sha256 == digest and entry.item_id in kept:
            return entry.item_id, False
    item = secrets.token_hex(16)
    share_items(client, {item: read[0]})
    client.extract([item])
    return item, True
