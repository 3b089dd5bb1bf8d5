"""Planted bugs: the named test, which passes on the right source, must catch each of them."""

import dataclasses
from typing import Any

import pytest

from gpumpc.ring import kernels
from gpumpc.ring.cupy_backend import CupyBackend
from tests.emulator.device import ORDERS, EmulatedDevice, EmulationError, Mode
from tests.kernels import contract
from tests.kernels.planted import Bug, products, steps

BUGS = [*products.BUGS, *steps.BUGS]


def fails(bug: Bug, text: str, mode: Mode) -> bool:
    """Whether the named test fails on this source."""
    try:
        bug.test(CupyBackend(EmulatedDevice(mode, {bug.file: text})), *bug.arguments)
    except (AssertionError, EmulationError):
        return True
    return False


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_planted_kernel_bug_is_caught(bug):
    text = kernels.source(bug.file)
    assert text.count(bug.old) == 1, f"'{bug.old}' must stand once in {bug.file}"
    modes = [Mode(races=True)] if bug.only_races else [*ORDERS, Mode(races=True)]
    assert any(fails(bug, text.replace(bug.old, bug.new), mode) for mode in modes)


def test_shared_memory_declared_too_small_is_caught():
    class Short(EmulatedDevice):
        def launch(self, kernel: kernels.Kernel, *arguments: Any) -> None:
            short = dataclasses.replace(kernel, shared_bytes=kernel.shared_bytes // 3 * 2)
            super().launch(short, *arguments)

    contract.test_matmul_matches_numpy(CupyBackend(EmulatedDevice()), (65, 97, 67), 64)
    with pytest.raises(EmulationError, match="outside its arguments"):
        contract.test_matmul_matches_numpy(CupyBackend(Short()), (65, 97, 67), 64)


def test_at_least_twenty_bugs_are_planted():
    assert len(BUGS) >= 20 and len({bug.name for bug in BUGS}) == len(BUGS)
