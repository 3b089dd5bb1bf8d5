"""The simulation of the whole cluster: it passes, repeats with its seed, and finds planted bugs."""

from collections.abc import Callable
from typing import Any

import pytest

from bench.simulation.__main__ import main
from bench.simulation.plans import a_user, small_plan
from bench.simulation.schedule import Schedule
from gpumpc.client.index import Index
from gpumpc.server import store_agreement

PLAN, USER = small_plan(), a_user()


def failing(seeds: range) -> int | None:
    """The first seed whose schedule fails."""
    for seed in seeds:
        try:
            Schedule(seed, PLAN, USER).run()
        except Exception:
            return seed
    return None


def test_schedules_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schedules", "40", "--first", "1000000"]) == 0
    assert '"failed": []' in capsys.readouterr().out


def test_schedule_repeats_with_its_seed() -> None:
    def told(seed: int) -> tuple[object, ...]:
        schedule = Schedule(seed, PLAN, USER)
        schedule.run()
        history = schedule.history
        return history.n_answers, history.n_errors, schedule.world.now, sorted(history.items)

    assert told(7) == told(7) != told(8)


def searched_rows_of_now(index: Index, lists: object) -> list[str]:
    return index.ids


# An older state of the code, or a line left out, and where it is; `test_machine.py` has more.
PLANTED: dict[str, tuple[Any, str, Callable[..., object]]] = {
    "ready rows are not compared": (store_agreement, "compare_ready", lambda *_: None),
    "a search's rows are asked for later": (Index, "_searched_rows", searched_rows_of_now),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*PLANTED[bug])
    assert failing(range(200)) is not None
