"""Pixels to the model's input, by the recipe that the plan holds."""

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape
from gpumpc.program.plan import Preprocessing

FloatArray = npt.NDArray[np.float64]

LITE0_INPUT = Preprocessing(size=(64, 64), mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


def preprocess(images: npt.ArrayLike, recipe: Preprocessing = LITE0_INPUT) -> FloatArray:
    """Pixels in [0, 1], (B, H, W, C), as `(255 x - mean) / std`; grey gives every channel.

    Raises BadShape for images of another size or number of channels.
    """
    pixels = np.asarray(images, dtype=np.float64)
    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels.repeat(len(recipe.mean), axis=-1)
    wanted = (*recipe.size, len(recipe.mean))
    if pixels.shape[1:] != wanted:
        what = f"images of shape {pixels.shape}"
        why = f"the plan's preprocessing takes (batch, {wanted[0]}, {wanted[1]}, {wanted[2]})"
        raise BadShape(what, why, "cut or resize the images to that size, channels last")
    return np.asarray((pixels * 255.0 - recipe.mean) / recipe.std)
