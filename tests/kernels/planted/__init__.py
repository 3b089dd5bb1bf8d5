"""Planted bugs: each a small change of a kernel's source, and the test that must fail on it."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Bug:
    """One line that is wrong: `old` stands exactly once in the inlined source of `file`."""

    name: str
    file: str
    old: str
    new: str
    test: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    only_races: bool = False
