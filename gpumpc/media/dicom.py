"""DICOM files as grey levels or RGB in [0, 1]. Runs in the reader process.

A grey value passes these steps (PS3.3 C.11): stored value, modality (slope and intercept, or
table), window (the recipe's, else the file's first, else its table, else minimum to maximum of the
file); MONOCHROME1 is inverted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableSequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gpumpc.errors import UnreadableImage
from gpumpc.extras import extra
from gpumpc.media.child_messages import Pixels
from gpumpc.media.grey_levels import check_size, finite, window

if TYPE_CHECKING:
    from pydicom import Dataset

Window = tuple[float, float]
Values = npt.NDArray[Any]

# A real file never has more bytes of pixels for one of compressed data; blank frames reach 3000.
MAX_RATIO = 10_000
CONVERT = (
    "install pylibjpeg with its plug-ins, or convert the file to Explicit VR Little Endian "
    "(gdcmconv --raw)"
)
_RLE = "1.2.840.10008.1.2.5"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def dicom_frames(file: BinaryIO, chosen: Window | None) -> Iterator[Pixels]:
    """Every frame of a DICOM file, (H, W) or (H, W, 3).

    Args:
        file: it, at its start.
        chosen: centre and width that take the place of the file's own, for grey images.

    Raises:
        UnreadableImage: not DICOM, no pixels, too large, shorter than it says, a transfer syntax
            without decoder.
        MissingExtra: pydicom is not installed.
    """
    pydicom = extra("pydicom", "dicom")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    dataset = _open(file, pydicom)
    _check(dataset)
    kind = str(dataset.PhotometricInterpretation)
    frames = _decoded(dataset)
    if int(dataset.get("SamplesPerPixel", 1)) == 3:
        return (window(frame, 0.0, 2.0 ** int(dataset.BitsStored) - 1) for frame in frames)
    if kind == "PALETTE COLOR":
        return _coloured(frames, dataset)
    return _greys(frames, dataset, chosen, inverted=kind == "MONOCHROME1")


def _open(file: BinaryIO, pydicom: ModuleType) -> Dataset:
    marked = file.read(132)[128:] == b"DICM"
    file.seek(0)
    try:
        # Old files lack the mark; that they are DICOM shows in their elements.
        dataset: Dataset = pydicom.dcmread(file, force=not marked)
        usable = marked or "Rows" in dataset or "SOPClassUID" in dataset
    except Exception as error:  # a parser of any file may raise anything
        if marked:
            raise
        raise _foreign() from error
    if not usable:
        raise _foreign()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        order = "LittleEndian" if implicit or little else "BigEndian"
        name = f"{'Implicit' if implicit else 'Explicit'}VR{order}"
        dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, name)
    return dataset


def _check(dataset: Dataset) -> None:
    """Refuse whatever can be refused before a pixel is decoded."""
    data = next((dataset[name].value for name in _PIXELS if name in dataset), None)
    if not data or "Rows" not in dataset or "Columns" not in dataset:
        why = "it is a report, a plan, a structure set, a waveform or a directory"
        what, hint = "the DICOM file holds no pixels", "share the image series itself"
        raise UnreadableImage(what, why, hint)
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    check_size(int(dataset.Columns), int(dataset.Rows), n_frames)
    syntax = dataset.file_meta.TransferSyntaxUID
    halved = dataset.PhotometricInterpretation == "YBR_FULL_422"
    samples = 2 if halved else int(dataset.get("SamplesPerPixel", 1))
    n_values = int(dataset.Columns) * int(dataset.Rows) * n_frames * samples
    n_bytes = -(-n_values * int(dataset.BitsAllocated) // 8)
    if syntax.is_compressed and not syntax.is_deflated:
        _check_decoder(dataset)
        longest, why = n_bytes // MAX_RATIO, "no real compressed image shrinks that far"
    else:
        longest, why = n_bytes, "it is truncated, or its header is forged"
    if len(data) < longest:
        what = f"the DICOM header promises {n_bytes} bytes of pixels and the file has {len(data)}"
        raise UnreadableImage(what, why, "copy or export it again")


def _check_decoder(dataset: Dataset) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = extra("pydicom.pixels", "dicom").get_decoder(syntax)
        lacking = decoder.missing_dependencies
        if decoder.is_available:
            return
    except RuntimeError:  # there is no decoder of this syntax at all
        lacking = []
    known = "an unknown one" if syntax.name == syntax else syntax.name
    what = f"the transfer syntax '{known}' ({syntax}) cannot be decoded"
    why = "no installed package reads it" + (f"; it takes {' | '.join(lacking)}" if lacking else "")
    raise UnreadableImage(what, why, CONVERT)


def _decoded(dataset: Dataset) -> Iterator[Values]:
    try:
        for index in range(int(dataset.get("NumberOfFrames") or 1)):
            # Not iter_pixels: of pydicom 3.0.2 it fails on frames whose sign it has to correct.
            frame = extra("pydicom.pixels", "dicom").pixel_array(dataset, index=index)
            yield _stored(frame, dataset)
    except RuntimeError as error:  # every installed decoder has tried and failed
        syntax = dataset.file_meta.TransferSyntaxUID
        what = f"no installed decoder can read this '{syntax.name}' data ({syntax})"
        why = "it is damaged, or of a variant that they lack (Pillow has no 12-bit JPEG)"
        raise UnreadableImage(what, why, CONVERT) from error


def _stored(frame: Values, dataset: Dataset) -> Values:
    """The stored value alone: bits above it may hold an overlay, which other decoders remove."""
    syntax = dataset.file_meta.TransferSyntaxUID
    decoded_elsewhere = syntax.is_compressed and not syntax.is_deflated and syntax != _RLE
    if frame.dtype.kind == "f" or decoded_elsewhere:
        return frame
    stored = int(dataset.BitsStored)
    high, width = int(dataset.get("HighBit", stored - 1)), 8 * frame.dtype.itemsize
    if not 0 < stored <= high + 1 <= width or stored == width or int(dataset.BitsAllocated) == 1:
        return frame
    # To the left, so that the highest stored bit is on top; then back, which extends the sign.
    return (frame << (width - 1 - high)) >> (width - stored)


def _coloured(frames: Iterator[Values], dataset: Dataset) -> Iterator[Pixels]:
    table = extra("pydicom.pixels", "dicom").apply_color_lut
    for frame in frames:
        colours = table(frame, dataset)
        yield window(colours[..., :3], 0.0, float(np.iinfo(colours.dtype).max))


def _greys(
    frames: Iterator[Values], dataset: Dataset, chosen: Window | None, *, inverted: bool
) -> Iterator[Pixels]:
    values = (_modality(frame, dataset, index) for index, frame in enumerate(frames))
    if chosen is None and not _windows(dataset, 0) and "VOILUTSequence" not in dataset:
        kept = list(values)
        low, high = _extent(kept, dataset)
        shown = (window(frame, low, high) for frame in kept)
    else:
        shown = (_shown(frame, dataset, index, chosen) for index, frame in enumerate(values))
    for image in shown:
        yield 1.0 - image if inverted else image


def _modality(frame: Values, dataset: Dataset, index: int) -> Values:
    holder = _described(dataset, index, "PixelValueTransformationSequence")
    if "ModalityLUTSequence" in holder:
        looked_up = extra("pydicom.pixels", "dicom").apply_modality_lut(frame, holder)
        return finite(np.asarray(looked_up, dtype=np.float64))
    slope, intercept = holder.get("RescaleSlope"), holder.get("RescaleIntercept")
    slope = 1.0 if slope is None else float(slope)
    intercept = 0.0 if intercept is None else float(intercept)
    if not math.isfinite(slope) or not math.isfinite(intercept):
        what = "the rescale slope or intercept is not a number"
        raise UnreadableImage(what, "the header is damaged", "export it again")
    return finite(frame.astype(np.float64) * slope + intercept)


def _shown(values: Values, dataset: Dataset, index: int, chosen: Window | None) -> Pixels:
    if chosen is not None:
        return window(values, chosen[0] - chosen[1] / 2, chosen[0] + chosen[1] / 2)
    pairs = _windows(dataset, index)
    if not pairs:
        if "VOILUTSequence" not in dataset:
            return window(values, float(values.min()), float(values.max()))
        table = dataset.VOILUTSequence[0].LUTDescriptor
        looked_up = extra("pydicom.pixels", "dicom").apply_voi(values.astype(np.int64), dataset)
        return window(looked_up, 0.0, 2.0 ** int(table[2]) - 1)
    centre, width = pairs[0]
    holder = _described(dataset, index, "FrameVOILUTSequence")
    function = str(holder.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":  # C.11.2.1.3.1; the exponent is cut where float64 gives 0 or 1 anyway
        exponent = np.clip(-4.0 * (values - centre) / width, -700, 700)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)), dtype=np.float32)
    if function == "LINEAR_EXACT":  # C.11.2.1.3.2
        return window(values, centre - width / 2, centre + width / 2)
    low = centre - 0.5 - (width - 1) / 2  # C.11.2.1.2
    return window(values, low, low + max(width - 1, 1e-9))


def _windows(dataset: Dataset, index: int) -> list[Window]:
    """The file's windows that can be used, in its order."""
    holder = _described(dataset, index, "FrameVOILUTSequence")
    centres, widths = _numbers(holder.get("WindowCenter")), _numbers(holder.get("WindowWidth"))
    exact = str(holder.get("VOILUTFunction") or "LINEAR") != "LINEAR"
    pairs = zip(centres, widths, strict=False)
    return [(c, w) for c, w in pairs if math.isfinite(c + w) and (w >= 1 or (exact and w > 0))]


