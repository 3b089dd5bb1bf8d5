"""Benchmarks from SYNTHETIC phantoms under the real names, and the fixture of real patches."""

import numpy as np
import pytest

from gpumpc.datasets.brain import GROUPS, TEMPLATE, brain_region8
from gpumpc.datasets.modality import modality6, spaced, tile
from gpumpc.datasets.nrrd import read_nrrd
from gpumpc.errors import ConfigError, MissingFile, UnreadableImage
from gpumpc.media.preprocess import LITE0_INPUT, preprocess
from tests.datasets.phantoms import phantom_nrrd, phantom_picture, touch_all
from tests.fixtures.load import CLASSES, modality_fixture

nibabel = pytest.importorskip("nibabel", reason="the extra [images] is not installed")
Image = pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")


@pytest.fixture
def cache(tmp_path):
    for name in ("skimage", "stardist", "nuclear", "pyradiomics"):
        touch_all(tmp_path, name)
    pictures = "skimage/ihc.png", "stardist/histo.jpg", "nuclear/nuclear.png", "skimage/retina.jpg"
    for seed, name in enumerate(pictures):
        phantom_picture(tmp_path / name, seed)
    phantom_picture(tmp_path / "skimage/microaneurysms.png", 9, (102, 102))
    grey = np.random.default_rng(8).integers(0, 4000, (200, 200)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "stardist/img2d.tif")
    for seed, name in enumerate(("brain1", "brain2", "lung1", "lung2")):
        phantom_nrrd(tmp_path / f"pyradiomics/{name}_image.nrrd", seed)
    return tmp_path


def test_sources_are_held_out_and_builds_are_repeatable(cache):
    first, second = modality6(cache, n_train=6, n_test=3), modality6(cache, n_train=6, n_test=3)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.images.shape[1:] == (64, 64, 1)
    assert 0 <= first.images.min() <= first.images.max() <= 1
    # There is no ultrasound package.
    assert first.classes == ("CT thorax", "MR brain", "fluorescence", "fundus", "histology")
    gallery, queries = first.part(train=True), first.part(train=False)
    assert not set(gallery.sources) & set(queries.sources)
    for count in first.counts().values():
        n_sources = (count.n_train_sources, count.n_test_sources)
        assert count.n_train == 6 and n_sources == (1, 1) and count.n_test > 0
    assert preprocess(first.images, LITE0_INPUT).shape == (len(first.images), 64, 64, 3)


def test_missing_or_empty_packages_are_refused(cache, tmp_path):
    with pytest.raises(MissingFile, match="data fetch deid icbm152"):
        modality6(tmp_path / "nothing")
    Image.new("L", (300, 300)).save(cache / "skimage" / "ihc.png")
    with pytest.raises(ConfigError, match="yields no patch"):
        modality6(cache)


def test_tiles_skip_empty_areas():
    image = np.zeros((128, 160), dtype=np.float32)
    image[:, 64:] = np.random.default_rng(2).random((128, 96))
    assert tile(image).shape == (3 * 3, 64, 64)
    assert tile(image[:, :63]).shape == (0, 64, 64)
    assert spaced(3, 9).tolist() == [0, 3, 6] and spaced(5, 2).tolist() == [0, 1]
    assert spaced(3, 0).size == 0


def test_nrrd_is_read_and_damage_refused(tmp_path):
    values = phantom_nrrd(tmp_path / "a.nrrd", 1, (5, 4, 3))
    got = read_nrrd(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(got.values, values)
    assert got.spacing_mm == (0.5, 0.75, 5.0)
    data = (tmp_path / "a.nrrd").read_bytes()
    swaps = (b"gzip", b"raw"), (b"sizes", b"size"), (b"5 4", b"9 9")
    swapped = [data.replace(old, new) for old, new in swaps]
    for broken in (data[:-30], b"", *swapped):
        (tmp_path / "b.nrrd").write_bytes(broken)
        with pytest.raises(UnreadableImage, match="b.nrrd"):
            read_nrrd(tmp_path / "b.nrrd")


def phantom_brains(cache):
    for name in ("mricron", "icbm152"):
        touch_all(cache, name)
    generator = np.random.default_rng(4)
    bands = np.repeat(np.arange(1, 9, dtype=np.uint8), 12)
    labels = bands[:, None, None] * np.ones((96, 96, 24), dtype=np.uint8)
    values = generator.integers(1, 255, labels.shape).astype(np.uint8)
    colin = nibabel.Nifti1Image(values, np.eye(4))
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), cache / "mricron" / "aal.nii.gz")
    nibabel.save(colin, cache / "mricron" / "ch2bet.nii.gz")
    # The other volume lies 2 voxels further in its own grid, at the same place in space.
    moved = np.eye(4)
    moved[0, 3] = -2
    other = np.pad(np.asarray(colin.dataobj), ((2, 0), (0, 0), (0, 0)))
    nibabel.save(nibabel.Nifti1Image(other, moved), cache / "icbm152" / TEMPLATE)
    lines = [f"{value} Region_{value} {code}001" for value, code in enumerate(GROUPS, start=1)]
    (cache / "mricron" / "aal.nii.txt").write_text("\n".join(lines))


def test_brain_regions_are_cut_at_their_location(tmp_path):
    phantom_brains(tmp_path)
    found = brain_region8(tmp_path, n_gallery=3, n_query=2)
    assert found.images.shape[1:] == (64, 64, 3)
    inside = set(GROUPS.values()) - {"frontal", "insula", "temporal", "cerebellum"}
    assert inside <= set(found.classes)
    for name in inside:
        assert found.counts()[name] == (3, 2, 1, 1)
    for name in ("occipital", "parietal"):  # all of them lie inside both volumes
        mine = found.labels == name
        first, second = (found.images[mine & part][0] for part in (found.train, ~found.train))
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_brain_regions_need_the_mricron_package(tmp_path):
    with pytest.raises(MissingFile, match="mricron"):
        brain_region8(tmp_path)


def test_fixture_holds_36_distinct_patches():
    found = modality_fixture()
    assert found.images.shape == (36, 64, 64, 1) and found.classes == tuple(sorted(CLASSES))
    assert all(count == (4, 2, 1, 1) for count in found.counts().values())
    assert len(np.unique(found.images.reshape(36, -1), axis=0)) == 36
