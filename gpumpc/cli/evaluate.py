"""`gpumpc evaluate FEATURES --labels FILE`: how well revealed features find and classify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli.console import exit_on_error, output
from gpumpc.cli.options import FeaturesFile
from gpumpc.errors import BadValue
from gpumpc.params import one_of
from gpumpc.retrieval.evaluation.assess import LEVEL, Figure, Labelled, Metric, assess
from gpumpc.retrieval.evaluation.feature_file import Features, read_features
from gpumpc.retrieval.evaluation.labels import Label, Labels, read_labels


class Parts(NamedTuple):
    """Gallery, queries (None: leave-one-out), and the name of this division."""

    gallery: Labelled
    queries: Labelled | None
    mode: str


def evaluate(
    features: FeaturesFile,
    labels: Annotated[Path, typer.Option(help="A table: file,label[,source][,part].")],
    queries: Annotated[
        Path | None, typer.Option(help="Features of queries; FEATURES is the gallery then.")
    ] = None,
    metric: Annotated[str, typer.Option(help="cosine or l2.")] = "cosine",
    k: Annotated[str, typer.Option(help="Depths of P@k, recall@k and mAP@k.")] = "1,5,10",
    vote: Annotated[int, typer.Option(min=1, help="Neighbours that vote.")] = 5,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Even if the labels name parts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Search for each query in the clear, and print P@k, recall, mAP and k-NN accuracy.

    Without --queries the labels' column `part` tells gallery and queries apart; without that, each
    item is a query among all the others.
    """
    with exit_on_error():
        row = measure(features, labels, queries, metric, k, vote, leave_one_out)
    output(row, as_json, _show)


def measure(
    features: Path,
    labels: Path,
    queries: Path | None = None,
    metric: str = "cosine",
    k: str = "1,5,10",
    vote: int = 5,
    leave_one_out: bool = False,
) -> dict[str, Any]:
    """All figures. Raises errors of gpumpc.errors for files and numbers that cannot be used."""
    one_of("metric", metric, get_args(Metric))
    if queries is not None and leave_one_out:
        raise BadValue("--queries and --leave-one-out contradict each other", hint="give one")
    depths, table = _depths(k), read_labels(labels)
    gallery = read_features(features)
    parts = (
        _halves(gallery, table, leave_one_out)
        if queries is None
        else _two_files(gallery, read_features(queries), table)
    )
    found = assess(parts.gallery, parts.queries, metric=cast(Metric, metric), ks=depths, vote=vote)
    return _row(parts, metric, found)


def _depths(text: str) -> tuple[int, ...]:
    hint = "write whole numbers like 1,5,10"
    try:
        depths = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise BadValue(f"'{text}' is not a list of depths", hint=hint) from None
    if depths[0] < 1:
        raise BadValue(f"a depth of {depths[0]}", "the first rank is 1", hint)
    return depths


def _two_files(gallery: Features, queries: Features, table: Labels) -> Parts:
    both = set(gallery.items) & set(queries.items)
    if both:
        what = f"{len(both)} items are in the gallery and among the queries"
        why = f"such a query finds itself; one is '{min(both)}'"
        raise BadValue(what, why, "leave out --queries, for leave-one-out, or separate the files")
    return Parts(_labelled(gallery, table), _labelled(queries, table), "queries of their own")


def _halves(found: Features, table: Labels, leave_one_out: bool) -> Parts:
    rows = table.of(found.items, found.files)
    said = {row.train for row in rows}
    if leave_one_out or said == {None}:
        return Parts(_labelled(found, table), None, "leave-one-out")
    if said != {True, False}:
        what = "the labels do not divide the items into gallery and queries"
        why = "the column 'part' is empty for some, or names one part only"
        raise BadValue(what, why, "fill it in, or use --leave-one-out")
    gallery, queries = (_chosen(found, rows, train) for train in (True, False))
    return Parts(_labelled(gallery, table), _labelled(queries, table), "train and test")


def _chosen(found: Features, rows: list[Label], train: bool) -> Features:
    kept = [i for i, row in enumerate(rows) if row.train is train]
    files = tuple(found.files[i] for i in kept if found.files)
    return Features(found.features[kept], tuple(found.items[i] for i in kept), files)


def _labelled(found: Features, table: Labels) -> Labelled:
    rows = table.of(found.items, found.files)
    sources = [row.source for row in rows]
    return Labelled(found.features, [row.label for row in rows], sources if all(sources) else [])


def _row(parts: Parts, metric: str, figures: list[Figure]) -> dict[str, Any]:
    queries = parts.queries or parts.gallery
    sources, classes = set(queries.sources), set(parts.gallery.labels)
    return {
        "mode": parts.mode,
        "metric": metric,
        "n_gallery": len(parts.gallery.labels),
        "n_queries": len(queries.labels),
        "n_classes": len(classes),
        "n_gallery_sources": len(set(parts.gallery.sources)) or None,
        "n_query_sources": len(sources) or None,
        "n_sources_in_both": len(sources & set(parts.gallery.sources)) if parts.queries else None,
        "n_queries_without_match": sum(label not in classes for label in queries.labels),
        "interval_level": LEVEL,
        "interval_by": None if len(sources) == 1 else "source" if sources else "item",
        "figures": {f.key: {"mean": f.mean, "low": f.low, "high": f.high} for f in figures},
        "names": {f.key: f.name for f in figures},
        "definitions": {f.key: f.definition for f in figures},
    }


def _show(row: dict[str, Any]) -> None:
    title = (
        f"{row['n_queries']} queries among {row['n_gallery']} images of {row['n_classes']} "
        f"classes, {row['mode']}"
    )
    table = Table(
        "figure", "mean", f"{100 * LEVEL:.0f} % interval", "mean over the queries of", title=title
    )
    for key, figure in row["figures"].items():
        low, high = figure["low"], figure["high"]
        interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
        table.add_row(row["names"][key], f"{figure['mean']:.3f}", interval, row["definitions"][key])
    console = Console()
    console.print(table)
    for note in _notes(row):
        console.print(note, highlight=False)


def _notes(row: dict[str, Any]) -> list[str]:
    """Notes that a reader needs to judge the figures."""
    notes = [f"ranked by {row['metric']}; relevant are images with the query's label"]
    sources = row["n_query_sources"]
    match row["interval_by"]:
        case "source":
            notes.append(
                f"intervals: bootstrap over the {sources} sources of the queries; few sources, "
                "wide truth"
            )
        case "item":
            notes.append(
                "intervals: bootstrap over images as if they were independent; the labels "
                "name no sources"
            )
        case _:
            notes.append("no intervals: all queries come from one source")
    if row["n_sources_in_both"]:
        notes.append(f"{row['n_sources_in_both']} sources are in both parts: the figures flatter")
    if row["mode"] == "leave-one-out" and row["n_query_sources"]:
        notes.append("leave-one-out: other images of the query's own source may be found")
    if n_lost := row["n_queries_without_match"]:
        notes.append(f"{n_lost} queries have a label that the gallery lacks, and count as 0")
    return notes
