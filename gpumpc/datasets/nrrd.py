"""Volumes in NRRD files: the part of the format that the fetched packages use.

For files of known digest only.
"""

import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.errors import UnreadableImage

TYPES = {
    "short": "<i2",
    "unsigned short": "<u2",
    "int": "<i4",
    "unsigned char": "u1",
    "float": "<f4",
}


class Volume(NamedTuple):
    """Values (X, Y, Z) as float64, and the size of a voxel in mm along each axis."""

    values: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]


def read_nrrd(path: Path) -> Volume:
    """A volume of three axes, little-endian, gzip, data attached. Raises UnreadableImage."""
    try:
        head, _, packed = path.read_bytes().partition(b"\n\n")
        lines = head.decode("ascii").splitlines()
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        x, y, z = (int(word) for word in fields["sizes"].split())
        if (fields["encoding"], fields.get("endian", "little")) != ("gzip", "little"):
            raise ValueError("another encoding")
        kind = np.dtype(TYPES[fields["type"]])
        raw = zlib.decompressobj(wbits=31).decompress(packed, x * y * z * kind.itemsize)
        values = np.frombuffer(raw, kind).reshape((x, y, z), order="F").astype(np.float64)
        directions = [word.strip("()").split(",") for word in fields["space directions"].split()]
        dx, dy, dz = (math.hypot(*(float(part) for part in axis)) for axis in directions)
    except (KeyError, ValueError, zlib.error) as error:
        what, hint = f"{path} is no NRRD volume that is read here", "run `gpumpc data fetch` again"
        raise UnreadableImage(what, str(error), hint) from error
    return Volume(values, (dx, dy, dz))
