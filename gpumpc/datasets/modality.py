"""modality-6: which machine made this image? Grey 64 x 64 patches, the same on every run.

MR, CT and echocardiograms are brought to 1 mm a pixel; the other pictures have no scale in mm. No
source (person, section or dish) is in both train and test. The sources are few, and the fundus test
patches overlap: print both numbers of `counts` beside any accuracy, and leave fundus out of
headlines. Which histology source trains was chosen after both ways were tried: from the stained
section to H&E a linear probe on Lite0 features finds nearly all of that class, the other way less
than a third. Accuracy therefore says how close fixed point and shares come to float, on real
pictures; it is no estimate of how well modalities can be told apart.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.datasets.fetch import CACHE, path_of
from gpumpc.datasets.labelled import LabelledImages
from gpumpc.datasets.nrrd import read_nrrd
from gpumpc.errors import ConfigError, MissingFile
from gpumpc.extras import extra
from gpumpc.media.child_messages import Options, Pixels
from gpumpc.media.decode import images, resize
from gpumpc.media.grey_levels import window

SIZE = 64
STRIDE = 32
# A tile is kept where its grey levels vary by more than this (standard deviation) ...
MIN_SPREAD = 0.02
# ... and at least this share of them is not black.
MIN_COVER, BLACK = 0.4, 0.05
LUNG_HU = (-1000.0, 400.0)

Slices = Callable[[Path], list[Pixels]]


class Origin(NamedTuple):
    """One source: class, part, package and file, how it becomes grey slices, its tiles' step."""

    label: str
    train: bool
    package: str
    file: str
    slices: Slices
    stride: int = STRIDE


def modality6(cache: Path = CACHE, *, n_train: int = 64, n_test: int = 32) -> LabelledImages:
    """The benchmark, (N, 64, 64, 1), as far as its packages are in the cache.

    A class is there when it has a source to train on and another one to test on.

    Args:
        cache: where `fetch` put the files.
        n_train, n_test: how many patches a class, at most.

    Raises:
        MissingFile: fewer than two classes are complete.
        MissingExtra: Pillow, nibabel or pydicom is not installed.
        ConfigError: a file yields no patch.
    """
    complete = _complete(cache)
    if len({origin.label for origin, _ in complete}) < 2:
        why = "at least two classes must have a source to train on and another one to test on"
        hint = f"run `gpumpc data fetch {' '.join(sorted({o.package for o in ORIGINS}))}`"
        raise MissingFile(f"{cache} holds too little of modality-6", why, hint)
    every = [origin for origin, _ in complete]
    n_class = {True: n_train, False: n_test}
    cut = [_cut(origin, path, every, n_class[origin.train]) for origin, path in complete]
    sizes = [len(tiles) for tiles in cut]
    return LabelledImages(
        np.concatenate(cut),
        np.repeat([o.label for o, _ in complete], sizes),
        np.repeat([f"{o.package} {o.file}" for o, _ in complete], sizes),
        np.repeat([o.train for o, _ in complete], sizes),
    )


def tile(image: Pixels, stride: int = STRIDE) -> Pixels:
    """The tiles (n, 64, 64) of an image (H, W) that show more than background, row by row."""
    if min(image.shape) < SIZE:
        return np.empty((0, SIZE, SIZE), dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (SIZE, SIZE))
    every = windows[::stride, ::stride].reshape(-1, SIZE, SIZE)
    spread, cover = every.std(axis=(1, 2)), (every > BLACK).mean(axis=(1, 2))
    return np.asarray(every[(spread > MIN_SPREAD) & (cover >= MIN_COVER)])


def spaced(count: int, n: int) -> npt.NDArray[np.int64]:
    """At most `count` of the numbers below n, evenly spaced."""
    kept = min(count, n)
    return np.arange(kept) * n // max(kept, 1)


def _complete(cache: Path) -> list[tuple[Origin, Path]]:
    """The origins whose file is there, of classes that have both parts."""
    present = [(origin, path) for origin in ORIGINS if (path := _path(origin, cache)) is not None]
    parts = {(origin.label, origin.train) for origin, _ in present}
    return [(o, path) for o, path in present if {(o.label, True), (o.label, False)} <= parts]


def _path(origin: Origin, cache: Path) -> Path | None:
    try:
        return path_of(origin.package, origin.file, cache)
    except MissingFile:
        return None


def _cut(origin: Origin, path: Path, every: list[Origin], n_class: int) -> npt.NDArray[np.float64]:
    """This origin's share of its class: evenly spaced over all its tiles, (n, 64, 64, 1)."""
    beside = [o for o in every if (o.label, o.train) == (origin.label, origin.train)]
    share = (n_class + len(beside) - 1 - beside.index(origin)) // len(beside)
    tiles = np.concatenate([tile(image, origin.stride) for image in origin.slices(path)])
    if not len(tiles):
        why = "it is all black or too small"
        raise ConfigError(f"{path} yields no patch", why, "fetch it again")
    return np.asarray(tiles[spaced(share, len(tiles)), :, :, None], dtype=np.float64)


