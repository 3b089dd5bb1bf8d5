"""Static right operands, which keep the forms that products have brought them into."""

from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint64]


class Static(np.ndarray):
    """Words that do not change any more; results computed from them, views included, are plain."""

    forms: dict[Hashable, Array] | None

    def __array_finalize__(self, of: Array | None) -> None:
        self.forms = None


def static(words: Array) -> Array:
    """The same words, whose forms are kept; they must not be written to any longer."""
    kept = np.ascontiguousarray(words).view(Static)
    kept.forms = {}
    return kept


def formed(words: Array, name: Hashable, make: Callable[[], Array]) -> Array:
    """The form that `make` returns, kept under a name where the words are static.

    Two threads may both make it, with the same result.
    """
    forms = getattr(words, "forms", None)
    if forms is None:
        return make()
    if name not in forms:
        forms[name] = make()
    found: Array = forms[name]
    return found
