"""Networks and a search as `gpumpc bench` runs them: `python -m bench.suite workloads`."""

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gpumpc.measure.workloads import Measured, case_of, open_workload
from gpumpc.params import Params

# Lite0 is not among them: its weights would have to be fetched.
NAMES = ("lenet", "vgg", "resnet18", "retrieval")


@pytest.fixture(params=NAMES)
def measured(request: pytest.FixtureRequest) -> Iterator[Measured]:
    """One workload at its usual size, run once."""
    made = open_workload(case_of(request.param, 0, 0, Params()), None)
    with made.session:
        made.runner.total()
        yield made


def test_total(benchmark: BenchmarkFixture, measured: Measured) -> None:
    """From empty pools."""
    pedantic: Any = benchmark.pedantic
    pedantic(measured.runner.total, rounds=5, iterations=1)


def test_online(benchmark: BenchmarkFixture, measured: Measured) -> None:
    """With the corrections lying ready."""
    pedantic: Any = benchmark.pedantic
    pedantic(
        measured.runner.total, setup=lambda: measured.session.deal_ahead(1), rounds=5, iterations=1
    )
