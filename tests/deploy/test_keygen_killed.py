"""Making keys, cut off at any file operation: the same command then succeeds in that folder."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpumpc.deploy.keys import keygen, load_identity
from gpumpc.offline.secret import write_private

OPERATIONS = ("mkdir", "open", "fsync", "link", "unlink", "chmod")


class Killed(BaseException):
    """No `except` of the product sees it, as none sees SIGKILL."""


def kill_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The operation with number `count` ends the process; one that syncs leaves half of a file."""
    numbers = itertools.count()

    def wrapped(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            if next(numbers) != count:
                return operation(*args, **options)
            if operation.__name__ == "fsync" and not os.path.isdir(f"/proc/self/fd/{args[0]}"):
                os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            raise Killed

        return run

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))


def cut_off_everywhere(folder: Path, make: Callable[[Path], object]) -> list[Path]:
    """Run `make` in a new folder for each place to be cut off at; those folders, cut off there."""
    folders = []
    for count in range(60):
        folders.append(folder / str(count))
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_at(monkeypatch, count)
            try:
                make(folders[-1])
            except Killed:
                continue
        return folders[:-1]
    raise AssertionError("it never came to its end")


def test_keygen_finishes_a_folder_where_it_was_killed(tmp_path: Path) -> None:
    folders = cut_off_everywhere(tmp_path, lambda folder: keygen(folder, "ann", "user"))
    assert len(folders) > 10
    for folder in folders:
        if not (folder / "card.toml").exists():
            keygen(folder, "ann", "user")
        assert load_identity(folder).card.name == "ann"


def test_killed_keygen_never_changes_a_secret(tmp_path: Path) -> None:
    kept = 0
    for folder in cut_off_everywhere(tmp_path, lambda folder: keygen(folder, "ann", "user")):
        secret = folder / "secret.toml"
        if secret.exists() and not (folder / "card.toml").exists():
            before, kept = secret.read_bytes(), kept + 1
            keygen(folder, "ann", "user")
            assert secret.read_bytes() == before
    assert kept > 2


def test_private_file_is_whole_or_absent(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        write_private(folder / "owner", b"k" * 40)

    for folder in cut_off_everywhere(tmp_path, write):
        folder.mkdir(exist_ok=True)
        path = folder / "owner"
        if not path.exists():
            write_private(path, b"k" * 40)
        assert path.read_bytes() == b"k" * 40
