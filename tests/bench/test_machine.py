"""The state machine over the simulated cluster passes, and finds planted bugs."""

from collections.abc import Callable

import pytest
from hypothesis import Phase, seed

from bench.evidence import machine as part
from bench.simulation.clients import SimulatedClient, Wrong
from bench.simulation.model import Model, Rows
from bench.simulation.state_machine import Machine
from gpumpc.server import store_agreement

FIRST, SECOND = ("input", "1"), ("input", "2")
# A line left out of the code, and where it is.
PLANTED: dict[str, tuple[str, Callable[..., object]]] = {
    "changes are not finished": ("finish_changes", lambda *_: None),
    "pending rows are not repaired": ("repair_pending", lambda *_, **__: None),
    "a change is made without a record": (
        "change_both",
        lambda store, channel, change_id, change: store_agreement._make(store, change),
    ),
}


def test_sequences_pass() -> None:
    part.examples(24, 40, Machine, derandomize=True)


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_agreement, *PLANTED[bug])
    with pytest.raises(Wrong):
        part.examples(200, 50, seed(2)(Machine), phases=[Phase.generate])


def test_failing_unit_names_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedClient, "delete", lambda *_: 1 // 0)  # when all is at rest
    [finding] = part.run([0])
    assert finding.faults[0].startswith("ZeroDivisionError") and "state.start(" in finding.faults[0]


def model(first: Rows, second: Rows) -> Model:
    made = Model()
    made.at = (first, second)
    return made


def test_model_knows_what_can_be_used() -> None:
    held = model({FIRST: "a", SECOND: "a"}, {FIRST: "a", SECOND: "b", ("feature", "3"): "a"})
    assert held.items("input") == ["1"] and held.lost("input") == ["2"]
    assert held.lost("feature") == ["3"] and held.missing("input") == ["2", "3"]


BOTH: Rows = {FIRST: "a", SECOND: "a"}
# What the servers hold after FIRST and SECOND were deleted, which is no right outcome.
HALF_DELETED: dict[str, tuple[Rows, Rows, bool]] = {
    "told, and still there": (BOTH, BOTH, True),
    "one row at one server": ({SECOND: "a"}, BOTH, False),
    "one row alone": ({SECOND: "a"}, {SECOND: "a"}, False),
    "another version": ({**BOTH, FIRST: "b"}, {**BOTH, FIRST: "b"}, False),
}


@pytest.mark.parametrize("case", HALF_DELETED)
def test_model_finds_half_a_deletion(case: str) -> None:
    first, second, is_done = HALF_DELETED[case]
    with pytest.raises(Wrong):
        model(BOTH, BOTH).change((first, second), {*BOTH}, False, is_done, True)
    model(BOTH, BOTH).change(({}, {}), {*BOTH}, False, is_done, True)


def test_model_finds_rows_that_nobody_asked_for() -> None:
    with pytest.raises(Wrong):
        model(BOTH, BOTH).change((BOTH, {FIRST: "a"}), {FIRST}, True, False, False)
