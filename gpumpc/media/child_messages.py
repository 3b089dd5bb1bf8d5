"""Messages between the reader process and its parent: fixed headers, raw pixels, no pickle.

The parent trusts no answer: a file that took the reader over can only send numbers and short texts.
Before the first request the reader says once that it is ready, and what protects the parent.
"""

import struct
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]

# At most this many pixels an image (a mammogram has 20 million), images a file, and pixels a file
# in all.
MAX_PIXELS = 1 << 25
MAX_FRAMES = 4096
MAX_FILE_PIXELS = 1 << 28
MAX_TEXT_BYTES = 2048

IMAGE, DONE, REFUSED, READY = 1, 2, 3, 4
_MAGIC = b"GMI1"
# Magic, kind, height, width, channels; of a refusal, the height is the length of its text.
_HEADER = struct.Struct("<4sBIIB")
HEADER_BYTES = _HEADER.size


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a file becomes images.

    Attributes:
        size: height and width to resize to; None: as they are.
        channels: 1 or 3; None: as they are.
        window: centre and width, in the file's units.
        axis: the axis of a volume that slices are cut along: 0 sagittal, 1 coronal, 2 axial.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    window: tuple[float, float] | None = None
    axis: int = 2


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file to read; its descriptor travels beside this."""

    options: Options


class Header(NamedTuple):
    """Kind of a message and shape of its image."""

    kind: int
    height: int = 0
    width: int = 0
    channels: int = 0

    def pack(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(_MAGIC, *self)

    @property
    def payload_bytes(self) -> int:
        """Bytes that follow: float32 pixels, or a refusal's text."""
        return self.height if self.kind == REFUSED else 4 * self.height * self.width * self.channels


def parse_header(data: bytes | bytearray, options: Options) -> Header:
    """Check a header against the request. Raises ValueError if it cannot be an answer to it."""
    magic, *fields = _HEADER.unpack(data)
    header = Header(*fields)
    shape = header[1:]
    fits = {
        IMAGE: options.size in (None, shape[:2])
        and 0 < shape[0] * shape[1] <= MAX_PIXELS
        and shape[2] in (1, 3)
        and options.channels in (None, shape[2]),
        DONE: shape == (0, 0, 0),
        REFUSED: shape[0] <= MAX_TEXT_BYTES and shape[1:] == (0, 0),
    }
    if magic != _MAGIC or not fits.get(header.kind, False):
        raise ValueError("not a header of the image reader")
    return header


def parse_ready(data: bytes | bytearray) -> tuple[int, int]:
    """The ABI of Landlock and whether seccomp holds. Raises ValueError for another message."""
    magic, *fields = _HEADER.unpack(data)
    header = Header(*fields)
    if magic != _MAGIC or header.kind != READY or header.width > 1 or header.channels:
        raise ValueError("not the first header of the image reader")
    return header.height, header.width


def parse_pixels(header: Header, payload: bytes | bytearray) -> npt.NDArray[np.float64]:
    """An image (H, W, C) in [0, 1]. Raises ValueError for NaN or a value outside."""
    pixels = np.frombuffer(payload, dtype="<f4").reshape(header[1:]).astype(np.float64)
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # a comparison with NaN fails too
        raise ValueError("pixels outside [0, 1]")
    return pixels


def refusal(cause: str, hint: str) -> bytes:
    """A whole refusal, cut to the admitted length."""
    half = MAX_TEXT_BYTES // 2 - 1
    text = b"\n".join(part.replace("\n", " ").encode()[:half] for part in (cause, hint))
    return Header(REFUSED, len(text)).pack() + text


def parse_refusal(payload: bytes | bytearray) -> tuple[str, str]:
    """Cause and cure, without characters that could steer a terminal."""
    cause, _, hint = bytes(payload).decode(errors="replace").partition("\n")
    return _printable(cause), _printable(hint)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
