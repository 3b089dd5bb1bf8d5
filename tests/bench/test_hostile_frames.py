"""A few of the hostile frames, and that a fault would be told."""

import contextlib

import pytest

from bench import hostile_frames
from bench.hostile_frames import Attacker, summary


def test_hostile_frames_end_streams_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_frames, "UNIT", 600)
    with contextlib.closing(Attacker()) as attacker:
        found = [attacker.unit(number) for number in range(2)]
        assert [unit["faults"] for unit in found] == [[], []]
        counts = summary(found)["counts"]
        for outcome in ("BadFrame", "PeerLost", "malformed", "frames accepted by the stream"):
            assert counts[outcome] > 20  # type: ignore[index]  # it is a dictionary


def test_faults_of_units_are_summed_up() -> None:
    unit = {"counts": {"crashes": 2}, "faults": ["2 errors that are not of the wire"]}
    found = summary([unit, unit])
    assert found["crashes"] == 4
    assert found["faults"] == [f"unit {i}: 2 errors that are not of the wire" for i in range(2)]
