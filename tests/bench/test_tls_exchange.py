"""The comparison of our record layer with TLS runs all three ways and prints one checked row."""

import json

import pytest

from bench.schema import check_row
from bench.tls_exchange import WAYS, main


def test_all_ways_are_timed_in_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--mb", "1.5", "--times", "1", "--small-times", "5"]
    assert main([*sizes, "--runs", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    check_row(row)
    assert row["online_bytes"] == 1_500_000 and row["small_online_bytes"] == 1000
    for way in WAYS:
        assert 0 < row[f"seconds_{way}_least"] <= row[f"seconds_{way}"]
        assert 0 < row[f"seconds_{way}_small_least"] <= row[f"seconds_{way}_small"]
    ratio = row["seconds_tls_pair_processor"] / row["seconds_stream_processor"]
    assert row["tls_over_stream_processor"] == pytest.approx(ratio)
