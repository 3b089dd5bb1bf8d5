"""`gpumpc evaluate`: from files to figures, and a sentence for every file that cannot be used."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from gpumpc.cli.evaluate import evaluate
from gpumpc.retrieval.evaluation.assess import Labelled, assess
from gpumpc.retrieval.evaluation.feature_file import write_features
from gpumpc.retrieval.evaluation.labels import Label, write_labels

rng = np.random.default_rng(6)
N, N_TRAIN = 30, 20
INDEX = np.arange(N) % 3
FEATURES = np.eye(3)[INDEX] + rng.normal(size=(N, 3)) * 0.7
ITEMS = [f"{i:032x}" for i in range(N)]
FILES = [f"patches/{i}.png" for i in range(N)]
LABELS = [f"class {i}" for i in INDEX]
SOURCES = [f"scanner {i % 2 + 2 * (i >= N_TRAIN)}" for i in range(N)]
APP = typer.Typer()
APP.command()(evaluate)


def run(*arguments, rc=0):
    done = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    assert done.exit_code == rc, (done.output, done.exception)
    assert not done.exception or isinstance(done.exception, SystemExit)
    return done.output if rc == 0 else " ".join(done.output.split())


def labels_file(path, *, sources=True, parts=True, names=FILES):
    rows = []
    for i, name in enumerate(names):
        of, part = SOURCES[i] if sources else "", i < N_TRAIN if parts else None
        rows.append((name, Label(LABELS[i], of, part)))
    with open(path, "w", newline="") as file:
        write_labels(file, rows)
    return path


@pytest.fixture
def folder(tmp_path):
    write_features(tmp_path / "f.npz", FEATURES, ITEMS, FILES)
    labels_file(tmp_path / "labels.csv")
    return tmp_path


def figures(text):
    return {key: figure["mean"] for key, figure in json.loads(text)["figures"].items()}


def test_evaluate_train_and_test_parts(folder):
    row = json.loads(run(folder / "f.npz", "--labels", folder / "labels.csv", "--json"))
    parts = (slice(0, N_TRAIN), slice(N_TRAIN, N))
    want = assess(*(Labelled(FEATURES[part], LABELS[part], SOURCES[part]) for part in parts))
    assert row["figures"] == {f.key: {"mean": f.mean, "low": f.low, "high": f.high} for f in want}
    map_at_5 = "sum of P@i over relevant i up to 5, over min(5, relevant)"
    assert row["definitions"]["map_at_5"] == map_at_5
    modes = {"mode": "train and test", "metric": "cosine", "interval_by": "source"}
    sizes = {"n_gallery": 20, "n_queries": 10, "n_gallery_sources": 2, "n_query_sources": 2}
    counts = {"n_sources_in_both": 0, "n_queries_without_match": 0, "n_classes": 3}
    assert row.items() >= {**modes, **sizes, **counts}.items()


def test_gallery_and_query_files_with_labels_by_id(folder):
    write_features(folder / "gallery.csv", FEATURES[:N_TRAIN], ITEMS[:N_TRAIN])
    write_features(folder / "queries.npz", FEATURES[N_TRAIN:], ITEMS[N_TRAIN:])
    by_id = labels_file(folder / "ids.csv", names=ITEMS, parts=False)
    options = (folder / "gallery.csv", "--labels", by_id, "--queries")
    got = run(*options, folder / "queries.npz", "--json")
    whole = run(folder / "f.npz", "--labels", folder / "labels.csv", "--json")
    assert figures(got) == figures(whole)
    twice = run(*options, folder / "gallery.csv", rc=1)
    assert "20 items are in the gallery and among the queries" in twice


def test_leave_one_out_without_parts(folder):
    options = ("--metric", "l2", "--k", "2,1", "--vote", "3", "--json")
    plain = labels_file(folder / "plain.csv", sources=False, parts=False)
    got = json.loads(run(folder / "f.npz", "--labels", plain, *options))
    want = assess(Labelled(FEATURES, LABELS), metric="l2", ks=(1, 2), vote=3)
    assert figures(json.dumps(got)) == {f.key: f.mean for f in want}
    mode = {"mode": "leave-one-out", "interval_by": "item", "n_query_sources": None}
    assert got.items() >= mode.items()
    forced = run(folder / "f.npz", "--labels", folder / "labels.csv", "--leave-one-out", *options)
    assert figures(forced) == figures(json.dumps(got))


def test_text_output_shows_a_table(folder):
    text = run(folder / "f.npz", "--labels", folder / "labels.csv", "--k", "1,5")
    whole = " ".join(text.split())
    assert "10 queries among 20 images of 3 classes" in whole
    assert "P@5" in whole and "mAP@5" in whole
    assert "bootstrap over the 2 sources of the queries" in whole
    plain = labels_file(folder / "plain.csv", sources=False, parts=False)
    text = run(folder / "f.npz", "--labels", plain)
    assert "as if they were independent" in " ".join(text.split())


def test_output_warns_of_flattering_figures(folder):
    labels = [*LABELS[:-1], "unknown"]
    rows = [(name, Label(labels[i], "one", i < N_TRAIN)) for i, name in enumerate(FILES)]
    with open(folder / "one.csv", "w", newline="") as file:
        write_labels(file, rows)
    whole = " ".join(run(folder / "f.npz", "--labels", folder / "one.csv").split())
    assert "1 sources are in both parts: the figures flatter" in whole
    assert "no intervals: all queries come from one source" in whole
    assert "1 queries have a label that the gallery lacks" in whole


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_unusable_files_are_refused(folder, tmp_path):
    labels = ("--labels", folder / "labels.csv")
    assert "MissingFile: there is no file" in run(folder / "none.npz", *labels, rc=1)
    assert "MissingFile" in run(folder / "f.npz", "--labels", folder / "none.csv", rc=1)
    assert "use .npz or .csv" in run(folder / "labels.txt", *labels, rc=1)
    (folder / "no.npz").write_bytes(b"no archive")
    assert "not a usable features file" in run(folder / "no.npz", *labels, rc=1)
    assert "names no column 'item'" in run(folder / "labels.csv", *labels, rc=1)
    assert "not a table" in run(folder / "f.npz", "--labels", folder / "f.npz", rc=1)
    broken = FEATURES.copy()
    broken[7, 1] = np.nan
    nan = npz(folder / "nan.npz", features=broken, items=np.array(ITEMS))
    assert f"the first is '{ITEMS[7]}'" in run(nan, *labels, rc=1)
    flat = npz(folder / "flat.npz", features=FEATURES[0], items=np.array(ITEMS))
    assert "BadShape" in run(flat, *labels, rc=1)
    few = labels_file(folder / "few.csv", names=FILES[:12])
    assert "18 of 30 items have no label" in run(folder / "f.npz", "--labels", few, rc=1)


def test_unusable_options_are_refused(folder):
    arguments = (folder / "f.npz", "--labels", folder / "labels.csv")
    assert "the first 21 (least: 1) of 20 items" in run(*arguments, "--k", "1,21", rc=1)
    assert "the first 21" in run(*arguments, "--vote", 21, rc=1)
    for depths in ("", "1,", "five", "0", "-1,5"):
        assert "BadValue" in run(*arguments, f"--k={depths}", rc=1)
    assert "metric 'ip' is not known" in run(*arguments, "--metric", "ip", rc=1)
    assert "contradict" in run(*arguments, "--leave-one-out", "--queries", folder / "f.npz", rc=1)
    write_features(folder / "other.npz", FEATURES[:, :2], [f"q{item}" for item in ITEMS], FILES)
    text = run(*arguments, "--queries", folder / "other.npz", rc=1)
    assert "from two networks or two layers" in text
    one = [(name, Label(LABELS[i], "", True if i else None)) for i, name in enumerate(FILES)]
    with open(folder / "one.csv", "w", newline="") as file:
        write_labels(file, one)
    assert "do not divide the items" in run(folder / "f.npz", "--labels", folder / "one.csv", rc=1)
