"""The bench of the channel runs both ways and prints rows of the one format."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.schema import check_row

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("over", ["stream", "curve"])
def test_bulk_exchange_prints_a_valid_row(over: str) -> None:
    command = [sys.executable, "-m", "bench.bulk_exchange"]
    command += ["--mb=2.5", "--times=2", f"--over={over}", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    row = json.loads(done.stdout.splitlines()[-1])
    check_row(row)
    assert (row["online_bytes"], row["small_online_bytes"], row["over"]) == (2_500_000, 1000, over)
    assert row["bytes_per_second"] == pytest.approx(row["online_bytes"] / row["seconds_online"])
    assert row["switches"] >= 0 and row["small_switches"] >= 0
    assert 0 < row["seconds_small_least"] <= row["seconds_small"]
