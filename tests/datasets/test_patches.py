"""Patches from synthetic phantoms: made here, no real image needed."""

import sys

import numpy as np
import pytest

from gpumpc.datasets.patches import MODALITIES, build_patches
from gpumpc.errors import BadShape, ConfigError, MissingExtra, MissingFile
from gpumpc.media.preprocess import LITE0_INPUT, preprocess

nibabel = pytest.importorskip("nibabel")
Image = pytest.importorskip("PIL.Image")


def phantom_picture(path, height, width, seed):
    """SYNTHETIC: blobs of colour on a bright ground."""
    rng, shape = np.random.default_rng(seed), (height // 8, width // 8, 3)
    pixels = rng.integers(80, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels.repeat(8, axis=0).repeat(8, axis=1)).save(path)


def phantom_head(path):
    """SYNTHETIC: a textured ball in a volume of zeros."""
    grid = np.indices((192, 192, 80)).astype(float)
    ball = ((grid[0] - 96) ** 2 + (grid[1] - 96) ** 2 + (grid[2] - 40) ** 2) < 90**2
    texture = np.random.default_rng(1).integers(60, 256, ball.shape)
    nibabel.save(nibabel.Nifti1Image((ball * texture).astype(np.uint8), np.eye(4)), path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    for modality in MODALITIES:
        (root / modality.source).mkdir(exist_ok=True)
        path = root / modality.source / modality.file
        if path.suffix == ".gz":
            phantom_head(path)
        else:
            phantom_picture(path, 1024, 1024, seed=len(modality.file))
    return root


def test_patches_are_rgb_labelled_and_repeatable(cache):
    first, second = build_patches(18, cache), build_patches(18, cache)
    assert first.images.shape == (18, 64, 64, 3)
    assert 0 <= first.images.min() <= first.images.max() <= 1
    assert [first.labels.count(m.label) for m in MODALITIES] == [5, 5, 4, 4]
    assert len({name.split()[0] for name in first.sources}) >= 2
    np.testing.assert_array_equal(first.images, second.images)
    assert len(np.unique(first.images, axis=0)) == 18
    brain = first.images[first.labels.index("MR brain")]
    assert np.array_equal(brain[..., 0], brain[..., 2])


def test_other_classes_fill_in_for_a_missing_package(cache, tmp_path):
    for source in ("icbm152", "skimage"):
        (tmp_path / source).symlink_to(cache / source)
    labels = build_patches(12, tmp_path).labels
    assert [labels.count(m.label) for m in MODALITIES] == [4, 4, 4, 0]


def test_one_package_alone_is_refused(cache, tmp_path):
    (tmp_path / "skimage").symlink_to(cache / "skimage")
    with pytest.raises(MissingFile, match="data fetch icbm152 nuclear skimage"):
        build_patches(12, tmp_path)


def test_more_patches_than_available_are_refused(cache):
    with pytest.raises(ConfigError, match="were asked for"):
        build_patches(100_000, cache)


def test_a_missing_extra_is_named(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingExtra, match=r"gpumpc\[images\]"):
        build_patches(12, cache)


def test_preprocessing_matches_the_network():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)) / 255.0
    pixels[0, 0, 0] = 0.0, 1.0, 127 / 255
    got = preprocess(pixels)
    np.testing.assert_allclose(got, (pixels * 255 - 127) / 128, rtol=1e-12, atol=1e-12)
    assert got[0, 0, 0].tolist() == [-127 / 128, 1.0, 0.0] and np.abs(got).max() <= 1.0
    with pytest.raises(BadShape, match="preprocessing takes"):
        preprocess(pixels[:, :32], LITE0_INPUT)
