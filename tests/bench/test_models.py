"""The table of operators and networks: its verdicts, its limits and its journal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.models import __main__ as command
from bench.models.model_check import check, verdict
from bench.models.operators import OPERATORS, Case, Forward
from gpumpc.params import Params

PARAMS = Params(ring_bits=56, frac_bits=16)
WANTED = np.array([[0.0, 1.0], [2.0, 1.0]])


def test_right_result_runs_and_control_fails() -> None:
    found = verdict(WANTED, WANTED + 0.001, WANTED)
    assert found["outcome"] == "runs"
    assert found["error_fixed"] == pytest.approx(0.0005)
    assert found["error_control"] == 1


def test_results_of_other_images_are_wrong() -> None:
    other = WANTED[::-1]
    assert verdict(WANTED, other, other)["outcome"] == "wrong"
    assert verdict(WANTED, WANTED, other)["outcome"] == "wrong"


def test_wrong_values_are_never_taken_for_right_ones() -> None:
    assert verdict(WANTED, WANTED * np.nan, WANTED)["outcome"] == "wrong"
    assert verdict(WANTED, WANTED + 0.1, WANTED + 0.1)["outcome"] == "wrong"


def test_equal_images_show_nothing() -> None:
    assert verdict(WANTED * 0, WANTED * 0, WANTED * 0) == {"outcome": "empty"}


def test_operator_runs_and_refusal_is_told() -> None:
    found = check(OPERATORS["conv2d"], PARAMS, calibrated=False)
    assert (found["outcome"], found["rounds"]) == ("runs", 1)
    refused = check(Case(lambda: Forward(lambda _, x: torch.erfinv(x))), PARAMS, calibrated=False)
    assert refused["outcome"] == "refused"
    assert "erfinv" in refused["refusal"]


def _slow() -> nn.Module:
    time.sleep(60)
    return nn.ReLU()


def _large() -> nn.Module:
    return nn.Linear(400_000, 4_000)  # 6.4 GB


def _broken() -> nn.Module:
    raise ValueError("no such network\nand more")


def test_limits_and_faults_are_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    makers: dict[str, Any] = {"slow": _slow, "large": _large, "broken": _broken}
    monkeypatch.setattr(command, "OPERATORS", {name: Case(make) for name, make in makers.items()})
    journal = tmp_path / "rows.jsonl"
    options = ["--operators", "--seconds=5", "--gigabytes=4", f"--out={journal}"]
    assert command.main([*options, "--json"]) == 0
    rows = {row["model"]: row for row in map(json.loads, journal.read_text().splitlines())}
    assert (rows["slow"]["outcome"], rows["large"]["outcome"]) == ("stopped", "failed")
    assert "memory" in rows["large"]["refusal"]
    assert rows["broken"]["refusal"] == "ValueError: no such network"


def test_rows_of_this_revision_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "revision", lambda: "b")
    made: list[str] = []

    def made_again(name: str, *_: object) -> dict[str, Any]:
        made.append(name)
        return {"model": name, "revision": "b", "outcome": "wrong"}

    monkeypatch.setattr(command, "_in_a_process", made_again)
    journal = tmp_path / "rows.jsonl"
    old = [("relu", "a", "runs"), ("abs", "b", "runs")]
    keys = ("model", "revision", "outcome")
    journal.write_text("".join(json.dumps(dict(zip(keys, r, strict=True))) + "\n" for r in old))
    chosen = ["--operators", "--only", "relu", "abs", "--json", f"--out={journal}"]
    assert command.main(chosen) == 1
    assert made == ["relu"]
    outcomes = {row["model"]: row["outcome"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert outcomes == {"relu": "wrong", "abs": "runs"}