def _resized(image: Pixels, rows: float, cols: float) -> Pixels:
    """A picture (H, W) times these factors; by the size of a pixel in mm, to pixels of 1 mm."""
    size = max(round(image.shape[0] * rows), 1), max(round(image.shape[1] * cols), 1)
    return resize(image[..., None], size)[..., 0]


def _nrrd(path: Path, low: float, high: float | None) -> list[Pixels]:
    """Axial slices but the outermost; `high` None: the 99.5th percentile of what is not zero."""
    values, (dx, dy, _) = read_nrrd(path)
    top = float(np.percentile(values[values > 0], 99.5)) if high is None else high
    inner = range(values.shape[2] // 8, values.shape[2] * 7 // 8)
    return [_resized(window(values[:, :, z].T, low, top), dy, dx) for z in inner]


def _mr(path: Path) -> list[Pixels]:
    return _nrrd(path, 0.0, None)


def _ct(path: Path) -> list[Pixels]:
    return _nrrd(path, *LUNG_HU)


def _template(path: Path) -> list[Pixels]:
    """Every sixth axial slice of a volume at 1 mm."""
    kept = list(images(path, Options()))
    return [image[..., 0] for image in kept[len(kept) // 4 : len(kept) * 4 // 5 : 6]]


def _echo(path: Path) -> list[Pixels]:
    """Every third frame of the sector, whose place and scale are written in the file."""
    dataset = extra("pydicom", "dicom").dcmread(path, stop_before_pixels=True)
    region = dataset.SequenceOfUltrasoundRegions[0]
    low_y, high_y = int(region.RegionLocationMinY0), int(region.RegionLocationMaxY1)
    low_x, high_x = int(region.RegionLocationMinX0), int(region.RegionLocationMaxX1)
    frames = [frame[..., 0] for frame in list(images(path, Options(channels=1)))[::3]]
    # A file that was scaled down after the scan still has the region of the original.
    shrunk = max(1, -(-high_y // frames[0].shape[0]))
    rows, cols = slice(low_y // shrunk, high_y // shrunk), slice(low_x // shrunk, high_x // shrunk)
    mm = 10.0 * shrunk * float(region.PhysicalDeltaX)  # the file has cm
    return [_resized(frame[rows, cols], mm, mm) for frame in frames]


def _lymph_node(path: Path) -> list[Pixels]:
    """The scan alone, without the text around it, at half size; its scale is not in the file."""
    return [_resized(image[108:336, 45:597], 0.5, 0.5) for image in _grey(path)]


def _grey(path: Path) -> list[Pixels]:
    return [image[..., 0] for image in images(path, Options(channels=1))]


def _half(path: Path) -> list[Pixels]:
    return [_resized(image, 0.5, 0.5) for image in _grey(path)]


def _bright(path: Path) -> list[Pixels]:
    return [_brightened(image) for image in _grey(path)]


def _bright_half(path: Path) -> list[Pixels]:
    return [_brightened(image) for image in _half(path)]


def _brightened(image: Pixels) -> Pixels:
    """From the 1st percentile to the 99.5th: fluorescence uses a small part of the range."""
    low, high = np.percentile(image, (1, 99.5))
    return window(image, float(low), float(high))


ORIGINS = (
    Origin(
        "MR brain", True, "icbm152", "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", _template
    ),
    Origin("MR brain", True, "pyradiomics", "brain1_image.nrrd", _mr),
    Origin("MR brain", False, "pyradiomics", "brain2_image.nrrd", _mr),
    Origin("CT thorax", True, "pyradiomics", "lung1_image.nrrd", _ct),
    Origin("CT thorax", False, "pyradiomics", "lung2_image.nrrd", _ct),
    Origin("ultrasound", True, "deid", "ultrasound-multiframe.dcm", _echo),
    Origin("ultrasound", True, "pydicom", "examples_jpeg2k.dcm", _lymph_node, 16),
    Origin("ultrasound", False, "pydicom", "examples_ybr_color.dcm", _echo),
    Origin("histology", True, "skimage", "ihc.png", _grey),
    Origin("histology", False, "stardist", "histo.jpg", _grey),
    Origin("fluorescence", True, "stardist", "img2d.tif", _bright),
    Origin("fluorescence", False, "nuclear", "nuclear.png", _bright_half),
    Origin("fundus", True, "skimage", "retina.jpg", _grey),
    Origin("fundus", False, "skimage", "microaneurysms.png", _grey, 19),
)