def _numbers(value: object) -> list[float]:
    if value is None or value == "":
        return []
    values: Any = value if isinstance(value, MutableSequence | tuple) else [value]
    return [float(v) for v in values]


def _described(dataset: Dataset, index: int, name: str) -> Dataset:
    """The group that holds an attribute of a frame: its own, the shared one, or the file itself."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    for group in (*own[index : index + 1], *shared[:1]):
        if name in group and group[name].value:
            found: Dataset = group[name].value[0]
            return found
    return dataset


def _extent(frames: list[Values], dataset: Dataset) -> Window:
    """Minimum and maximum of the file, without the value that pads it."""
    padding = dataset.get("PixelPaddingValue")
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    blank = None if padding is None else float(padding) * float(slope or 1) + float(intercept or 0)
    kept = [frame if blank is None else frame[frame != blank] for frame in frames]
    shown = [values for values in kept if values.size]
    if not shown:
        return 0.0, 1.0
    return min(float(values.min()) for values in shown), max(float(v.max()) for v in shown)


def _foreign() -> UnreadableImage:
    why = "its content is not PNG, JPEG, TIFF, NIfTI (.nii, .nii.gz) or DICOM"
    hint = "convert it to one of these"
    return UnreadableImage("the file is not an image of a known kind", why, hint)
