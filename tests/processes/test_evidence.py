"""The fast tier of the campaigns: a few units of each part, in which nothing may go wrong.

Some units are tests of every run; the others are `make records`, as tests of this folder try the
same faults one by one. `make evidence` runs all units.
"""

import pytest

from bench.evidence.__main__ import NAMES, load

# How many units `make test` runs.
ALWAYS = {"kills": 5, "restore": 1, "tap": 1}
FAST = {name: load(name).fast for name in NAMES if load(name).fast}


def found_no_fault(name: str, n_units: int, patch: pytest.MonkeyPatch) -> bool:
    patch.setenv("GPUMPC_BACKEND", "numpy")
    patch.setenv("OPENBLAS_NUM_THREADS", "1")
    findings = list(load(name).run(range(n_units)))
    assert not [fault for finding in findings for fault in finding.faults]
    return len(findings) == n_units


@pytest.mark.parametrize("name", ALWAYS)
def test_first_units_of_a_campaign_find_no_fault(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_no_fault(name, ALWAYS[name], monkeypatch)


@pytest.mark.evidence
@pytest.mark.parametrize("name", FAST)
def test_few_units_of_each_campaign_find_no_fault(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found_no_fault(name, FAST[name], monkeypatch)
