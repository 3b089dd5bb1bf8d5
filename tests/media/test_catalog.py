"""The client's map: one id an image, every place kept, nothing others can read."""

import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import ConfigError, ExposedSecret
from gpumpc.media.catalog import Catalog, pixel_digest
from gpumpc.media.read import Item

rng = np.random.default_rng(5)
IMAGES = rng.random((4, 8, 8, 3))


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "mine" / "catalog.sqlite") as opened:
        yield opened


def item(path: Path, index: int, frame: int = 0) -> Item:
    return Item(path, frame, IMAGES[index])


def test_same_image_has_one_id_and_all_its_locations(catalog, tmp_path):
    first = catalog.add(item(tmp_path / "a.dcm", 0))
    assert len(first) == 32 and int(first, 16) >= 0
    assert catalog.add(item(tmp_path / "a.dcm", 0)) == first
    assert catalog.add(item(tmp_path / "copy.dcm", 0, frame=7)) == first
    second = item(tmp_path / "a.dcm", 1, frame=1)
    other, again = catalog.add_all([second, item(tmp_path / "a.dcm", 0)])
    assert again == first != other
    assert [(e.path.name, e.frame) for e in catalog.find(first)] == [("a.dcm", 0), ("copy.dcm", 7)]
    assert [e.item_id for e in catalog.find_file(tmp_path / "a.dcm")] == [first, other]
    assert len(catalog.all()) == 3 and catalog.find("0" * 32) == []
    assert catalog.find(first)[0].sha256 == pixel_digest(IMAGES[0])


def test_changed_file_keeps_its_former_id_too(catalog, tmp_path):
    old, new = catalog.add(item(tmp_path / "a.png", 0)), catalog.add(item(tmp_path / "a.png", 1))
    assert {e.item_id for e in catalog.find_file(tmp_path / "a.png")} == {old, new}


def test_a_removed_image_gets_a_new_id(catalog, tmp_path):
    first = catalog.add(item(tmp_path / "a.png", 0))
    assert catalog.remove(first) and not catalog.remove(first)
    assert catalog.all() == [] and catalog.find_file(tmp_path / "a.png") == []
    assert catalog.add(item(tmp_path / "a.png", 0)) != first


def test_catalog_persists_and_is_private(tmp_path):
    path = tmp_path / "mine" / "catalog.sqlite"
    with Catalog(path) as first:
        item_id = first.add(item(tmp_path / "a.png", 2))
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
        assert set(modes.values()) == {0o600} and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with Catalog(path) as second:
        assert second.find(item_id)[0].path == tmp_path / "a.png"


def test_pixel_digest_depends_on_the_shape():
    flat = np.zeros((4, 9, 1))
    assert pixel_digest(flat) != pixel_digest(flat.reshape(9, 4, 1))


def test_files_that_are_not_catalogs_are_refused(tmp_path):
    private = tmp_path / "mine"
    private.mkdir(mode=0o700)
    (private / "words").write_text("no database " * 100)
    with pytest.raises(ConfigError, match="cannot be used"):
        Catalog(private / "words")
    newer = sqlite3.connect(private / "newer")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(ConfigError, match="format is 99"):
        Catalog(private / "newer")
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    with pytest.raises(ExposedSecret):
        Catalog(open_folder / "catalog")
    with pytest.raises(ConfigError, match="cannot be opened"):
        Catalog(private)
