"""The fast tier of the campaigns: a few units of each part, in which nothing may go wrong.

`make evidence` runs all of them.
"""

import pytest

from bench.evidence.__main__ import NAMES, load

FAST = [name for name in NAMES if load(name).fast]


@pytest.mark.evidence
@pytest.mark.parametrize("name", FAST)
def test_few_units_of_each_campaign_find_no_fault(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUMPC_BACKEND", "numpy")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    part = load(name)
    findings = list(part.run(range(part.fast)))
    assert len(findings) == part.fast
    assert not [fault for finding in findings for fault in finding.faults]
