"""The command line of `bench.networks`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench import networks
from gpumpc.params import Params


def test_options_reach_the_measurement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*arguments: Any) -> dict[str, Any]:
        assert arguments == ("vgg", 3, "lan", Params(ring_bits=44, frac_bits=16), 2)
        return {"rounds": 7}

    monkeypatch.setattr(networks, "measure", measure)
    options = ["--workload=vgg", "--batch-size=3", "--net=lan", "--ring-bits=44", "--frac-bits=16"]
    assert networks.main([*options, "--runs=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rounds": 7}
