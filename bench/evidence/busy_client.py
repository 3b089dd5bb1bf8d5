"""A client process that works until something stops it, and writes down what it was told."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.evidence.processes import LIMIT_S, images_of, item_ids
from bench.evidence.told import Diary
from gpumpc.client.client import Client, connect
from gpumpc.client.index import Index
from gpumpc.errors import GpumpcError

INDEX = "archive"
MOST_ITEMS = 12


class _Work:
    """Requests in random order over a few items."""

    def __init__(
        self, client: Client, diary: Diary, rows: dict[str, list[str]], rng: np.random.Generator
    ) -> None:
        self._client, self._diary, self._rows, self._rng = client, diary, rows, rng
        self._index: Index = client.open_index(INDEX)

    def step(self) -> None:
        """One request, chosen at random among those that make sense now."""
        rows = self._rows
        missing = {
            "extract": [i for i in rows["input"] if i not in rows["feature"]],
            "add": [i for i in rows["feature"] if i not in rows["index"]],
        }
        verbs = [verb for verb, items in missing.items() if items]
        if len(rows["input"]) < MOST_ITEMS:
            verbs.append("share")
        else:
            verbs += ["delete", "delete"]
        if rows["index"]:
            verbs += ["search", "remove"]
        if self._rng.random() < 0.1:
            verbs.append("create")
        verb = verbs[int(self._rng.integers(len(verbs)))]
        chosen = missing.get(verb) or self._choose(verb)
        getattr(self, f"_{verb}")(chosen)

    def _choose(self, verb: str) -> list[str]:
        if verb in ("share", "create"):
            return item_ids(self._rng, 3 if verb == "share" else 1)
        rows = self._rows["input" if verb == "delete" else "index"]
        n = min(len(rows), int(self._rng.integers(1, 4)))
        return [rows[int(i)] for i in self._rng.choice(len(rows), n, replace=False)]

    def _told(self, verb: str, items: Sequence[str]) -> None:
        self._diary.write(told=verb, items=list(items))

    def _share(self, items: list[str]) -> None:
        self._diary.write(ask="share", items=items)
        self._client.share(images_of(items), items)
        self._rows["input"] += items
        self._told("share", items)

    def _extract(self, items: list[str]) -> None:
        self._diary.write(ask="extract", items=items)
        self._client.extract(items)
        self._rows["feature"] += items
        self._told("extract", items)

    def _add(self, items: list[str]) -> None:
        self._diary.write(ask="add", items=items)
        self._index.add(items)
        self._rows["index"] += items
        self._told("add", items)

    def _remove(self, items: list[str]) -> None:
        self._diary.write(ask="remove", items=items)
        self._index.remove(items)
        self._drop("index", items)
        self._told("remove", items)

    def _delete(self, items: list[str]) -> None:
        self._diary.write(ask="delete", items=items)
        self._client.delete(items)
        for row in self._rows:
            self._drop(row, items)
        self._told("delete", items)

    def _create(self, items: list[str]) -> None:
        self._diary.write(ask="create", items=items)
        self._client.create_index(items[0], "l2")
        self._told("create", items)

    def _search(self, items: list[str]) -> None:
        self._diary.write(ask="search", items=items)
        _, found = self._index.search(items, 1)
        wrong = [item for item, [first] in zip(items, found, strict=True) if item != first]
        if wrong:
            self._diary.write(fault=f"the nearest of {wrong[0][:8]} was another item")
        self._told("search", items)

    def _drop(self, row: str, items: list[str]) -> None:
        self._rows[row] = [item for item in self._rows[row] if item not in items]


def work(config: str, plan: str, diary_path: str, rows: dict[str, list[str]], seed: int) -> None:
    """Work until a request fails; the diary's last line says with which error, and how late."""
    diary, asked = Diary(Path(diary_path)), time.monotonic()
    try:
        with connect(config, plan, LIMIT_S) as client:
            busy = _Work(client, diary, rows, np.random.default_rng(seed))
            diary.write(started=True)
            while True:
                asked = time.monotonic()
                busy.step()
    except GpumpcError as error:
        seconds = round(time.monotonic() - asked, 2)
        parts = all((error.what, error.why, error.hint))
        diary.write(error=f"{type(error).__name__}: {error}", seconds=seconds, three_parts=parts)
    except Exception as error:
        diary.write(fault=f"the client met {type(error).__name__}: {error}")
