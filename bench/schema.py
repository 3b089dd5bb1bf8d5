"""The one format of every `--json` output: common keys, units in names, one object.

A key whose question does not apply to a command (the rounds of an installation) is there with the
value null, so a reader never guesses whether it was forgotten.
"""

import re
from collections.abc import Mapping
from typing import Any

COMMON: Mapping[str, tuple[type, ...]] = {
    "seconds_total": (int, float),
    "seconds_online": (int, float),
    "online_bytes": (int,),  # one server to the other, the larger direction
    "offline_bytes": (int,),  # dealer to the servers
    "rounds": (int,),
    "backend": (str,),
    "k": (int,),
    "f": (int,),
    "n_threads": (int,),
}
BACKENDS = frozenset({"numpy", "numba", "cupy", "emulated"})

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# A unit this project does not write: seconds and bytes only, spelled out.
_UNITS = "ms|us|ns|secs?|mins?|minutes|hours|time|kb|mb|gb|kib|mib|gib"
_FOREIGN_UNIT = re.compile(rf"(^|_)({_UNITS})($|_)")


class SchemaError(ValueError):
    """A row that does not keep to the format; the message lists every fault."""


def row(**values: Any) -> dict[str, Any]:
    """A checked row: the given values, and null for each common key that is not among them."""
    complete = {**dict.fromkeys(COMMON), **values}
    check_row(complete)
    return complete


def check_row(row: Mapping[str, Any]) -> None:
    """Raise `SchemaError` unless `row` has all common keys, right types and well-formed names."""
    faults = [f"'{key}' is missing" for key in COMMON if key not in row]
    for key, types in COMMON.items():
        value = row.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, types):
            faults.append(f"'{key}' is {value!r}, not {' or '.join(t.__name__ for t in types)}")
        elif isinstance(value, int | float) and not 0 <= value < float("inf"):
            faults.append(f"'{key}' is {value!r}, not a finite number from 0 up")
    if row.get("backend") is not None and row.get("backend") not in BACKENDS:
        faults.append(f"'backend' is {row['backend']!r}, not one of {', '.join(sorted(BACKENDS))}")
    faults += _name_faults(row)
    if faults:
        raise SchemaError("; ".join(faults))


def _name_faults(row: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys, nested ones too, that are not lower snake case or carry a foreign unit."""
    faults = []
    for key, value in row.items():
        if not _NAME.fullmatch(key):
            faults.append(f"'{prefix}{key}' is not lower snake case")
        elif _FOREIGN_UNIT.search(key):
            faults.append(f"'{prefix}{key}' does not say seconds or bytes")
        if key.endswith("_bytes") and value is not None and type(value) is not int:
            faults.append(f"'{prefix}{key}' is {value!r}, and bytes are whole")
        if isinstance(value, Mapping):
            faults += _name_faults(value, f"{prefix}{key}.")
    return faults
