"""How much each client has asked of a plan today, durably, and whether it may ask for more.

Each server counts for itself what both have accepted, in days of UTC by its own clock. Plans go by
their names, so that a new version of a plan gives nobody a new budget.
"""

import datetime
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from gpumpc.deploy.rights import Budget
from gpumpc.errors import AccessDenied
from gpumpc.offline.sqlite_file import SqliteFile

Spent = Literal["images", "queries"]

_DAY_S = 86_400
_FORMAT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS spent (
    day INTEGER NOT NULL, client TEXT NOT NULL, plan TEXT NOT NULL, what TEXT NOT NULL,
    n INTEGER NOT NULL, PRIMARY KEY (day, client, plan, what)
) WITHOUT ROWID;
"""


class Budgets(SqliteFile):
    """The SQLite file of what was spent; only today's lines stay.

    Args:
        path: the file.
        budgets: by plan name; a plan without one is not counted.

    Raises ConfigError where it cannot be opened, read or written.
    """

    noun = "file of budgets"

    def __init__(self, path: Path, budgets: Mapping[str, Budget]) -> None:
        super().__init__(path, _SCHEMA, _FORMAT)
        self._budgets = budgets

    def _limit(self, plan: str, what: Spent) -> int | None:
        budget = self._budgets.get(plan)
        limit: int | None = getattr(budget, what) if budget else None
        return limit

    def spent(self, client: str, plan: str, what: Spent) -> int:
        """How much was spent today."""
        query = "SELECT n FROM spent WHERE day = ? AND client = ? AND plan = ? AND what = ?"
        found = self._select(query, _today(), client, plan, what)
        return int(found[0][0]) if found else 0

    def check(self, client: str, plan: str, what: Spent, n: int) -> None:
        """Raises AccessDenied where a client may not ask for `n` more today."""
        limit = self._limit(plan, what)
        if limit is None or n == 0:
            return
        spent = self.spent(client, plan, what)
        if spent + n > limit:
            reset = datetime.datetime.fromtimestamp((_today() + 1) * _DAY_S, datetime.UTC)
            raise AccessDenied(
                f"{client} may not ask for {n} {what} more with plan '{plan}' today",
                f"its budget is {limit} a day, and {spent} are spent",
                f"ask for at most {max(0, limit - spent)}, wait until {reset:%Y-%m-%d %H:%M} UTC, "
                f"or ask the operators of both servers to raise `{what}` in [budgets.{plan}]",
            )

    def spend(self, client: str, plan: str, what: Spent, n: int) -> None:
        """Count `n` more of today."""
        if self._limit(plan, what) is None:
            return
        add = (
            "INSERT INTO spent VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (day, client, plan, what) DO UPDATE SET n = n + excluded.n"
        )
        with self._change() as db:
            db.execute("DELETE FROM spent WHERE day < ?", (_today(),))
            db.execute(add, (_today(), client, plan, what, n))


def _today() -> int:
    """Days since 1970."""
    return int(time.time() // _DAY_S)
