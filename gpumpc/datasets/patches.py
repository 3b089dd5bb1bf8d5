"""Inputs of bench.oracle: 64 x 64 RGB patches of real medical images, the same on every run."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.datasets.fetch import CACHE, SOURCES, Source, path_of
from gpumpc.errors import ConfigError, MissingFile
from gpumpc.extras import extra

FloatArray = npt.NDArray[np.float64]

SIZE = 64
# A tile is kept where its grey levels vary by more than this (standard deviation) ...
MIN_SPREAD = 0.02
# ... and at least this share of them is not black.
MIN_COVER, BLACK = 0.6, 0.05


class Patches(NamedTuple):
    """Images (N, 64, 64, 3) in [0, 1], with a label (the modality) and a source name each."""

    images: FloatArray
    labels: tuple[str, ...]
    sources: tuple[str, ...]


class Modality(NamedTuple):
    """A kind of image: its label, the fetched file, and the function that cuts its tiles."""

    label: str
    source: str
    file: str
    tiles: Callable[[Path], FloatArray]


def build_patches(
    count: int = 96, cache: Path = CACHE, sources: dict[str, Source] = SOURCES
) -> Patches:
    """Patches of every modality whose file is in the cache, in equal parts.

    Args:
        count: how many images; the first modalities get one more where it does not divide.
        cache: where `fetch` put the files.
        sources: `fetch`'s table.

    Raises:
        MissingFile: files of fewer than two packages are there.
        MissingExtra: Pillow or nibabel is not installed.
        ConfigError: the images yield fewer patches than asked for.
    """
    present = [(m, path) for m in MODALITIES if (path := _file_of(m, cache)) is not None]
    if len({m.source for m, _ in present}) < 2:
        what = f"{cache} holds images of fewer than two packages"
        hint = f"run `gpumpc data fetch {' '.join(sorted({m.source for m in MODALITIES}))}` first"
        raise MissingFile(what, "the patches must come from at least two", hint)
    images: list[FloatArray] = []
    labels: list[str] = []
    names: list[str] = []
    for index, (modality, path) in enumerate(present):
        share = (count + len(present) - 1 - index) // len(present)
        images.append(_pick(modality.tiles(path), share, modality.label))
        labels += [modality.label] * share
        names += [f"{sources[modality.source].package} {modality.file}"] * share
    return Patches(np.concatenate(images), tuple(labels), tuple(names))


def mr_tiles(path: Path) -> FloatArray:
    """Tiles of every fourth axial slice of a T1 volume, in grey, brightest percentile at 1."""
    nibabel = extra("nibabel")
    scaled = _brightened(np.asarray(nibabel.load(path).dataobj, dtype=np.float64))
    slices = [scaled[:, :, z] for z in range(scaled.shape[2] // 4, scaled.shape[2] * 4 // 5, 4)]
    return np.concatenate([_grid(np.repeat(image[..., None], 3, axis=-1)) for image in slices])


def fundus_tiles(path: Path) -> FloatArray:
    """Tiles of a fundus photograph, at half its resolution."""
    return _grid(_picture(path, shrink=2))


def histology_tiles(path: Path) -> FloatArray:
    """Tiles of a stained section at full resolution."""
    return _grid(_picture(path, shrink=1))


def fluorescence_tiles(path: Path) -> FloatArray:
    """Tiles of a fluorescence micrograph, at half its resolution, brightest percentile at 1."""
    return _grid(_brightened(_picture(path, shrink=2)))


MODALITIES = (
    Modality("MR brain", "icbm152", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", mr_tiles),
    Modality("fundus", "skimage", "retina.jpg", fundus_tiles),
    Modality("histology", "skimage", "ihc.png", histology_tiles),
    Modality("fluorescence", "nuclear", "nuclear.png", fluorescence_tiles),
)


def _file_of(modality: Modality, cache: Path) -> Path | None:
    try:
        return path_of(modality.source, modality.file, cache)
    except MissingFile:
        return None


def _picture(path: Path, shrink: int) -> FloatArray:
    """An RGB picture (H, W, 3) in [0, 1]; each pixel the mean of `shrink` x `shrink`."""
    with extra("PIL.Image").open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0
    rows, cols = pixels.shape[0] // shrink, pixels.shape[1] // shrink
    blocks = pixels[: rows * shrink, : cols * shrink].reshape(rows, shrink, cols, shrink, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _brightened(values: FloatArray) -> FloatArray:
    """Divided by the 99.5th percentile of what is not zero, and cut off at 1."""
    return np.clip(values / np.percentile(values[values > 0], 99.5), 0.0, 1.0)


def _grid(image: FloatArray) -> FloatArray:
    """The tiles (N, 64, 64, 3) of an image's central grid that show more than background."""
    rows, cols = image.shape[0] // SIZE, image.shape[1] // SIZE
    top, left = (image.shape[0] - rows * SIZE) // 2, (image.shape[1] - cols * SIZE) // 2
    centre = image[top : top + rows * SIZE, left : left + cols * SIZE]
    tiles = centre.reshape(rows, SIZE, cols, SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)
    spread, cover = tiles.std(axis=(1, 2, 3)), (tiles.max(axis=-1) > BLACK).mean(axis=(1, 2))
    return np.asarray(tiles[(spread > MIN_SPREAD) & (cover >= MIN_COVER)])


def _pick(tiles: FloatArray, count: int, label: str) -> FloatArray:
    """`count` tiles, evenly spaced."""
    if len(tiles) < count:
        what = f"the {label} image yields {len(tiles)} patches, {count} were asked for"
        raise ConfigError(what, hint="ask for fewer patches")
    return tiles[np.arange(count) * len(tiles) // max(count, 1)]
