"""Each campaign's checks find a planted failure, and a cut journal goes on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.evidence import search
from bench.evidence.__main__ import work
from bench.evidence.part import Finding, Journal, Part

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
