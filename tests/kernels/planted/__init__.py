"""Planted bugs: each a small change of a kernel's source, and the test that must fail on it."""

import dataclasses
from collections.abc import Callable
from typing import Any

# File, test and its arguments -> name of the bug, text in the file, text in its place.
Planted = dict[tuple[Any, ...], list[tuple[str, str, str]]]


@dataclasses.dataclass(frozen=True)
class Bug:
    """One line that is wrong: `old` stands exactly once in the inlined source of `file`."""

    name: str
    file: str
    old: str
    new: str
    test: Callable[..., None]
    arguments: tuple[Any, ...]
    only_races: bool


def bugs(planted: Planted, only_races: bool = False) -> list[Bug]:
    return [
        Bug(name, file, old, new, test, tuple(arguments), only_races)
        for (file, test, *arguments), rows in planted.items()
        for name, old, new in rows
    ]
