"""The campaigns of damaged files, planted bugs and error laws find a planted failure."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bench.comparison_ranges import Law, laws
from bench.evidence import bugs, flips, law

RIGHT = {"run": "right", "search": "right"}


def test_right_answers_after_a_flip_pass() -> None:
    assert not flips.judged(RIGHT, "", "a.seg")


def test_wrong_answer_after_a_flip_is_found() -> None:
    assert flips.judged({**RIGHT, "run": "wrong"}, "the file a.seg is damaged", "a.seg")


def test_error_after_a_flip_must_name_the_file() -> None:
    answers = {**RIGHT, "run": "CorruptStore: something is damaged"}
    assert flips.judged(answers, "something is damaged", "a.sqlite-wal")
    assert not flips.judged(answers, "the file a.sqlite is damaged", "a.sqlite-wal")


def test_unforeseen_error_after_a_flip_is_found() -> None:
    assert flips.judged({"run": "untold KeyError: 'a.seg'"}, "untold KeyError: 'a.seg'", "a.seg")


def test_a_flip_changes_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(64))
    bit = flips.flip(path, np.random.default_rng(1))
    changed = np.unpackbits(np.frombuffer(path.read_bytes(), np.uint8), bitorder="little")
    assert np.flatnonzero(changed).tolist() == [bit]


def test_kinds_of_files_have_no_names_of_their_own(tmp_path: Path) -> None:
    names = ("store/275f6b9477935c10.seg", "pool/b117a1c100232b3a.10.corr", "ledger.sqlite-wal")
    found = [flips.kind_of(tmp_path, tmp_path / name) for name in names]
    assert found == ["store/*.seg", "pool/*.*.corr", "ledger.sqlite-wal"]


REPORT = "".join(
    f"PASSED tests/protocols/test_planted.py::test_is_caught[{i}]\n" for i in range(bugs.WANTED)
)


def test_bug_that_no_test_catches_is_found() -> None:
    assert not bugs.judged(REPORT).faults
    assert bugs.judged(REPORT + "FAILED tests/ring/x.py::test_is_caught[y] - no\n").faults


def test_missing_planted_bugs_are_found() -> None:
    assert bugs.judged(REPORT.replace("[3]", "[4]")).faults
    assert bugs.judged("").faults


def test_result_outside_its_law_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(k: int, f: int) -> list[Law]:
        first, *_ = laws(k, f)  # a truncation that had to round down always
        return [dataclasses.replace(first, outside=lambda x, got: got != x >> f)]

    assert not law.one_ring(0, n=64).faults
    monkeypatch.setattr(law, "laws", strict)
    assert law.one_ring(0, n=64).faults
