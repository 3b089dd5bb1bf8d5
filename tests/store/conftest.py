from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumpc.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store", 0) as store:
        yield store
