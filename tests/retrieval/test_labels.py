"""Tables of labels: found by name, place or id; refused where they say too little or too much."""

import pytest

from gpumpc.errors import BadShape, BadValue, ConfigError, MissingFile
from gpumpc.retrieval.evaluation.labels import Label, read_labels, write_labels

ROWS = [
    ("train/MR/a.png", Label("MR brain", "icbm152", True)),
    ("test/CT/b, copy.png", Label("CT", "", False)),
    ("0123abcd", Label("é", "one", None)),
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "labels.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        write_labels(file, ROWS)
    return path


def test_written_labels_are_found_by_name_path_and_id(table, tmp_path, monkeypatch):
    labels = read_labels(table)
    assert len(labels) == 3
    for name, label in ROWS:
        assert labels.find(name) == labels.find(str(tmp_path / name)) == label
    monkeypatch.chdir(tmp_path / "..")
    assert labels.find(f"{tmp_path.name}/train/MR/a.png") == ROWS[0][1]
    assert labels.find("a.png") is None and labels.find("", "nothing", "0123abcd") == ROWS[2][1]


def test_items_get_labels_by_id_or_file(table):
    labels = read_labels(table)
    found = labels.of(["0123abcd", "1"], ["unknown.png", "train/MR/a.png"])
    assert [label.label for label in found] == ["é", "MR brain"]
    assert labels.of(["0123abcd"], ()) == [ROWS[2][1]]
    with pytest.raises(BadValue, match="2 of 3 items have no label in .*the first is 'x.png'"):
        labels.of(["1", "0123abcd", "2"], ["x.png", "", "y.png"])


def test_repeated_line_is_accepted(tmp_path):
    (tmp_path / "labels.csv").write_text("label,file\nMR,a\n\nMR,a\n")
    assert read_labels(tmp_path / "labels.csv").find("a") == Label("MR")


BAD = {
    "no column": ("file,class\na,b\n", "no columns file and label"),
    "empty": ("", "no columns file and label"),
    "no line": ("file,label\n", "no line below"),
    "no label": ("file,label\na,\n", "line 2 of .* no file or no label"),
    "no file": ("file,label\na,b\n ,b\n", "line 3 of .* no file or no label"),
    "part": ("file,label,part\na,b,validation\n", "the part 'validation'"),
    "two things": ("file,label\na,b\na,c\n", "two things of 'a'"),
    "two places": ("file,label\na,b\n./a,c\n", "two things of './a'"),
    "quote": ('file,label\n"a,b\n', "not a table of text"),
    "long": (f"file,label\n{'a' * 200_000},b\n", "not a table of text"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(BadValue, match=message):
        read_labels(tmp_path / "labels.csv")


def test_files_that_are_not_tables_are_refused(tmp_path):
    path = tmp_path / "labels.csv"
    with pytest.raises(MissingFile, match="give a table of labels"):
        read_labels(path)
    with pytest.raises(BadValue, match="not a plain file"):
        read_labels(tmp_path)
    path.write_bytes(b"file,label\n\xff\xff,b\n")
    with pytest.raises(BadValue, match="UTF-8"):
        read_labels(path)
    path.write_text("file,label\na,b,c\n")
    with pytest.raises(BadShape, match="line 2"):
        read_labels(path)


def test_unreadable_file_is_an_error(tmp_path):
    path = tmp_path / "mem.csv"
    path.symlink_to("/proc/self/mem")  # a plain file that cannot be read from its beginning
    with pytest.raises(ConfigError, match="cannot be read"):
        read_labels(path)
