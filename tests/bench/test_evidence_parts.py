"""Each campaign's checks find a planted failure, and a cut journal goes on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.evidence import kills, search
from bench.evidence.__main__ import work
from bench.evidence.part import Finding, Journal, Part
from bench.evidence.told import Diary, Model

ITEMS = [f"{i:032x}" for i in range(1, 9)]
FEATURES = {item: np.array([0.3 * i, 0.0, 0.0]) for i, item in enumerate(ITEMS)}


def answer(item: str) -> tuple[np.ndarray, list[list[str]]]:
    """The right answer to a search for one item."""
    distances = {name: float(((FEATURES[item] - f) ** 2).sum()) for name, f in FEATURES.items()}
    names = sorted(distances, key=lambda name: distances[name])[: search.K]
    return np.array([[distances[name] for name in names]]), [names]


def found(names: list[str], scores: np.ndarray) -> list[str]:
    return search.wrong_answers(ITEMS[:1], (scores, [names]), FEATURES, {*ITEMS})


def test_right_answer_of_a_search_passes() -> None:
    scores, [names] = answer(ITEMS[0])
    assert not found(names, scores)


def test_shifted_ids_of_a_search_are_found() -> None:
    scores, [names] = answer(ITEMS[0])
    assert found(names[1:] + names[:1], scores)  # what a row list that changed gives


def test_swapped_neighbours_of_a_search_are_found() -> None:
    scores, [names] = answer(ITEMS[0])
    assert found([names[0], *names[:0:-1]], scores)


def test_left_out_and_doubled_rows_are_found() -> None:
    scores, [names] = answer(ITEMS[0])
    assert found([*names[:4], names[3]], scores)
    far = (FEATURES[ITEMS[0]] - FEATURES[ITEMS[7]])[0] ** 2
    assert found([names[0], *names[2:], ITEMS[7]], np.array([[*scores[0][[0, 2, 3, 4]], far]]))


def counting(units: Sequence[int]) -> Iterator[Finding]:
    for unit in units:
        yield Finding({"done": 1.0}, [f"fault {unit}"] if unit == 1 else [])


def test_cut_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    part, path = Part("x", "a unit", 5, 1, counting), tmp_path / "x.jsonl"
    work(part, 3, Journal(path))
    text = path.read_text()
    path.write_text(text[:-5])  # the process was killed while it wrote the third line
    assert Journal(path).next_unit == 2
    journal = Journal(path)
    work(part, 5, journal)
    assert [line["unit"] for line in Journal(path).lines] == [0, 1, 2, 3, 4]
    summary = journal.summary()
    assert summary["counts"] == {"done": 5.0} and summary["n_faults"] == 1
    assert summary["first_faults"] == ["unit 1: fault 1"]


def told(*lines: tuple[str, list[str]], open_request: tuple[str, list[str]] | None = None) -> Model:
    """A model of answered requests, and of one that was not answered."""
    model = Model()
    for verb, items in lines:
        model.take([{"ask": verb, "items": items}, {"told": verb, "items": items}])
    if open_request:
        model.take([{"ask": open_request[0], "items": open_request[1]}])
    return model


def test_model_finds_lost_doubled_and_returned_rows() -> None:
    first, second, third = ITEMS[:3]
    model = told(("share", [first, second]), ("extract", [first]), ("delete", [second]))
    assert not model.violations("input", [first]) and not model.violations("feature", [first])
    assert model.violations("input", []) and model.violations("feature", [])
    assert model.violations("input", [first, second])  # it was deleted
    assert model.violations("input", [first, first])
    assert model.violations("input", [first, third])  # nobody shared it
    assert not model.violations("index", [])
    assert model.violations("index", [first])


def test_model_leaves_open_what_nobody_was_told() -> None:
    first = ITEMS[0]
    model = told(("share", [first]), open_request=("delete", [first]))
    assert not model.violations("input", [first]) and not model.violations("input", [])
    model.settle()
    assert model.violations("input", [first]) and not model.violations("input", [])
    model.forget_deleted()
    assert not model.rows
    created = told(("create", ["a"]), open_request=("create", ["b"]))
    assert created.names == {"a": True, "b": False}


def test_cut_line_of_a_diary_is_not_read(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "diary")
    diary.write(ask="share", items=[])
    with (tmp_path / "diary").open("ab") as file:
        file.write(b'{"told": "sh')
    assert diary.read() == [{"ask": "share", "items": []}]


def test_late_and_unclear_errors_of_a_client_are_found() -> None:
    clear = {"error": "PeerLost: x", "seconds": 1.0, "three_parts": True}
    assert not kills.heard([clear])
    assert kills.heard([{**clear, "seconds": 9.0}]) and kills.heard(
        [{**clear, "three_parts": False}]
    )
    assert kills.heard([{"fault": "IndexError"}])


def test_tearing_leaves_what_was_synced(tmp_path: Path) -> None:
    (tmp_path / "x.seg").write_bytes(b"segment!")
    (tmp_path / "x-wal").write_bytes(b"frames")
    seen = {kills.tear(tmp_path, np.random.default_rng(seed)) for seed in range(8)}
    assert len(seen) == 2
    assert (tmp_path / "x.seg").read_bytes() == b"segment!"
    assert (tmp_path / "x-wal").read_bytes().startswith(b"frames") and len(seen) == 2
    assert len((tmp_path / "x-wal").read_bytes()) > 6
