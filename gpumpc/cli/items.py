"""Verbs over images: share, extract, classify, search."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
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
from gpumpc.errors import ConfigError, MissingFile, PlanError
from gpumpc.offline.secret import file_error
from gpumpc.progress import counted

if TYPE_CHECKING:
    from gpumpc.client.client import Client
    from gpumpc.media.catalog import Catalog
    from gpumpc.media.read import Item, Refused
    from gpumpc.program.plan import PlanRecord, Preprocessing

# Images that are read before they are sent.
PORTION = 64

Paths = Annotated[
    list[Path],
    typer.Argument(help="Image files, or folders of them (PNG, JPEG, TIFF, NIfTI, DICOM)."),
]
Named = Annotated[list[str] | None, typer.Argument(help="Files that were shared, or item ids.")]
All = Annotated[bool, typer.Option("--all", help="Everything that is shared.")]
Axis = Annotated[
    int, typer.Option(min=0, max=2, help="Cut volumes along: 0 sagittal, 1 coronal, 2 axial.")
]


def share(
    paths: Paths,
    config: ConfigOption,
    plan: PlanOption,
    catalog: CatalogOption = None,
    axis: Axis = 2,
) -> None:
    """Split images between the two servers. Nothing but pixels' shares and random ids leaves this
    machine.

    What is shared already is left out, so an interrupted share goes on when it is asked again.
    Files that cannot be read are listed and the rest goes through; the exit code is then 1.
    """
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
        client.wait_connected(READY_S)
        arrays = [path for path in paths if path.suffix == ".npy"]
        if arrays and len(arrays) < len(paths):
            raise ConfigError(
                "arrays and images were given together", hint="share .npy files by themselves"
            )
        refused = (
            _share_arrays(client, arrays) if arrays else _share_images(client, known, paths, axis)
        )
    if refused:
        raise typer.Exit(1)


def _share_arrays(client: Client, paths: Sequence[Path]) -> int:
    """Inputs as the plan takes them, channels last; prints their ids."""
    for path in paths:
        values = load_array(path)
        with counted("images") as progress:
            items = client.share(values, progress=progress)
        typer.echo("\n".join(items))
    return 0


def _share_images(client: Client, known: Catalog, paths: Sequence[Path], axis: int) -> int:
    from gpumpc.media.read import read_images

    found = read_images(paths, recipe_of(client.plan), axis=axis)
    refused: list[Refused] = []
    n_shared = n_present = 0
    present = {*client.list_inputs()}
    with console.status("reading images") as status:
        for portion in _portions(found, refused):
            ids = known.add_all(portion)
            fresh = {
                item_id: item
                for item_id, item in zip(ids, portion, strict=True)
                if item_id not in present
            }
            n_present += len(portion) - len(fresh)
            if fresh:
                share_items(client, fresh)
                present.update(fresh)
                n_shared += len(fresh)
            status.update(f"{n_shared} images shared, {n_present} were there already")
    for bad in refused:
        console.print(f"[yellow]left out:[/] {escape(str(bad))}", soft_wrap=True, highlight=False)
    typer.echo(
        f"{n_shared} images shared, {n_present} were there already, {len(refused)} files left out"
    )
    return len(refused)


def share_items(client: Client, images: dict[str, Item]) -> None:
    """Share read images under their ids."""
    from gpumpc.media.preprocess import preprocess

    client.share(
        preprocess(np.stack([image.pixels for image in images.values()]), recipe_of(client.plan)),
        list(images),
    )


def recipe_of(plan: PlanRecord) -> Preprocessing:
    """What a plan does to an image first. Raises PlanError where it does not say."""
    if plan.preprocessing is None:
        raise PlanError(
            "this plan says nothing of how an image becomes its input",
            "it was compiled without preprocessing",
            "share .npy files of prepared inputs, or compile with preprocessing",
        )
    return plan.preprocessing


def _portions(found: Iterable[Item | Refused], refused: list[Refused]) -> Iterator[list[Item]]:
    """Read images, so many at a time; what is refused goes into the list."""
    from gpumpc.media.read import Refused

    def good() -> Iterator[Item]:
        for one in found:
            if isinstance(one, Refused):
                refused.append(one)
            else:
                yield one

    images = good()
    while portion := list(itertools.islice(images, PORTION)):
        yield portion


def extract(
    config: ConfigOption,
    plan: PlanOption,
    items: Named = None,
    everything: All = False,
    out: Annotated[
        Path | None, typer.Option(help="Reveal the features to this user: a .npz or .csv file.")
    ] = None,
    catalog: CatalogOption = None,
) -> None:
    """Extract the features of shared images; they stay at the servers as shares, ready to be
    searched.

    Asked again after any interruption it goes on where it was.
    """
    from gpumpc.retrieval.evaluation.features import check_name

    names = items or []
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
        check_named(names, everything)
        if out is not None:
            check_name(out)  # now, not when all is computed
        client.wait_ready(READY_S)
        chosen = client.list_inputs() if everything else items_of(known, names)
        done = {*client.list_features()}
        todo = [item for item in chosen if item not in done]
        console.print(f"{len(chosen) - len(todo)} of {len(chosen)} images are extracted already")
        if todo:
            with counted("images", client.batch_size, len(todo)) as progress:
                client.extract(todo, progress)
        if out is not None and chosen:
            with counted("revealed") as progress:
                features = client.features(chosen, progress).reveal()
            save_features(out, features, chosen, [place_of(known, item) for item in chosen])
            typer.echo(f"features {features.shape} of {len(chosen)} images saved to {out}")


def save_features(path: Path, features: Any, items: Sequence[str], files: Sequence[str]) -> None:
    """Features, ids and files as .npz or .csv.

    Raises ConfigError for another suffix or a full disk.
    """
    from gpumpc.retrieval.evaluation.features import write_features

    write_features(path, features, items, files)


def classify(
    config: ConfigOption,
    plan: Annotated[
        Path,
        typer.Option(
            "--plan",
            help="Folder of the plan that ends in a class; with --index, that of the features.",
        ),
    ],
    items: Named = None,
    everything: All = False,
    source: Annotated[
        Path | None, typer.Option(help="Folder of the plan whose kept features the head takes.")
    ] = None,
    index: Annotated[
        str, typer.Option(help="Let the nearest rows of this index vote, instead of a head.")
    ] = "",
    top: Annotated[int, typer.Option(min=1, help="How many of them vote.")] = 5,
    catalog: CatalogOption = None,
) -> None:
    """Classify shared images; what comes back is what the plan's policy says, or the nearest's
    vote, sealed to this user.
    """
    from gpumpc.program import plan as plan_files

    names = items or []
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
        check_named(names, everything)
        client.wait_ready(READY_S)
        if index:
            chosen = client.list_features() if everything else items_of(known, names)
            for item, label in zip(
                chosen, client.open_index(index).classify(chosen, top), strict=True
            ):
                typer.echo(f"{place_of(known, item)}\t{label}")
            return
        below = plan_files.load(source) if source else None
        if everything and source:
            with connected(config, source) as features:
                chosen = features.list_features()
        else:
            chosen = client.list_inputs() if everything else items_of(known, names)
        if not chosen:
            raise MissingFile(
                "no image is shared, or none is extracted",
                hint="use `gpumpc share` and `gpumpc extract`",
            )
        with counted("images", client.batch_size, len(chosen)) as progress:
            result = client.run(chosen, progress, source=below).reveal()
        for item, row in zip(chosen, result, strict=True):
            typer.echo(f"{place_of(known, item)}\t{_shown(row, client)}")


def _shown(row: Any, client: Client) -> str:
    classes = client.plan.classes
    if not client.program.result_is_index:
        names = classes or range(len(row))
        return "\t".join(f"{name}={value:.4f}" for name, value in zip(names, row, strict=True))
    return "\t".join(
        classes[int(index)] if classes else str(int(index)) for index in np.atleast_1d(row)
    )


def search(
    image: Annotated[
        str, typer.Argument(help="An image file, or an item that is extracted already.")
    ],
    config: ConfigOption,
    plan: PlanOption,
    index: Annotated[str, typer.Option(help="Name of the index.")],
    top: Annotated[int, typer.Option(min=1, help="How many neighbours.")] = 5,
    catalog: CatalogOption = None,
) -> None:
    """Find the images most like one; neither server learns the question, the answer or a
    distance."""
    with exit_on_error(), connected(config, plan) as client, catalogued(config, catalog) as known:
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
    """The question as a kept result, and whether it was shared for this search alone."""
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
            f"{path} holds {len(read)} images",
            "a question is one image",
            "share it, and search by item id",
        )
    digest = pixel_digest(read[0].pixels)
    for entry in known.find_file(path):
        if entry.sha256 == digest and entry.item_id in kept:
            return entry.item_id, False
    item = secrets.token_hex(16)
    share_items(client, {item: read[0]})
    client.extract([item])
    return item, True


def load_array(path: Path) -> Any:
    """A .npy file's numbers. Raises MissingFile, ConfigError."""
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}", hint="give a .npy file") from None
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"{path} is no array of numbers", str(error), "save it with numpy.save"
        ) from error


def save_array(path: Path, array: Any) -> None:
    """A .npy file. Raises ConfigError for a full disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array, allow_pickle=False)
    except OSError as error:
        raise file_error(f"the result cannot be saved in {path}", error) from error
