"""Features files are read as written, by NumPy too; damaged or hostile ones are refused."""

import io
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumpc.errors import BadShape, BadValue, ConfigError, GpumpcError, MissingFile
from gpumpc.retrieval.evaluation.feature_file import MAX_NAME, read_features, write_features

rng = np.random.default_rng(11)
FEATURES = rng.normal(size=(5, 7)) * 10.0 ** rng.integers(-9, 9, (5, 7))
ITEMS = [f"{i:032x}" for i in range(5)]
FILES = ["a.png", "folder/b, with a comma.png", 'c "quoted".dcm', "d\nline.nii", "é.tif"]


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
@pytest.mark.parametrize("files", [FILES, []], ids=["files", "no files"])
def test_written_features_are_read_back(tmp_path, suffix, files):
    path = tmp_path / "new" / f"features{suffix}"
    write_features(path, FEATURES, ITEMS, files)
    got = read_features(path)
    np.testing.assert_array_equal(got.features, FEATURES)
    assert got.items == tuple(ITEMS) and got.files == tuple(files)
    assert got.names == tuple(files or ITEMS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    write_features(path, FEATURES, ITEMS, files)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_npz_files_are_interchangeable_with_numpy(tmp_path):
    write_features(tmp_path / "ours.npz", FEATURES, ITEMS, FILES)
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["features"], FEATURES)
        assert archive["items"].tolist() == ITEMS and archive["files"].tolist() == FILES
    whole = np.arange(35, dtype=np.int32).reshape(5, 7)
    for values in (FEATURES, np.asfortranarray(FEATURES), FEATURES.astype(">f4"), whole):
        np.savez_compressed(
            tmp_path / "theirs.npz", features=values, items=np.array(ITEMS), extra=np.zeros(3)
        )
        np.testing.assert_array_equal(
            read_features(tmp_path / "theirs.npz").features, values.astype(float)
        )


def test_undecodable_file_names_are_escaped(tmp_path):
    write_features(tmp_path / "x.csv", FEATURES[:1], ["a"], [os.fsdecode(b"scan\xff.png")])
    assert read_features(tmp_path / "x.csv").files == ("scan\\udcff.png",)


