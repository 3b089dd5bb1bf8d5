"""Checks of what callers pass: a wrong argument is an error that names it, before work begins."""

import math
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsFloat

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, BadValue, GpumpcError

MAX_COUNT = 1 << 24
_SHOWN = 40


def shown(value: object) -> str:
    """A number or a short text as it is; of anything else its type, since it may be private."""
    if isinstance(value, (str, bool, int, float)) or value is None:
        text = repr(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"a {type(value).__name__}"


def whole(
    name: str,
    value: object,
    least: int = 1,
    most: int = MAX_COUNT,
    error: type[GpumpcError] = BadValue,
) -> int:
    """A whole number of `least` to `most`. Raises `error`."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what has no index raises
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        why = f"it takes a whole number of {least} to {most}"
        raise error(f"{name}={shown(value)} cannot be used", why, f"pass such a number as {name}")
    return number


def seconds(name: str, value: object) -> float:
    """A finite number of seconds, 0 or more. Raises BadValue."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    number = float(value) if is_number and isinstance(value, SupportsFloat) else -1.0
    if not 0 <= number < math.inf:
        why = "it takes a finite number of seconds, 0 or more"
        raise BadValue(f"{name}={shown(value)} cannot be used", why, f"pass for example {name}=10")
    return number


def path(name: str, value: object) -> Path:
    """A path. Raises BadValue unless it is a text or a path."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value) or "\0" in str(value):
        why = "it takes the path of a file or folder, as a text or a pathlib.Path"
        raise BadValue(f"{name}={shown(value)} cannot be used", why, f"pass such a path as {name}")
    return Path(value)


def texts(name: str, values: object) -> list[str]:
    """Texts in order. Raises BadValue for one text, a set, which has no order, and other things."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    why, hint = "it takes a list of texts, in order", f"pass a list as {name}, also for one"
    if isinstance(values, (str, bytes, set, frozenset, dict)) or not isinstance(values, Iterable):
        raise BadValue(f"{name}={shown(values)} cannot be used", why, hint)
    found = list(values)
    for place, value in enumerate(found):
        if not isinstance(value, str):
            raise BadValue(f"{name}[{place}] is {shown(value)}", why, hint)
    return [str(value) for value in found]


def called_back(name: str, value: object) -> None:
    """Raises BadValue unless it is None or can be called."""
    if value is not None and not callable(value):
        why, hint = "it takes a function of two numbers, done and of", f"leave {name} out"
        raise BadValue(f"{name}={shown(value)} cannot be called", why, hint)


def real_array(values: npt.ArrayLike, what: str = "the input") -> npt.NDArray[np.float64]:
    """Numbers as float64. Raises BadShape where rows differ in length, BadValue for other things:
    texts, complex numbers, dates, None.
    """
    try:
        given = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        hint = "pass one array of numbers"
        kind = BadShape if "inhomogeneous" in str(error) else BadValue
        raise kind(f"{what} is not an array of numbers", str(error), hint) from error
    if given.dtype.kind not in "biuf":
        why = f"its type is {given.dtype}"
        raise BadValue(f"{what} is not an array of numbers", why, "pass a float array")
    return given.astype(np.float64, copy=False)
