"""What a part of the evidence is, and the journal that lets a cut part go on."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = 20261124
Counts = dict[str, float]


@dataclass(frozen=True)
class Finding:
    """What one unit of a part has shown.

    Attributes:
        counts: how often each thing was done or seen; a total is their sum over the units.
        faults: what went wrong, a sentence each; no faults means that the unit passed.
        notes: what is worth knowing and is no fault, by name.
    """

    counts: Counts
    faults: Sequence[str] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A campaign that consists of numbered units, each with randomness of its own.

    Attributes:
        unit: what one unit is, for people.
        full, fast: how many units `make evidence` runs, and how many its fast tier.
        run: yields a finding for each unit that it is asked for, in order.
    """

    name: str
    unit: str
    full: int
    fast: int
    run: Callable[[Sequence[int]], Iterator[Finding]]


class Journal:
    """A part's findings on disk, a JSON line a unit; a line that was cut is dropped.

    Args:
        path: the file, which is made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_text().splitlines(keepends=True) if path.exists() else []
        if whole and not whole[-1].endswith("\n"):
            del whole[-1]
            path.write_text("".join(whole))
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in whole]

    @property
    def next_unit(self) -> int:
        """The first unit that has no line."""
        return len(self.lines)

    def add(self, unit: int, finding: Finding, seconds: float) -> None:
        """Write a unit's finding down."""
        line = {
            "unit": unit,
            "seconds": round(seconds, 2),
            "counts": finding.counts,
            "faults": list(finding.faults),
            "notes": finding.notes,
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)

    def clear(self) -> None:
        """Forget all units."""
        self._path.unlink(missing_ok=True)
        self.lines.clear()

    def summary(self) -> dict[str, Any]:
        """Totals over all units, and the first faults with the unit that shows each."""
        totals: Counter[str] = Counter()
        for line in self.lines:
            totals.update(line["counts"])
        faults = [(line["unit"], fault) for line in self.lines for fault in line["faults"]]
        return {
            "units": len(self.lines),
            "seconds": round(sum(line["seconds"] for line in self.lines), 1),
            "counts": dict(totals),
            "n_faults": len(faults),
            "first_faults": [f"unit {unit}: {fault}" for unit, fault in faults[:10]],
        }
