"""Verbs over images at the servers: share, list, delete."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpumpc.cli.console import console
from gpumpc.cli.item_lookup import READY_S, check_named, connected, items_of, place_of
from gpumpc.cli.options import All, CatalogOption, ConfigOption, Named, PlanOption, ReceiptOption
from gpumpc.cli.receipt import kept
from gpumpc.errors import ConfigError, MissingFile, PlanError
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
    """Split images between the two servers; only shares of pixels and random ids are sent.

    Images that are shared already are left out, so an interrupted command can be run again.
    Files that cannot be read are listed and the rest goes through; the exit code is then 1.
    """
    with connected(config, plan, catalog) as (client, known):
        client.wait_connected(READY_S)
        arrays = [path for path in paths if path.suffix == ".npy"]
        if arrays and len(arrays) < len(paths):
            what, why = "arrays and images were given together", "only images are preprocessed"
            raise ConfigError(what, why, "share arrays alone")
        if arrays:
            _share_arrays(client, arrays)
        elif _share_images(client, known, paths, axis):
            raise typer.Exit(1)


def _share_arrays(client: Client, paths: Sequence[Path]) -> None:
    """Share inputs as the plan takes them, and print their ids."""
    for path in paths:
        with counted("images") as progress:
            items = client.share(load_array(path), progress=progress)
        typer.echo("\n".join(items))


def _share_images(client: Client, known: Catalog, paths: Sequence[Path], axis: int) -> int:
    """Share images from files; how many files were left out."""
    from gpumpc.media.read import read_images

    found = read_images(paths, recipe_of(client.plan), axis=axis)
    refused: list[Refused] = []
    n_shared = n_present = 0
    present = {*client.list_inputs()}
    with console.status("reading images") as status:
        for portion in _portions(found, refused):
            ids = known.add_all(portion)
            new = {key: item for key, item in zip(ids, portion, strict=True) if key not in present}
            n_present += len(portion) - len(new)
            if new:
                share_items(client, new)
                present.update(new)
                n_shared += len(new)
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

    pixels = np.stack([image.pixels for image in images.values()])
    client.share(preprocess(pixels, recipe_of(client.plan)), list(images))


def recipe_of(plan: PlanRecord) -> Preprocessing:
    """How a plan preprocesses an image. Raises PlanError where it does not say."""
    if plan.preprocessing is None:
        what = "this plan does not say how an image becomes its input"
        hint = "share .npy files of prepared inputs, or compile with preprocessing"
        raise PlanError(what, "it was compiled without preprocessing", hint)
    return plan.preprocessing


def _portions(found: Iterable[Item | Refused], refused: list[Refused]) -> Iterator[list[Item]]:
    """Read images, PORTION at a time; refusals go into the list."""
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


def load_array(path: Path) -> npt.NDArray[np.generic]:
    """A .npy file's numbers. Raises MissingFile, ConfigError."""
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        what, why = f"there is no file {path}", "the path is wrong"
        raise MissingFile(what, why, "give a .npy file") from None
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"{path} is not an array of numbers", str(error), "save it with numpy.save"
        ) from error


def list_items(config: ConfigOption, plan: PlanOption, catalog: CatalogOption = None) -> None:
    """Count what each server holds of this user's, and the images of it in the local catalogue."""
    with connected(config, plan, catalog) as (client, known):
        table = Table("", "server 0", "server 1")
        both = client.store_status()
        table.add_row("store pair", *(status.store_pair_id[:8] or "none" for status in both))
        for kind in sorted({*both[0].rows, *both[1].rows}):
            table.add_row(_kind(kind), *(str(status.rows.get(kind, 0)) for status in both))
        table.add_row("bytes of shares", *(str(status.n_bytes) for status in both))
        Console().print(table)
        stored, kept = client.list_inputs(), client.list_features()
        here = {entry.item_id for entry in known.all()}
        typer.echo(
            f"of this plan: {len(stored)} images, {len(kept)} features; {len(here)} images in the "
            "local catalogue"
        )
        if foreign := {*stored} - here:
            console.print(f"[yellow]{len(foreign)} shared images are not in this catalogue[/]")
        if lost := client.list_lost():
            console.print(
                f"[yellow]one server has lost rows of {len(lost)} items, as its files were put "
                "back from an older copy: share and extract these again, or delete them[/]"
            )
            for item in lost:
                typer.echo(place_of(known, item))


def _kind(kind: str) -> str:
    """`input/HASH ready` for people."""
    name, _, state = kind.rpartition(" ")
    what, _, rest = name.partition("/")
    return f"{what} {rest[:8] if len(rest) == 64 else rest}, {state}"


def delete(
    config: ConfigOption,
    plan: PlanOption,
    items: Named = None,
    everything: All = False,
    inputs_only: Annotated[
        bool, typer.Option("--images-only", help="Keep the features and index rows.")
    ] = False,
    catalog: CatalogOption = None,
    receipt: ReceiptOption = None,
) -> None:
    """Delete images at both servers, with their features and index rows."""
    with kept(receipt) as keep, connected(config, plan, catalog) as (client, known):
        chosen = items_of(known, check_named(items, everything))
        here = {*client.list_inputs(), *client.list_features(), *client.list_lost()}
        if everything:
            chosen = sorted(here)
        unknown = [item for item in chosen if item not in here]
        deletions = client.delete(chosen, inputs_only)
        if not inputs_only:
            for item in chosen:
                known.remove(item)
        keep(deletions)
        for item in unknown:
            console.print(f"[yellow]item {item} was at neither server[/]", highlight=False)
        typer.echo(f"{len(chosen) - len(unknown)} items deleted at both servers")
