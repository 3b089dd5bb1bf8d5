"""`labels.csv`: a table of images with the columns file, label and, if known, source and part.

`source` names the origin of an image (a person, a section, a dish): images of one source are not
independent samples. `part` is `train` or `gallery`, `test` or `query`.
"""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from gpumpc.errors import BadValue
from gpumpc.retrieval.evaluation.feature_file import csv_rows, opened_text

COLUMNS = ("file", "label", "source", "part")
MAX_BYTES = 256 << 20
PARTS = {"train": True, "gallery": True, "test": False, "query": False}


class Label(NamedTuple):
    """One line: the class, the origin (empty if unknown), whether in the gallery (None)."""

    label: str
    source: str = ""
    train: bool | None = None


class Labels:
    """Labels by file name as written, and by the path it means from the table's folder."""

    def __init__(self, path: Path, rows: Iterable[tuple[str, Label]]) -> None:
        self.path = path
        self._by_name: dict[str, Label] = {}
        for name, label in rows:
            for key in (name, os.path.abspath(path.parent / name)):
                if self._by_name.setdefault(key, label) != label:
                    hint = "leave one line a file"
                    raise BadValue(f"{path} says two things of '{name}'", hint=hint)

    def __len__(self) -> int:
        return len({id(label) for label in self._by_name.values()})

    def find(self, *names: str) -> Label | None:
        """The label of the first of these names that has one."""
        keys = [key for name in names if name for key in (name, os.path.abspath(name))]
        return next((self._by_name[key] for key in keys if key in self._by_name), None)

    def of(self, items: Sequence[str], files: Sequence[str]) -> list[Label]:
        """The label of each item, by its file or else its id.

        Raises BadValue that counts those without one.
        """
        places = files or [""] * len(items)
        found = [self.find(place, item) for item, place in zip(items, places, strict=True)]
        labels = [label for label in found if label is not None]
        if len(labels) < len(found):
            lost = found.index(None)
            raise BadValue(
                f"{found.count(None)} of {len(items)} items have no label in {self.path}",
                f"the first is '{places[lost] or items[lost]}', and the table begins with "
                f"'{next(iter(self._by_name), '')}'",
                "write names in the column 'file' as in the features file, or paths from the "
                "table's folder",
            )
        return labels


def read_labels(path: Path) -> Labels:
    """Read and check a table of labels.

    Raises:
        MissingFile: no such file.
        BadShape, BadValue: no columns `file` and `label`, an empty name or label, an unknown part,
            no lines, two lines that disagree, or not a table.
        ConfigError: the file cannot be read.
    """
    with opened_text(path, "a table of labels", max_bytes=MAX_BYTES) as text:
        return Labels(path, _rows(path, text))


def _rows(path: Path, text: IO[str]) -> list[tuple[str, Label]]:
    lines = csv_rows(path, text)
    _, header = next(lines, (0, []))
    if not {"file", "label"} <= set(header):
        why = "its first line names no columns file and label"
        raise BadValue(f"{path} is not a table of labels", why, f"use {','.join(COLUMNS)}")
    at = {name: header.index(name) for name in COLUMNS if name in header}
    rows = []
    for line, cells in lines:
        row = {name: cells[index].strip() for name, index in at.items()}
        part = row.get("part", "")
        if not row["file"] or not row["label"]:
            raise BadValue(f"line {line} of {path} has no file or no label", hint="fill it in")
        if part and part not in PARTS:
            hint = f"use {', '.join(PARTS)}, or leave it empty"
            raise BadValue(f"line {line} of {path} has the part '{part}'", hint=hint)
        rows.append((row["file"], Label(row["label"], row.get("source", ""), PARTS.get(part))))
    if not rows:
        raise BadValue(f"{path} has no line below its first", hint="write one line a file")
    return rows


def write_labels(file: IO[str], rows: Iterable[tuple[str, Label]]) -> None:
    """Write all columns."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, label in rows:
        part = "" if label.train is None else "train" if label.train else "test"
        writer.writerow([name, label.label, label.source, part])
