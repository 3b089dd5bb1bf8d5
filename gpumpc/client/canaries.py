"""Canaries: images with known results, mixed into a request to see whether it is computed rightly.

A server sees them as it sees any item: a random id and a uniform share. What they find, and what
not, is in docs/integrity.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import secrets
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpumpc import arguments
from gpumpc.errors import BadValue, ConfigError, GpumpcError, MissingFile, WrongResult
from gpumpc.offline.secret import file_error, write_private

Array = npt.NDArray[np.float64]

DEFAULT_FRACTION = 0.02
MAX_FRACTION = 0.5
_NAMED = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Canaries:
    """Images of one plan with their results. `gpumpc canaries` makes the file.

        canaries = Canaries.load("plan/canaries.npz", fraction=0.02)
        client.extract(items, canaries=canaries)

    Attributes:
        plan_id: hex digest of the plan that takes the images.
        result_plan_id: of the plan whose results these are: the same one, or a head on its results.
        inputs: (n, *shape of the plan's input).
        results: (n, ...), in fixed point.
        bounds: (n, ...), how far a right result may be from `results` (zeros for classes).
        fraction: canaries among all images that are asked for, above 0 and at most one half.
    """

    plan_id: str
    result_plan_id: str
    inputs: Array
    results: Array
    bounds: Array
    fraction: float = DEFAULT_FRACTION

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= MAX_FRACTION:
            what = f"a fraction of {self.fraction:g} canaries cannot be mixed in"
            raise BadValue(what, "it is above 0 and at most one half", "take 0.02, which is 2 %")
        if not len(self.inputs) or self.results.shape != self.bounds.shape:
            what = f"{len(self.inputs)} canaries with results {self.results.shape} cannot be used"
            why = f"their bounds have the shape {self.bounds.shape}"
            raise BadValue(what, why, "make them again with `gpumpc canaries`")

    def __repr__(self) -> str:
        return f"Canaries({len(self.inputs)} of plan {self.plan_id[:8]}, {self.fraction:g})"

    def check_plan(self, plan_id: str, result_plan_id: str, source_id: str | None) -> None:
        """Raises BadValue unless they are images of this plan with the results that are asked."""
        is_head = self.result_plan_id != self.plan_id
        ours = self.plan_id, self.result_plan_id, self.plan_id if is_head else None
        if ours != (plan_id, result_plan_id, source_id):
            what = "the canaries are of another plan or head than the one that is asked"
            why = f"they are of {ours[0][:8]} with results of {ours[1][:8]}"
            hint = "make canaries of this plan, or with --head those for a head on its features"
            raise BadValue(what, why, hint)

    @classmethod
    def load(cls, path: str | Path, fraction: float = DEFAULT_FRACTION) -> Canaries:
        """Read what `save` wrote. Raises MissingFile, ConfigError; BadValue for the fraction."""
        try:
            with np.load(path, allow_pickle=False) as file:
                ids = [str(file[name]) for name in ("plan_id", "result_plan_id")]
                arrays = [np.asarray(file[name], float) for name in ("inputs", "results", "bounds")]
        except FileNotFoundError:
            hint = "the model's owner makes it with `gpumpc canaries --plan PLAN --out FILE`"
            what, why = f"there is no file of canaries {path}", "a plan does not come with one"
            raise MissingFile(what, why, hint) from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            what, hint = f"{path} is not a file of canaries", "make it with `gpumpc canaries`"
            raise ConfigError(what, str(error), hint) from error
        return cls(ids[0], ids[1], arrays[0], arrays[1], arrays[2], fraction)

    def save(self, path: str | Path) -> None:
        """Write a new .npz file, for this user alone: results say something of the weights.

        Raises ConfigError if it is there already.
        """
        kept = dataclasses.asdict(self)
        kept.pop("fraction")
        data = io.BytesIO()
        np.savez(data, **kept)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(f"{path} cannot be written", error) from error
        write_private(Path(path), data.getvalue())


class Mixture:
    """Items of a user with canaries among them, in the order in which they are asked for.

    Attributes:
        names: ids of all, in order.
    """

    def __init__(self, items: Sequence[str], canaries: Canaries | None) -> None:
        self.names, self._canaries = list(items), canaries
        self._row: dict[str, int] = {}
        if canaries is not None:
            self._draw(len(items), canaries)

    def _draw(self, n_items: int, canaries: Canaries) -> None:
        """Put fresh ids at positions of which no server can know more than their number."""
        n = math.ceil(n_items * canaries.fraction / (1 - canaries.fraction))
        positions = secrets.SystemRandom().sample(range(n_items + n), n)
        for position in sorted(positions):
            name = secrets.token_hex(16)
            self.names.insert(position, name)
            self._row[name] = secrets.randbelow(len(canaries.inputs))

    @property
    def drawn(self) -> list[str]:
        """The canaries' ids, in order."""
        return list(self._row)

    @property
    def inputs(self) -> Array:
        """(number of `drawn`, *shape of the plan's input)."""
        if self._canaries is None:
            return np.zeros(0)
        return self._canaries.inputs[list(self._row.values())]

    def canaries_of(self, names: Sequence[str]) -> list[str]:
        """The canaries among some names."""
        return [name for name in names if name in self._row]

    def items_of(self, results: Array) -> Array:
        """The results of the user's own items, of those of all names."""
        return results[[i for i, name in enumerate(self.names) if name not in self._row]]

    def check(self, names: Sequence[str], results: Array, batch_size: int) -> None:
        """Compare results with what is known. Raises WrongResult naming canaries and batches.

        Args:
            names: canaries, in the order of `results`; others are passed over.
        """
        bad, known = [], self._canaries
        for name, found in zip(names, results, strict=True):
            if known is None or name not in self._row:
                continue
            row = self._row[name]
            # Written so that a result that cannot be compared is wrong.
            if not (np.abs(found - known.results[row]) <= known.bounds[row]).all():
                batch = self.names.index(name) // batch_size
                bad.append(f"{row} in batch {batch}")
        if bad:
            n_checked = len(self.canaries_of(names))
            more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            raise WrongResult(
                f"{len(bad)} of {n_checked} canaries came back wrong: canary "
                f"{', '.join(bad[:_NAMED])}{more}, counted from 0 in this request",
                "a server or its hardware computed wrongly, or the weights that were shared are "
                "not those of the plan",
                "use no result of this request, and delete features that it kept; shares alone do "
                "not tell which server is at fault: check both machines, then ask again",
            )


def checked(items: list[str], progress: object, canaries: object = None) -> list[str]:
    """The items. Raises BadValue for a `progress` or `canaries` that cannot be used."""
    arguments.called_back("progress", progress)
    if canaries is not None and not isinstance(canaries, Canaries):
        what = f"canaries={arguments.shown(canaries)} cannot be used"
        hint = "pass Canaries.load('plan/canaries.npz', fraction=0.02)"
        raise BadValue(what, "it takes images with known results", hint)
    return items


@contextlib.contextmanager
def mixed(
    items: Sequence[str],
    canaries: Canaries | None,
    share: Callable[[Array, list[str]], object],
    delete: Callable[[list[str]], object],
) -> Iterator[Mixture]:
    """Items with canaries among them, which are shared before and deleted after."""
    mixture = Mixture(items, canaries)
    if not mixture.drawn:
        yield mixture
        return
    try:
        share(mixture.inputs, mixture.drawn)
        yield mixture
    except BaseException:
        with contextlib.suppress(GpumpcError):  # the first error is the one to tell
            delete(mixture.drawn)
        raise
    delete(mixture.drawn)
