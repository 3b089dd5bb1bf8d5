"""A file's images as float32 in [0, 1]. Runs in the reader process, because a file may be hostile.

The first bytes of a file say of which kind it is, never its name.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from gpumpc.errors import UnreadableImage
from gpumpc.extras import extra
from gpumpc.media.child_messages import Options, Pixels
from gpumpc.media.dicom import dicom_frames
from gpumpc.media.grey_levels import check_size, finite, window

if TYPE_CHECKING:
    from PIL.Image import Image

# The kinds of files that have decoders of their own.
PICTURES, VOLUMES, DICOM = "pictures", "volumes", "dicom"
MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DICM = slice(128, 132)
GZIP = b"\x1f\x8b"
HEAD_BYTES = 352
# The magic of a NIfTI-1 and a NIfTI-2 file lies at these offsets; "n+1" means header and data in
# one file.
_NIFTI1, _NIFTI2 = slice(344, 348), slice(4, 8)
# A volume without a window: these percentiles of its values become 0 and 1.
DARKEST, BRIGHTEST = 0.5, 99.5
LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)  # ITU-R BT.601


def kind_of(head: bytes) -> str:
    """The kind that a file's first HEAD_BYTES say it is of: DICOM where they say nothing, as it may
    begin with anything, or with the magic of a TIFF, for readers of both.
    """
    if head[DICM] != b"DICM" and head.startswith(MAGICS):
        return PICTURES
    return VOLUMES if head.startswith(GZIP) or _nifti_class(head) else DICOM


def images(path: Path, options: Options) -> Iterator[Pixels]:
    """The images of a file by its path, see `images_of`."""
    with open(path, "rb") as file:
        yield from images_of(file, options)


def images_of(file: BinaryIO, options: Options) -> Iterator[Pixels]:
    """Every image of a file, (H, W, C) in [0, 1], in the size and with the channels asked for.

    Raises:
        UnreadableImage: not an image, damaged, or beyond the limits.
        MissingExtra: the package for this kind is not installed.
    """
    for image in _native(file, options):
        yield fit(image, options)


def fit(image: Pixels, options: Options) -> Pixels:
    """An image (H, W) or (H, W, 3) in the wanted size (triangle filter) and channels."""
    planes = image[..., None] if image.ndim == 2 else image
    if options.channels == 1 and planes.shape[2] == 3:
        planes = planes @ LUMA[:, None]
    if options.size is not None:
        planes = resize(planes, options.size)
    if options.channels == 3 and planes.shape[2] == 1:
        planes = planes.repeat(3, axis=2)
    return np.clip(planes, 0.0, 1.0)


def resize(planes: Pixels, size: tuple[int, int]) -> Pixels:
    """(H, W, C) -> (*size, C); each plane alone, so that no precision is lost to 8 bits."""
    image = extra("PIL.Image")
    height, width = size
    flat = (np.ascontiguousarray(planes[..., c], dtype=np.float32) for c in range(planes.shape[2]))
    wanted = (width, height), image.Resampling.BILINEAR
    filtered = [image.fromarray(plane).resize(*wanted) for plane in flat]
    return np.stack([np.asarray(plane, dtype=np.float32) for plane in filtered], axis=-1)


def _native(file: BinaryIO, options: Options) -> Iterator[Pixels]:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        hint = "copy it again from where it came from"
        raise UnreadableImage("the file is empty", "it has zero bytes", hint)
    kind = kind_of(head)
    if kind == PICTURES:
        return pictures(file, options)
    if kind == DICOM:
        return dicom_frames(file, options.window)
    is_zipped = head.startswith(GZIP)
    if is_zipped:
        with gzip.open(file) as stream:
            head = stream.read(HEAD_BYTES)
        file.seek(0)
        if not _nifti_class(head):
            why = "it is compressed with gzip, and has no NIfTI volume inside"
            hint = "unpack it, and share the images"
            raise UnreadableImage("the file is not an image", why, hint)
    return slices(file, _nifti_class(head), is_zipped, options)


def pictures(stream: BinaryIO, options: Options) -> Iterator[Pixels]:
    """The pages of a PNG, JPEG or TIFF: 8-bit grey or RGB (alpha is dropped), 16- or 32-bit grey.

    8 bits have the range 0 to 255 and 16 bits 0 to 65535, unless a window is given; 32 bits run
    from their minimum to their maximum.
    """
    image, ops = extra("PIL.Image"), extra("PIL.ImageOps")
    vars(image)["MAX_IMAGE_PIXELS"] = None  # checked here, before any pixel is decoded
    with image.open(stream, formats=("PNG", "JPEG", "TIFF")) as file:
        check_size(file.width, file.height, 1)
        n_pages = getattr(file, "n_frames", 1)
        check_size(file.width, file.height, n_pages)
        for page in range(n_pages):
            file.seek(page)
            check_size(file.width, file.height, 1)
            yield _grey_levels(ops.exif_transpose(file), options)


def _grey_levels(page: Image, options: Options) -> Pixels:
    if page.mode.startswith(("I", "F")):
        values = np.asarray(page)
        if options.window is not None:
            centre, width = options.window
            return window(values, centre - width / 2, centre + width / 2)
        if page.mode.startswith("I;16"):
            return window(values, 0.0, 65535.0)
        return window(finite(values), float(values.min()), float(values.max()))
    plain = page.convert("L" if page.mode in ("1", "L", "LA") else "RGB")
    return np.asarray(plain, dtype=np.float32) / np.float32(255.0)


def slices(file: BinaryIO, kind: str, is_zipped: bool, options: Options) -> Iterator[Pixels]:
    """The slices of a NIfTI volume along an axis, as in radiology: left is right, head up."""
    nibabel = extra("nibabel")
    with gzip.open(file) if is_zipped else file as stream:
        volume = getattr(nibabel, kind).from_stream(stream)
        shape = volume.shape
        dtype = volume.get_data_dtype()
        if not 2 <= len(shape) <= 4 or dtype.fields:
            what = f"the NIfTI file holds an array of shape {shape} and type {dtype}"
            why = "grey volumes of 2 to 4 axes are read"
            raise UnreadableImage(what, why, "save one volume, one value a voxel")
        check_size(shape[0], shape[1], max(int(np.prod(shape[2:])), 1))
        values = finite(volume.get_fdata(dtype=np.float32, caching="unchanged"))
        codes = nibabel.orientations.io_orientation(volume.affine)
    values = values.reshape(shape + (1,) * (4 - len(shape)))
    if np.isnan(codes).any():
        codes = np.array([[0, 1], [1, 1], [2, 1]])
    turned = nibabel.orientations.apply_orientation(values, codes)
    upright = turned[::-1, ::-1, ::-1]  # to left, back, down
    low, high = _range(values, options)
    for moment in range(upright.shape[3]):
        for cut in _along(upright[..., moment], options.axis):
            yield window(cut, low, high)


def _along(volume: Pixels, axis: int) -> Iterator[Pixels]:
    """Slices from the patient's right, front or feet on; rows run down or back, columns left."""
    moved = np.moveaxis(volume, axis, 0)
    if axis == 2:
        moved = moved[::-1]
    for cut in moved:
        yield cut.T


def _range(values: Pixels, options: Options) -> tuple[float, float]:
    if options.window is not None:
        centre, width = options.window
        return centre - width / 2, centre + width / 2
    low, high = np.percentile(values, (DARKEST, BRIGHTEST))
    return float(low), float(high)


def _nifti_class(head: bytes) -> str:
    if head[_NIFTI1] == b"n+1\0":
        return "Nifti1Image"
    return "Nifti2Image" if head[_NIFTI2] == b"n+2\0" else ""
