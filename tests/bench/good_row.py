"""A row that keeps the schema, for tests that spoil it."""

from typing import Any

GOOD: dict[str, Any] = {
    "seconds_total": 1.5,
    "seconds_online": 1,
    "online_bytes": 6_400_000,
    "offline_bytes": 21_000_000,
    "rounds": 5,
    "backend": "numpy",
    "k": 40,
    "f": 13,
    "n_threads": 2,
}
