"""PNG, JPEG, TIFF and NIfTI: grey levels, depths, pages, slices, sizes."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import BadValue, MissingExtra, UnreadableImage
from gpumpc.media.child_messages import Options
from gpumpc.media.decode import images
from gpumpc.media.preprocess import LITE0_INPUT
from gpumpc.media.read import Item, read_image, read_images
from gpumpc.program.plan import Preprocessing

Image = pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")
nibabel = pytest.importorskip("nibabel", reason="the extra [images] is not installed")

rng = np.random.default_rng(11)
GREY8 = rng.integers(0, 256, (20, 30), dtype=np.uint8)
GREY16 = rng.integers(0, 65536, (20, 30), dtype=np.uint16)
COLOUR = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def read(path: Path, **options) -> list[np.ndarray]:
    return list(images(path, Options(**options)))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_8_and_16_bit_levels_are_exact(tmp_path, suffix):
    for values, top in ((GREY8, 255), (GREY16, 65535), (COLOUR, 255)):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(values).save(path)
        (got,) = read(path)
        want = values if values.ndim == 3 else values[..., None]
        np.testing.assert_allclose(got, want / np.float32(top), atol=1e-7)


def test_window_applies_only_above_8_bits(tmp_path):
    Image.fromarray(GREY16).save(tmp_path / "deep.png")
    Image.fromarray(GREY8).save(tmp_path / "flat.png")
    window = (1000.0, 400.0)
    (deep,), (flat,) = (read(tmp_path / f"{name}.png", window=window) for name in ("deep", "flat"))
    np.testing.assert_allclose(deep[..., 0], np.clip((GREY16 - 800.0) / 400.0, 0, 1), atol=1e-6)
    np.testing.assert_allclose(flat[..., 0], GREY8 / 255.0, atol=1e-6)


def test_bilevel_palette_alpha_and_float_images_are_read(tmp_path):
    Image.fromarray(GREY8 > 127).save(tmp_path / "bits.png")
    assert set(np.unique(read(tmp_path / "bits.png")[0])) == {0.0, 1.0}
    palette = Image.fromarray(COLOUR).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png")
    assert read(tmp_path / "palette.png")[0].shape == (20, 30, 3)
    Image.fromarray(np.dstack([COLOUR, GREY8])).save(tmp_path / "alpha.png")
    np.testing.assert_allclose(read(tmp_path / "alpha.png")[0], COLOUR / 255.0, atol=1e-6)
    Image.fromarray(rng.normal(size=(20, 30)).astype(np.float32)).save(tmp_path / "real.tif")
    got = read(tmp_path / "real.tif")[0]
    assert got.min() == 0.0 and got.max() == 1.0
    Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(UnreadableImage, match="NaN"):
        read(tmp_path / "nan.tif")


def test_jpeg_is_close_and_turned_upright(tmp_path):
    smooth = np.linspace(0, 255, 40 * 30).reshape(40, 30).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read(tmp_path / "a.jpg")[0][..., 0], smooth / 255, atol=0.03)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.fromarray(smooth).save(tmp_path / "b.jpg", exif=exif)
    assert read(tmp_path / "b.jpg")[0].shape == (30, 40, 1)


def test_tiff_pages_are_frames(tmp_path):
    pages = [Image.fromarray(rng.integers(0, 256, (8, 9), dtype=np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    found = read_image(tmp_path / "a.tif")
    assert [item.frame for item in found] == [0, 1, 2]
    for item, page in zip(found, pages, strict=True):
        np.testing.assert_allclose(item.pixels[..., 0], np.asarray(page) / 255.0, atol=1e-7)
        assert item.pixels.dtype == np.float64


def test_the_recipe_gives_size_and_channels(tmp_path):
    Image.fromarray(GREY8).save(tmp_path / "grey.png")
    Image.fromarray(COLOUR).save(tmp_path / "colour.png")
    for item in read_images(tmp_path, LITE0_INPUT):
        assert isinstance(item, Item) and item.pixels.shape == (64, 64, 3)
        is_grey = np.array_equal(item.pixels[..., 0], item.pixels[..., 2])
        assert (item.path.name == "grey.png") == is_grey
    one = Preprocessing((10, 15), (0.0,), (1.0,))
    grey = read_image(tmp_path / "colour.png", one)[0].pixels
    assert grey.shape == (10, 15, 1)
    # Halving with a triangle filter keeps the mean, near enough at the edges.
    assert grey.mean() == pytest.approx((COLOUR @ [0.299, 0.587, 0.114]).mean() / 255, abs=0.02)


def volume(path: Path, affine=None, shape=(6, 7, 8), dtype=np.int16) -> np.ndarray:
    values: np.ndarray = rng.integers(-500, 500, shape).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return values


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "no_suffix"])
def test_volume_slices_have_radiological_orientation(tmp_path, name):
    made = tmp_path / ("b.nii.gz" if name == "no_suffix" else name)
    values = volume(made)
    made.rename(tmp_path / name)
    window = (0.0, 1000.0)
    # An identity affine is right, front, up: what a radiologist sees has left, back and down in
    # front.
    seen = np.clip((values[::-1, ::-1, ::-1] + 500.0) / 1000.0, 0, 1)
    path = tmp_path / name
    axial, coronal, sagittal = (read(path, axis=axis, window=window) for axis in (2, 1, 0))
    assert (len(sagittal), len(coronal), len(axial)) == values.shape
    np.testing.assert_allclose(axial[2][..., 0], seen[:, :, ::-1][:, :, 2].T, atol=1e-6)
    np.testing.assert_allclose(coronal[2][..., 0], seen[:, 2, :].T, atol=1e-6)
    np.testing.assert_allclose(sagittal[2][..., 0], seen[2, :, :].T, atol=1e-6)


def test_storage_order_does_not_change_a_volume(tmp_path):
    values = rng.integers(0, 100, (6, 7, 8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 5
    turned = nibabel.Nifti1Image(values[::-1].transpose(0, 2, 1), flipped @ np.eye(4)[[0, 2, 1, 3]])
    nibabel.save(turned, tmp_path / "b.nii")
    for axis in (0, 1, 2):
        first, second = (read(tmp_path / name, axis=axis) for name in ("a.nii", "b.nii"))
        np.testing.assert_array_equal(first, second)


def test_other_nifti_volumes_are_read_or_refused(tmp_path):
    volume(tmp_path / "time.nii", shape=(4, 5, 6, 2))
    assert len(read(tmp_path / "time.nii")) == 12
    second = nibabel.Nifti2Image(np.ones((4, 5, 6), dtype=np.float32), np.eye(4))
    nibabel.save(second, tmp_path / "second.nii")
    assert len(read(tmp_path / "second.nii")) == 6
    volume(tmp_path / "five.nii", shape=(3, 3, 3, 2, 2))
    with pytest.raises(UnreadableImage, match="2 to 4 axes"):
        read(tmp_path / "five.nii")
    with gzip.open(tmp_path / "words.gz", "wb") as file:
        file.write(b"no volume")
    with pytest.raises(UnreadableImage, match="no NIfTI volume inside"):
        read(tmp_path / "words.gz")


def test_invalid_recipes_and_axes_are_refused(tmp_path):
    two_channels = Preprocessing((4, 4), (0.0,) * 2, (1.0,) * 2)
    for recipe in (two_channels, Preprocessing((4, 4), (0.0,), (1.0,), (40.0, 0.0))):
        with pytest.raises(BadValue):
            read_images(tmp_path, recipe)
    with pytest.raises(BadValue, match="no axis 3"):
        read_images(tmp_path, axis=3)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    Image.fromarray(GREY8).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtra, match=r"gpumpc\[images\]"):
        read(tmp_path / "a.png")
