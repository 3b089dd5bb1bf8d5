"""Files to images: good ones go through, bad ones are refused by name and harm no others."""

from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import MissingFile, UnreadableImage
from gpumpc.media.preprocess import LITE0_INPUT
from gpumpc.media.read import Item, Refused, read_images

Image = pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (80, 60)) -> Path:
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


def test_folder_is_read_and_bad_files_refused(tmp_path: Path) -> None:
    for name, mode in (("a.png", "RGB"), ("b.jpg", "L"), ("c.tif", "RGB")):
        picture(tmp_path / name, mode)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    (tmp_path / "words.jpg").write_bytes(b"no image at all")
    found = [*read_images([tmp_path], LITE0_INPUT)]
    items = {item.path.name: item for item in found if isinstance(item, Item)}
    refused = {refusal.path.name: refusal for refusal in found if isinstance(refusal, Refused)}
    assert set(items) == {"a.png", "b.jpg", "c.tif"}
    assert set(refused) == {"empty.png", "cut.png", "words.jpg"}
    for item in items.values():
        assert item.pixels.min() >= 0 and item.pixels.max() <= 1 and item.pixels.ndim == 3
    for name, refusal in refused.items():
        error = refusal.error()
        assert isinstance(error, UnreadableImage) and name in error.what
        assert error.why and error.hint


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        list(read_images([tmp_path / "none.png"], LITE0_INPUT))
