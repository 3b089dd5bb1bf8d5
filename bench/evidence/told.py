"""What a client was told about its items, as a model that survives the client's own death.

A client process writes each request down before it sends it and each answer when it has it. From
these lines follows, for each item and each of its three rows, whether it must be there, must not be
there, or may be either because nobody was told.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROWS = ("input", "feature", "index")
# What each request makes of an item's rows once it has been answered.
EFFECTS: dict[str, dict[str, bool]] = {
    "share": {"input": True},
    "extract": {"feature": True},
    "add": {"index": True},
    "remove": {"index": False},
    "delete": dict.fromkeys(ROWS, False),
}


class Diary:
    """The lines of one client; appended to by the client, read by the campaign."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **line: Any) -> None:
        """Append a line: one write, which the death of this process does not cut."""
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """All lines so far."""
        if not self._path.exists():
            return []
        whole = self._path.read_bytes().rsplit(b"\n", 1)[0]
        return [json.loads(line) for line in whole.splitlines()]


@dataclass
class Model:
    """What must be there.

    Attributes:
        rows: of each item the rows that must be there (True) or must not (False); a row that may be
            either is left out.
        open_requests: requests that were not answered: (verb, items).
        names: indexes that were asked for, with whether the client was told that they are there.
    """

    rows: dict[str, dict[str, bool]] = field(default_factory=dict)
    open_requests: list[tuple[str, list[str]]] = field(default_factory=list)
    names: dict[str, bool] = field(default_factory=dict)

    def take(self, lines: Iterable[dict[str, Any]]) -> None:
        """Follow a client's lines."""
        asked: tuple[str, list[str]] | None = None
        for line in lines:
            if "ask" in line:
                asked = (line["ask"], line["items"])
                self._begin(*asked)
            elif "told" in line and asked:
                self._end(*asked)
                asked = None
        if asked:
            self.open_requests.append(asked)

    def _begin(self, verb: str, items: list[str]) -> None:
        if verb == "create":
            self.names.setdefault(items[0], False)
        for item in items if verb in EFFECTS else ():
            known = self.rows.setdefault(item, dict.fromkeys(ROWS, False))
            for row, there in EFFECTS[verb].items():
                if known.get(row) is not there:
                    known.pop(row, None)

    def _end(self, verb: str, items: list[str]) -> None:
        if verb == "create":
            self.names[items[0]] = True
        for item in items if verb in EFFECTS else ():
            self.rows[item].update(EFFECTS[verb])

    def settle(self) -> None:
        """All open requests were asked again and answered."""
        for verb, items in self.open_requests:
            self._end(verb, items)
        self.open_requests.clear()

    def items(self, row: str) -> list[str]:
        """The items that must have this row."""
        return sorted(item for item, rows in self.rows.items() if rows.get(row))

    def forget_deleted(self) -> None:
        """Drop items of which nothing is left."""
        self.rows = {i: rows for i, rows in self.rows.items() if rows != dict.fromkeys(ROWS, False)}

    def violations(self, row: str, found: Sequence[str]) -> list[str]:
        """How the items that have this row differ from what must be so."""
        there = {*found}
        lost = [i for i, rows in self.rows.items() if rows.get(row) is True and i not in there]
        back = [i for i, rows in self.rows.items() if rows.get(row) is False and i in there]
        unknown = there - self.rows.keys()
        kinds = (("lost", lost), ("there though deleted", back), ("of nobody", sorted(unknown)))
        faults = [f"{row} rows {kind}: {_short(items)}" for kind, items in kinds if items]
        if len(there) != len(found):
            faults.append(f"{row} rows doubled")
        return faults


def _short(items: Sequence[str]) -> str:
    return f"{len(items)} ({', '.join(item[:8] for item in items[:3])})"
