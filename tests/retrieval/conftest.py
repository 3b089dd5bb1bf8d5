"""Indexes that a test makes, closed after it."""

import pytest

from gpumpc.retrieval.programs import Geometry
from tests.retrieval.indexes import Index


@pytest.fixture
def make(tmp_path):
    made: list[Index] = []

    def factory(geometry: Geometry, n_labels: int = 0) -> Index:
        made.append(Index(tmp_path / str(len(made)), geometry, n_labels))
        return made[-1]

    yield factory
    for one in made:
        one.close()
