"""A benchmark as a folder of pictures: for people who have no images of their own at hand."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from gpumpc.datasets.brain import brain_region8
from gpumpc.datasets.labelled import LabelledImages
from gpumpc.datasets.licences import notice
from gpumpc.datasets.modality import ORIGINS, modality6
from gpumpc.errors import ConfigError
from gpumpc.media.png import png
from gpumpc.offline.secret import file_error
from gpumpc.retrieval.evaluation.labels import Label, write_labels

LABELS_FILE, NOTICE_FILE = "labels.csv", "NOTICE.txt"


class Benchmark(NamedTuple):
    """Its function (cache, train and test patches a class), its sources, and its question."""

    build: Callable[[Path, int, int], LabelledImages]
    sources: tuple[str, ...]
    question: str


BENCHMARKS: dict[str, Benchmark] = {
    "modality-6": Benchmark(
        lambda cache, n_train, n_test: modality6(cache, n_train=n_train, n_test=n_test),
        tuple(sorted({origin.package for origin in ORIGINS})),
        "which machine made this image?",
    ),
    "brain-region-8": Benchmark(
        lambda cache, n_train, n_test: brain_region8(cache, n_gallery=n_train, n_query=n_test),
        ("icbm152", "mricron"),
        "where in the brain is the centre of this patch?",
    ),
}


def write_folder(images: LabelledImages, folder: Path, sources: Iterable[str]) -> int:
    """Write PNG files in `train/CLASS/` and `test/CLASS/`, `labels.csv` and the licences of the
    fetched `sources`; how many pictures. The folder is there whole, or not at all.

    Raises ConfigError if it holds something, or cannot be written.
    """
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            why, hint = "nothing in it is overwritten", "give a new folder"
            raise ConfigError(f"{folder} is not empty", why, hint)
        draft.mkdir(parents=True)
        try:
            rows = _write_pictures(images, draft)
            with open(draft / LABELS_FILE, "w", encoding="utf-8", newline="") as file:
                write_labels(file, rows)
            (draft / NOTICE_FILE).write_text(notice(sources), encoding="utf-8")
            os.replace(draft, folder)  # also over an empty folder
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise file_error(f"the images cannot be written to {folder}", error) from error
    return len(rows)


def _write_pictures(images: LabelledImages, folder: Path) -> list[tuple[str, Label]]:
    rows: list[tuple[str, Label]] = []
    counts: dict[str, int] = {}
    for image, label, source, train in zip(*images, strict=True):
        inside = f"{'train' if train else 'test'}/{label.replace(' ', '-')}"
        number = counts[inside] = counts.get(inside, -1) + 1
        name = f"{inside}/{number:04d}.png"
        (folder / inside).mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(image))
        rows.append((name, Label(str(label), str(source), bool(train))))
    return rows
