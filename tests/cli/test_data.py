"""`gpumpc data`: fetching from a stub, the two lists, folders of patches of SYNTHETIC phantoms."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gpumpc.cli.data import app
from gpumpc.datasets import archives, export
from gpumpc.datasets import fetch as packages
from gpumpc.datasets.export import BENCHMARKS, write_folder
from gpumpc.datasets.labelled import LabelledImages
from gpumpc.datasets.licences import LICENCES, NOTICES, notice
from gpumpc.datasets.modality import modality6
from gpumpc.errors import ConfigError
from gpumpc.media.read import Item, read_images
from gpumpc.retrieval.evaluation.labels import Label, read_labels
from tests.datasets.phantoms import Stub, phantom_nrrd, phantom_picture, source, touch_all

pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")


def run(*arguments, rc=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == rc, (done.output, done.exception)
    assert not done.exception or isinstance(done.exception, SystemExit)
    return " ".join(done.output.split())


@pytest.fixture
def table(monkeypatch):
    sources = {"gone": source("gone"), "toy": source(), "more": source("more-images")}
    monkeypatch.setattr(packages, "SOURCES", sources)


@pytest.mark.usefixtures("table")
def test_fetch_reports_fetched_and_missing_sources(tmp_path, monkeypatch):
    stub = Stub(broken=("gone",))
    monkeypatch.setattr(archives, "download", stub)
    text = run("fetch", "--cache", tmp_path)
    assert "here toy: a.png, b.nii.gz" in text and "here more: a.png, b.nii.gz" in text
    assert "missing gone: pip could not download it. Cause: no such package" in text
    assert f"2 of 3 sources are in {tmp_path}" in text and len(stub.calls) == 3
    assert "1 of 1 sources" in run("fetch", "toy", "--cache", tmp_path) and len(stub.calls) == 3


@pytest.mark.usefixtures("table")
def test_fetch_fails_if_no_source_arrives(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "download", Stub(broken=("gone", "toy-images", "more-images")))
    assert "0 of 3 sources" in run("fetch", "--cache", tmp_path, rc=1)
    assert "there is no data source 'mri'" in run("fetch", "mri", "--cache", tmp_path, rc=1)


def test_list_shows_sources_and_benchmarks(tmp_path):
    touch_all(tmp_path, "icbm152")
    text = run("list", "--cache", tmp_path)
    for name in packages.SOURCES:
        assert name in text
    assert text.count("│ yes") == 1
    assert "brain-region-8" in text and "mricron" in text and "Apache-2.0" in text


def test_every_source_has_a_licence_in_the_notice():
    assert set(LICENCES) == set(packages.SOURCES) and set(NOTICES) <= set(LICENCES)
    used = {name for benchmark in BENCHMARKS.values() for name in benchmark.sources}
    text = notice(used)
    assert used <= set(packages.SOURCES) and "lite0" not in text
    assert all(f"{name} ({LICENCES[name].package})" in text for name in used)
    assert "provided that the above copyright notice appear in all copies" in text
    assert "above copyright" not in notice(["nuclear"])


def test_docs_list_every_source_with_its_pinned_version():
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    for name, entry in packages.SOURCES.items():
        version = entry.version.split("+")[0]
        pinned = rf"\| `{name}` \| (Debian )?{entry.package} {re.escape(version)} \|"
        assert re.search(pinned, text), name
        assert re.search(rf"\| `{name}` \| {re.escape(LICENCES[name].package)} \|", text), name


@pytest.fixture
def cache(tmp_path):
    root = tmp_path / "cache"
    for name in ("skimage", "stardist", "nuclear", "pyradiomics"):
        touch_all(root, name)
    phantom_picture(root / "skimage/ihc.png", 1)
    phantom_picture(root / "stardist/histo.jpg", 2)
    for seed, name in enumerate(("brain1", "brain2")):
        phantom_nrrd(root / f"pyradiomics/{name}_image.nrrd", seed)
    for missing in ("skimage/retina.jpg", "nuclear/nuclear.png", "pyradiomics/lung1_image.nrrd"):
        (root / missing).unlink()
    return root


def test_build_writes_patches_labels_and_notice(cache, tmp_path):
    out = tmp_path / "new" / "patches"
    text = run("build", "modality-6", "--out", out, "--train", 5, "--test", 3, "--cache", cache)
    assert "16 images and labels.csv are in" in text
    without = "cut without deid, icbm152, nuclear, pydicom, pyradiomics, skimage"
    assert f"{without}: run `gpumpc data fetch deid" in text
    want = modality6(cache, n_train=5, n_test=3)
    labels = read_labels(out / "labels.csv")
    assert {path.name for path in out.iterdir()} == {"NOTICE.txt", "labels.csv", "test", "train"}
    assert len(list((out / "train" / "MR-brain").iterdir())) == 5
    found = [item for item in read_images(out) if isinstance(item, Item)]
    assert len(found) == 16
    for item in found:
        name = item.path.relative_to(out).as_posix()
        label = labels.find(name)
        assert label is not None and label == labels.find(str(item.path))
        rows = (want.labels == label.label) & (want.sources == label.source)
        rows &= want.train == label.train
        error = np.abs(want.images[rows] - item.pixels[..., :1]).reshape(rows.sum(), -1).max(axis=1)
        assert error.min() <= 0.5 / 255 + 1e-6
        assert name.startswith("train" if label.train else "test")


def test_build_refuses_bad_names_and_folders(cache, tmp_path):
    assert "there is no benchmark 'mnist'" in run("build", "mnist", "--out", tmp_path / "x", rc=1)
    text = run("build", "brain-region-8", "--out", tmp_path / "x", "--cache", cache, rc=1)
    assert "MissingFile: brain-region-8 lacks a volume" in text
    assert "gpumpc data fetch icbm152 mricron" in text
    places = ("--out", tmp_path / "x", "--cache", tmp_path / "none")
    assert "MissingFile" in run("build", "modality-6", *places, rc=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    text = run("build", "modality-6", "--out", tmp_path / "full", "--cache", cache, rc=1)
    assert "is not empty" in text and "give a new folder" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "full"]


def images():
    labels, sources = np.array(["a b"] * 3), np.array(["s"] * 3)
    train = np.array([True, False, True])
    return LabelledImages(np.full((3, 4, 4, 1), 0.5), labels, sources, train)


def test_write_folder_needs_a_new_or_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert write_folder(images(), tmp_path / "empty", ["nuclear"]) == 3
    labels = read_labels(tmp_path / "empty" / "labels.csv")
    assert labels.find("train/a-b/0001.png") == Label("a b", "s", True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        write_folder(images(), tmp_path / "file", ["nuclear"])
    with pytest.raises(ConfigError, match="cannot be written"):
        write_folder(images(), tmp_path / "file" / "inside", ["nuclear"])


def test_failed_write_leaves_no_folder(tmp_path, monkeypatch):
    def full_disk(image):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "png", full_disk)
    with pytest.raises(ConfigError, match="No space left"):
        write_folder(images(), tmp_path / "patches", ["nuclear"])
    assert not list(tmp_path.iterdir())