@pytest.mark.parametrize("name", ["x.npy", "x", "x.npz.gz", "x.CSV"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"use \.npz or \.csv"):
        write_features(tmp_path / name, FEATURES, ITEMS)
    with pytest.raises(ConfigError, match=r"use \.npz or \.csv"):
        read_features(tmp_path / name)


def with_nan(value):
    broken = FEATURES.copy()
    broken[3, 2] = value
    return broken


@pytest.mark.parametrize(
    ("values", "items", "files", "error"),
    [
        (FEATURES, ITEMS[1:], [], BadShape),
        (FEATURES, ITEMS, FILES[1:], BadShape),
        (FEATURES[0], ITEMS, [], BadShape),
        (np.empty((0, 7)), [], [], BadShape),
        (np.empty((5, 0)), ITEMS, [], BadShape),
        (with_nan(np.nan), ITEMS, [], BadValue),
        (with_nan(-np.inf), ITEMS, [], BadValue),
        ([["a"] * 7] * 5, ITEMS, [], BadValue),
        (FEATURES, [*ITEMS[1:], "x" * (MAX_NAME + 1)], [], BadValue),
        (FEATURES, [*ITEMS[1:], "zero\0byte"], [], BadValue),
    ],
)
def test_invalid_feature_tables_are_not_written(tmp_path, values, items, files, error):
    with pytest.raises(error):
        write_features(tmp_path / "x.npz", values, items, files)
    assert not list(tmp_path.iterdir())


def test_unwritable_file_is_an_error(tmp_path):
    (tmp_path / "a file").write_text("")
    with pytest.raises(ConfigError, match="cannot be saved"):
        write_features(tmp_path / "a file" / "x.npz", FEATURES, ITEMS)
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(ConfigError, match="cannot be saved"):
        write_features(tmp_path / "x.npz", FEATURES, ITEMS)
    assert sorted(os.listdir(tmp_path)) == ["a file", "x.npz"]


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(f"{name}.npy", data)
    return path


def reshaped(shape: bytes) -> bytes:
    """The good array with another shape in its header, which stays as long as it was."""
    good = npy(FEATURES)
    longer: bytes = good.replace(b"(5, 7), }", shape + b", }", 1)
    return longer.replace(b" " * (len(longer) - len(good)) + b"\n", b"\n", 1)


GOOD = {"features": npy(FEATURES), "items": npy(ITEMS)}
HOSTILE = {
    "object": {"features": npy(np.array([{"a": 1}], dtype=object))},
    "object items": {"items": npy(np.array(ITEMS, dtype=object))},
    "complex": {"features": npy(FEATURES + 1j)},
    "text": {"features": npy(np.array([["a"] * 7] * 5))},
    "bytes": {"items": npy(np.array(ITEMS, dtype="S32"))},
    "table": {"items": npy(np.array([ITEMS]))},
    "one short": {"items": npy(ITEMS[:4])},
    "cut": {"features": GOOD["features"][:-1]},
    "longer": {"features": GOOD["features"] + b"\0"},
    "huge shape": {"features": reshaped(b"(5, 999999)")},
    "wraps": {"features": reshaped(b"(4611686018427387904, 4611686018427387911)")},  # 7 modulo 2^62
    "negative": {"features": reshaped(b"(-5, -7)")},
    "no type": {"features": GOOD["features"].replace(b"<f8", b"<f3")},
    "expression": {"features": reshaped(b"(5, 1 + 6)")},
    "brackets": {"features": b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 0x2000},
    "no header": {"features": b"\x93NUMPY"},
    "another version": {"features": b"\x93NUMPY\x07\x00" + bytes(100)},
    "empty": {"features": b""},
    "no text": {"items": GOOD["items"][:-4] + b"\xff\xff\xff\x7f"},
    "surrogate": {"items": GOOD["items"][:-4] + b"\x00\xdc\x00\x00"},
}


@pytest.mark.parametrize("broken", HOSTILE.values(), ids=HOSTILE)
def test_hostile_arrays_are_refused(tmp_path, broken):
    path = archive(tmp_path / "x.npz", **GOOD)
    assert len(read_features(path).items) == 5
    with pytest.raises((BadShape, BadValue), match="x.npz"):
        read_features(archive(path, **{**GOOD, **broken}))


def test_hostile_archives_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    cut = archive(path, **GOOD).read_bytes()[:-30]
    for content in (b"", b"PK", b"no archive at all" * 99, cut):
        path.write_bytes(content)
        with pytest.raises(BadValue, match="not a usable features file"):
            read_features(path)
    for lacking in GOOD:
        others = {name: data for name, data in GOOD.items() if name != lacking}
        with pytest.raises(BadValue, match=f"no array '{lacking}'"):
            read_features(archive(path, **others))
    many = {f"a{i}": b"" for i in range(20)}
    with pytest.raises(BadValue, match="16 arrays"):
        read_features(archive(path, **GOOD, **many))
    flipped = bytearray(archive(path, **GOOD).read_bytes())
    flipped[60] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises((BadShape, BadValue)):
        read_features(path)


def test_zip_bomb_is_refused_before_unpacking(tmp_path):
    bomb = archive(tmp_path / "x.npz", **GOOD, files=bytes(64 << 20))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(BadValue, match="unpacks to more than 1048576 bytes"):
        read_features(bomb, max_bytes=1 << 20)
    with pytest.raises(BadValue, match="more than 1000 bytes"):
        read_features(bomb, max_bytes=1000)


TABLES = {
    "no header": "1,2,3\n4,5,6\n",
    "a word": "item,file,f0\na,b,one\n",
    "ragged": "item,file,f0\na,b,1,2\n",
    "short": "item,file,f0\na,b\n",
    "no rows": "item,file,f0\n",
    "no features": "item,file\na,b\n",
    "nan": "item,f0\na,nan\n",
    "infinite": "item,f0\na,1e999\n",
    "empty": "",
    "quote": 'item,f0\n"a,1\n',
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_bad_tables_are_refused(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises((BadShape, BadValue), match="x.csv"):
        read_features(path)


def test_csv_with_bom_and_crlf_is_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbff0,item,f1\r\n1,a,2\r\n\r\n3,b,4e0\r\n")
    got = read_features(path)
    assert got.items == ("a", "b") and got.files == () and got.features.tolist() == [[1, 2], [3, 4]]


def test_files_that_are_not_features_are_refused(tmp_path):
    with pytest.raises(MissingFile):
        read_features(tmp_path / "x.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(BadValue, match="not a plain file"):
        read_features(tmp_path / "folder.npz")
    (tmp_path / "latin.csv").write_bytes(b"item,f0\n\xff\xfe,1\n")
    with pytest.raises(BadValue):
        read_features(tmp_path / "latin.csv")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for suffix in (".npz", ".csv"):
        write_features(folder / f"good{suffix}", FEATURES, ITEMS, FILES)
    return folder


PLACES = st.integers(0, 10_000)


@settings(max_examples=300, deadline=None)
@given(PLACES, st.integers(1, 255), PLACES, st.sampled_from([".npz", ".csv"]))
def test_damaged_file_raises_only_a_named_error(written, at, byte, cut, suffix):
    path = written / f"x{suffix}"
    data = bytearray((written / f"good{suffix}").read_bytes())
    data[at % len(data)] ^= byte
    path.write_bytes(data[: cut % len(data) or None] if cut % 3 == 0 else data)
    try:
        read_features(path)
    except GpumpcError as error:
        assert path.name in str(error)
