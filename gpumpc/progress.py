"""Progress for people: a bar with rate and time left, on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Counted = Callable[[int, int], None]


class _Rate(ProgressColumn):
    """What is done a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "")


@contextmanager
def counted(what: str, scale: int = 1, most: int | None = None) -> Iterator[Counted]:
    """A function (done, of) that moves a bar; a unit counts for `scale` shown, `most` in all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        limit = sys.maxsize if most is None else most
        yield lambda done, of: bar.update(
            task, completed=min(done * scale, limit), total=min(of * scale, limit)
        )
