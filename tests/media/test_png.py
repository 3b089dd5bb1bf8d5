"""PNG files: Pillow and this package's own reader see in them what was written."""

import io

import numpy as np
import pytest

from gpumpc.errors import BadShape, BadValue
from gpumpc.media.png import png
from gpumpc.media.read import read_image

Image = pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")
rng = np.random.default_rng(9)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 64, 1), (64, 64, 3), (3, 200, 3)])
def test_pillow_reads_written_png_exactly(shape):
    levels = rng.integers(0, 256, shape).astype(np.uint8)
    data = png(levels / 255.0)
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        mode = "RGB" if shape[-1] == 3 and len(shape) == 3 else "L"
        assert picture.format == "PNG" and picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture).reshape(shape), levels)
    assert png(levels / 255.0) == data


def test_png_rounds_to_the_nearest_level(tmp_path):
    grey = np.array([[0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0]])
    (tmp_path / "x.png").write_bytes(png(grey))
    [item] = read_image(tmp_path / "x.png")
    assert (item.pixels[..., 0] * 255).round(3).tolist() == [[0, 0, 1, 255, 255]]


@pytest.mark.parametrize("shape", [(), (4,), (4, 4, 2), (4, 4, 4), (0, 4), (1, 4, 4, 3)])
def test_png_refuses_shapes_that_are_not_images(shape):
    with pytest.raises(BadShape):
        png(np.zeros(shape))


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf])
def test_png_refuses_values_outside_0_to_1(value):
    with pytest.raises(BadValue):
        png([[0.5, value]])
