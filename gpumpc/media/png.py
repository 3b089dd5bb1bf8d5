"""Pictures as 8-bit PNG files, with the standard library alone.

Source: ISO/IEC 15948 (PNG), sections 5, 9 and 11.
"""

import struct
import zlib

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, BadValue

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour types by number of channels: grey, true colour.
_COLOUR = {1: 0, 3: 2}


def png(image: npt.ArrayLike) -> bytes:
    """A picture (H, W), (H, W, 1) or (H, W, 3) of values in [0, 1], as 8 bits; always the same.

    Raises:
        BadShape: another shape.
        BadValue: a value outside [0, 1], or NaN.
    """
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or not pixels.size or pixels.shape[2] not in _COLOUR:
        hint = "pass (H, W), (H, W, 1) or (H, W, 3)"
        raise BadShape(f"a picture of shape {pixels.shape}", hint=hint)
    if not (pixels.min() >= 0.0 and pixels.max() <= 1.0):  # also false for NaN
        hint = "scale it, or undo its preprocessing"
        raise BadValue("a picture has values outside [0, 1]", hint=hint)
    height, width, channels = pixels.shape
    levels = np.rint(pixels * 255.0).astype(np.uint8).reshape(height, width * channels)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR[channels], 0, 0, 0)
    # Each row begins with its filter: 0, none.
    rows = np.pad(levels, ((0, 0), (1, 0))).tobytes()
    data, end = _chunk(b"IDAT", zlib.compress(rows, 9)), _chunk(b"IEND", b"")
    return _SIGNATURE + _chunk(b"IHDR", header) + data + end


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
