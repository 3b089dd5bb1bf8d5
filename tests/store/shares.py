"""Rows for a store, and programs that use a store in a process of their own."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from gpumpc.store import RowKey, Store
from gpumpc.store.segments import Matrix

ROOT = Path(__file__).resolve().parents[2]
KIND = "feature/plan"
# Before each program: a store in the folder of its first argument.
PRELUDE = """
import os, resource, signal, sys
from gpumpc.store import RowKey, Store, segments as module
from tests.store.shares import fill, keys, rows
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
store = Store(sys.argv[1], 0)
"""


def keys(n: int, start: int = 0, version: str = "v1") -> list[RowKey]:
    return [RowKey(f"img{i:05}", version) for i in range(start, start + n)]


def items(names: list[RowKey]) -> list[str]:
    return [key.item for key in names]


def rows(n: int, size: int = 16, seed: int = 1) -> Matrix:
    return np.random.default_rng(seed).integers(0, 256, (n, size), dtype=np.uint8)


def fill(store: Store, n: int, start: int = 0, seed: int = 1) -> None:
    store.put(KIND, keys(n, start), "owner", rows(n, seed=seed))
    store.confirm(KIND, keys(n, start))


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.seg"))


def command(text: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", PRELUDE + text, *map(str, arguments)]


def python(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, in the repository."""
    return subprocess.run(
        command(text, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
