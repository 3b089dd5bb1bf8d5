"""`gpumpc data`: real images and weights from packages, and folders of patches cut from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli.console import exit_on_error
from gpumpc.datasets import fetch as packages
from gpumpc.datasets.export import BENCHMARKS, LABELS_FILE, write_folder
from gpumpc.datasets.labelled import LabelledImages
from gpumpc.datasets.licences import LICENCES
from gpumpc.errors import ConfigError, MissingFile

app = typer.Typer(name="data", help="Real images and weights from packages.", no_args_is_help=True)

CacheOption = Annotated[Path, typer.Option(help="Folder of fetched files.")]


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Sources; all unless given. See `gpumpc data list`.")
    ] = None,
    cache: CacheOption = packages.CACHE,
) -> None:
    """Download pinned packages, check them, keep the files that are used; nothing in them is run.

    Sources that cannot be fetched are named and left out; the exit code is 1 if none was fetched.
    """
    with exit_on_error():
        came = bring(names or list(packages.SOURCES), cache)
    raise typer.Exit(0 if came else 1)


def bring(names: list[str], cache: Path) -> bool:
    """Fetch sources and print them; True if any is here. Raises ConfigError for an unknown name."""
    fetched = packages.fetch(names, cache, sources=packages.SOURCES, say=typer.echo)
    for name, files in fetched.files.items():
        typer.echo(f"here {name}: {', '.join(path.name for path in files)}")
    for name, why in fetched.missing.items():
        typer.echo(f"missing {name}: {why}")
    n_here, n_all = len(fetched.files), len(fetched.files) + len(fetched.missing)
    typer.echo(f"{n_here} of {n_all} sources are in {cache}")
    return bool(fetched.files)


@app.command("list")
def list_sources(cache: CacheOption = packages.CACHE) -> None:
    """Show the sources, whether they are here, their licences, and the benchmarks cut from them."""
    console = Console()
    table = Table("source", "package", "MB", "here", "licence of the package")
    for name, source in packages.SOURCES.items():
        here = "yes" if _is_here(name, cache) else "no"
        size = f"{source.download_bytes / 1e6:.1f}"
        table.add_row(
            name, f"{source.package} {source.version}", size, here, LICENCES[name].package
        )
    console.print(table)
    table = Table("benchmark", "question", "sources not here")
    for name, benchmark in BENCHMARKS.items():
        table.add_row(name, benchmark.question, ", ".join(_absent(name, cache)) or "none")
    console.print(table)


def _absent(benchmark: str, cache: Path) -> list[str]:
    return [source for source in BENCHMARKS[benchmark].sources if not _is_here(source, cache)]


def _is_here(name: str, cache: Path) -> bool:
    try:
        return bool(packages.paths(name, cache, packages.SOURCES))
    except MissingFile:
        return False


@app.command()
def build(
    benchmark: Annotated[str, typer.Argument(help=" | ".join(BENCHMARKS))],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    train: Annotated[
        int, typer.Option(min=1, help="Images a class to train on or to search, at most.")
    ] = 64,
    test: Annotated[int, typer.Option(min=1, help="Images a class to test with, at most.")] = 32,
    cache: CacheOption = packages.CACHE,
) -> None:
    """Cut patches and write them as PNG files: train/CLASS, test/CLASS and labels.csv.

    Fetch the sources first.
    """
    with exit_on_error():
        images, n_files = build_folder(benchmark, out, train, test, cache)
    table = Table("class", "train", "of sources", "test", "of sources", title=benchmark)
    for name, count in images.counts().items():
        numbers = (count.n_train, count.n_train_sources, count.n_test, count.n_test_sources)
        table.add_row(name, *map(str, numbers))
    Console().print(table)
    if absent := _absent(benchmark, cache):
        typer.echo(
            f"cut without {', '.join(absent)}: run `gpumpc data fetch {' '.join(absent)}` for the "
            "whole benchmark"
        )
    typer.echo(f"{n_files} images and {LABELS_FILE} are in {out}")


def build_folder(
    benchmark: str, out: Path, n_train: int, n_test: int, cache: Path
) -> tuple[LabelledImages, int]:
    """The benchmark and how many files were written.

    Raises errors of gpumpc.errors; the folder is whole or absent.
    """
    if benchmark not in BENCHMARKS:
        hint = f"use {' or '.join(BENCHMARKS)}"
        what, why = f"there is no benchmark '{benchmark}'", f"there are {len(BENCHMARKS)}"
        raise ConfigError(what, why, hint)
    chosen = BENCHMARKS[benchmark]
    images = chosen.build(cache, n_train, n_test)
    return images, write_folder(images, out, chosen.sources)
