"""Stored values to grey levels, and limits of size that are checked before decoding."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gpumpc.errors import UnreadableImage
from gpumpc.media.child_messages import MAX_FILE_PIXELS, MAX_FRAMES, MAX_PIXELS, Pixels

Number = TypeVar("Number", bound=np.number)


def window(values: npt.ArrayLike, low: float, high: float) -> Pixels:
    """`low` to 0, `high` to 1, linear between, cut off outside; an empty range gives 0."""
    span = high - low
    scaled = (np.asarray(values, dtype=np.float64) - low) / (span if span > 0 else 1.0)
    return np.clip(scaled, 0.0, 1.0).astype(np.float32)


def check_size(width: int, height: int, n_frames: int) -> None:
    """Refuse an image that would fill the memory. Raises UnreadableImage."""
    per_frame = width * height
    if per_frame < 1 or n_frames < 1:
        why = f"its header says {width} x {height}"
        raise UnreadableImage("the image is empty", why, "export it again")
    if per_frame > MAX_PIXELS or n_frames > MAX_FRAMES or per_frame * n_frames > MAX_FILE_PIXELS:
        frames = f"{MAX_PIXELS} pixels a frame, {MAX_FRAMES} frames"
        raise UnreadableImage(
            f"the image is too large: {width} x {height} pixels, {n_frames} frames",
            f"the limits are {frames}, {MAX_FILE_PIXELS} pixels a file",
            "cut or scale it down, or split the file",
        )


def finite(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """The values themselves. Raises UnreadableImage if one is NaN or infinite."""
    if not np.isfinite(values).all():
        why = "its values are not all numbers"
        raise UnreadableImage("the image holds NaN or infinity", why, "export it again")
    return values
