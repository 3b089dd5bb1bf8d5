from collections.abc import Iterator

import pytest

from tests.wire.stream.wires import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire
