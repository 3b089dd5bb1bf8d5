"""The demo's report: one HTML file that needs nothing else, no network, no script, no font.

Pictures are PNG data inside the page. A policy in its head forbids the browser to load anything, so
that opening it tells nobody of it. It holds revealed images: it is written for this user alone.
"""

import base64
import dataclasses
import os
import secrets
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.datasets.labelled import Count, LabelledImages
from gpumpc.demo.cost_plot import LayerCost, cost_section
from gpumpc.demo.report_style import STYLE
from gpumpc.media.png import png
from gpumpc.offline.secret import file_error

Image = npt.NDArray[np.floating]
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)


class Found(NamedTuple):
    """One result of a search: its image (H, W, C) in [0, 1], its class, and its score."""

    image: Image
    label: str
    score: float


class Query(NamedTuple):
    """One query.

    Attributes:
        image: (H, W, C) in [0, 1].
        truth: its class.
        secure_label: what the two servers found on shares.
        fixed_label: what fixed-point arithmetic in the clear finds.
        found: what the search gave, best first.
    """

    image: Image
    truth: str
    secure_label: str
    fixed_label: str
    found: Sequence[Found] = ()


class ClassRow(NamedTuple):
    """One class of the data: how many images and sources, and which sources."""

    name: str
    counted: Count
    train_sources: tuple[str, ...]
    test_sources: tuple[str, ...]


class Note(NamedTuple):
    """A heading and paragraphs of plain text, with empty lines between them."""

    heading: str
    text: str


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of the page.

    Attributes:
        title: heading of the page.
        rows: the headline table: what, measured.
        queries: each with its results.
        layers: cost by layer, in the order of the network; see `cost_plot.layer_costs`.
        classes: the data, see `class_rows`.
        notes: methods and limits.
        lead: one sentence under the title.
        score: the name of the scores, for people.
    """

    title: str
    rows: Sequence[tuple[str, str]]
    queries: Sequence[Query] = ()
    layers: Sequence[LayerCost] = ()
    classes: Sequence[ClassRow] = ()
    notes: Sequence[Note] = ()
    lead: str = ""
    score: str = "score"


def class_rows(images: LabelledImages) -> list[ClassRow]:
    """The table of classes of a benchmark."""
    return [
        ClassRow(name, count, *(_sources(images, name, train) for train in (True, False)))
        for name, count in images.counts().items()
    ]


def _sources(images: LabelledImages, name: str, train: bool) -> tuple[str, ...]:
    chosen = (images.labels == name) & (images.train == train)
    return tuple(np.unique(images.sources[chosen]).tolist())


def write_report(path: Path, report: Report) -> None:
    """Write the page (0600), all of it or nothing.

    Raises:
        BadShape, BadValue: an image that cannot be drawn.
        ConfigError: the system does not take the file.
    """
    text = html(report)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8", "backslashreplace"))
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise file_error(f"the report cannot be saved in {path}", error) from error


def html(report: Report) -> str:
    """The whole page. Raises BadShape, BadValue for an image that cannot be drawn."""
    lead = f'<p class="lead">{escape(report.lead)}</p>' if report.lead else ""
    sections = (
        ("Queries, and what was found", _queries(report)),
        ("Cost by layer", cost_section(report.layers)),
        ("Images and their sources", _classes(report.classes)),
        ("Notes", "".join(map(_note, report.notes))),
    )
    body = "".join(
        f"<section><h2>{heading}</h2>{text}</section>" for heading, text in sections if text
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" '
        'content="no-referrer">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head>"
        f"<body><header><h1>{escape(report.title)}</h1>{lead}</header><main>{_headline(report.rows)}{body}</main></body></html>\n"
    )


def _headline(rows: Sequence[tuple[str, str]]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(what)}</th><td>{escape(measured)}</td></tr>'
        for what, measured in rows
    )
    return f'<table class="headline"><tbody>{lines}</tbody></table>' if rows else ""


# queries


def _queries(report: Report) -> str:
    if not report.queries:
        return ""
    of = len(report.queries)
    n_right = sum(query.secure_label == query.truth for query in report.queries)
    n_same = sum(query.secure_label == query.fixed_label for query in report.queries)
    return (
        f"<p>On shares, {n_right} of {of} labels are right, and {n_same} of {of} equal those of "
        "fixed-point arithmetic in the clear. Next to each query are the images that the search "
        "found, nearest first: a solid frame and ✓ where the class is the query's, a dashed frame "
        "and ✗ where it is another. Under each: class and "
        f"{escape(report.score)}.</p>"
        f'<ul class="queries">{"".join(map(_query, report.queries))}</ul>'
    )


def _query(query: Query) -> str:
    right = query.secure_label == query.truth
    kind, word = ("right", "✓ right") if right else ("wrong", "✗ wrong")
    verdict = f'<span class="word-{kind}">{word}</span>'
    if query.fixed_label == query.secure_label:
        fixed = "fixed: the same"
    else:
        fixed = f'fixed: {escape(query.fixed_label)} <span class="word-wrong">≠ differs</span>'
    found = "".join(_found(result, query.truth) for result in query.found)
    return (
        f'<li class="query"><div class="asked">{_img(query.image, f"query, {query.truth}")}</div>'
        f'<div><p class="said"><strong>{escape(query.truth)}</strong> <span>secure: '
        f"{escape(query.secure_label)} {verdict}"
        f'</span> <span class="soft">{fixed}</span></p><ol class="found">{found}</ol></div></li>'
    )


def _found(result: Found, truth: str) -> str:
    kind, mark = ("right", "✓") if result.label == truth else ("wrong", "✗")
    return (
        f'<li class="{kind}"><figure><div '
        f'class="frame">{_img(result.image, f"found, {result.label}")}'
        f'<span class="badge" aria-hidden="true">{mark}</span></div><figcaption><span '
        f'class="hidden">{kind}: </span>'
        f"{escape(result.label)}<br><span "
        f'class="soft">{result.score:.4g}</span></figcaption></figure></li>'
    )


def _img(image: Image, alt: str) -> str:
    data = base64.b64encode(png(image)).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


# data and notes


def _classes(rows: Sequence[ClassRow]) -> str:
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(row.name)}</th>'
        f'<td class="n">{row.counted.n_train}</td>'
        f"<td>{_named(row.counted.n_train_sources, row.train_sources)}</td>"
        f'<td class="n">{row.counted.n_test}</td>'
        f"<td>{_named(row.counted.n_test_sources, row.test_sources)}</td></tr>"
        for row in rows
    )
    n_train = sum(row.counted.n_train for row in rows)
    n_test = sum(row.counted.n_test for row in rows)
    s_train = {name for row in rows for name in row.train_sources}
    s_test = {name for row in rows for name in row.test_sources}
    heads = (
        '<th>class</th><th class="n">train</th><th>from</th><th class="n">test</th><th>from</th>'
    )
    places = f"from {len(s_train)} sources to train on and to search, {n_test} from {len(s_test)}"
    return (
        f"<p>{n_train} images {places} to test with; {len(s_train & s_test) or 'none'} of them in "
        "both. Images of one source are not independent.</p>"
        f'<div class="wide"><table class="small"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _named(count: int, names: Sequence[str]) -> str:
    return f"{count} {'source' if count == 1 else 'sources'}: {escape(', '.join(names))}"


def _note(note: Note) -> str:
    parts = (part for part in note.text.split("\n\n") if part.strip())
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in parts)
    return f"<h3>{escape(note.heading)}</h3>{paragraphs}"
