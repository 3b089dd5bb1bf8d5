"""One plan and one session for every test of this folder."""

from collections.abc import Iterator

import pytest

from gpumpc.local.compile import Plan
from gpumpc.local.simulation import LocalSession
from tests.local.small_plan import compiled_plan


@pytest.fixture(scope="package")
def compiled() -> Plan:
    return compiled_plan()


@pytest.fixture(scope="package")
def session(compiled: Plan) -> Iterator[LocalSession]:
    with compiled.simulate(batch_size=2) as session:
        yield session
