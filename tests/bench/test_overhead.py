"""The overhead is a ratio of pairs with an interval, of two commits side by side."""

import subprocess

import numpy as np
import pytest

from bench.evidence import overhead
from tests.processes.cluster import ROOT


def test_interval_covers_the_true_ratio() -> None:
    rng, n_missed = np.random.default_rng(1), 0
    for _ in range(400):
        before = rng.lognormal(0, 0.5, 12)
        now = before * 1.25 * rng.lognormal(0, 0.2, 12)
        found = overhead.ratio(list(zip(before, now, strict=True)))
        assert found.low <= found.median <= found.high
        n_missed += not found.low <= 1.25 <= found.high
    assert n_missed <= 20  # at most 5 %; 3.9 % are expected of 12 pairs


def test_interval_needs_six_pairs() -> None:
    assert overhead.ratio([(1.0, float(i)) for i in range(1, 7)]) == (3.5, 1.0, 6.0)
    with pytest.raises(ValueError, match="at least 6"):
        overhead.ratio([(1.0, 2.0)] * 5)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these files are not in a git repository")
def test_a_commit_is_checked_out_beside() -> None:
    with overhead.checked_out("HEAD") as tree:
        assert (tree / "gpumpc" / "kernels" / "__init__.py").exists()  # through a link
    assert not tree.exists()
    with pytest.raises(subprocess.CalledProcessError), overhead.checked_out("no-such-commit"):
        pass
