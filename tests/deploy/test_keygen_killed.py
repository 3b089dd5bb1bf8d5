"""Making keys or a set-up, cut off at any file operation: it then succeeds in that folder."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpumpc.deploy.config import LocalSetup, load_client, load_dealer, load_server, write_local
from gpumpc.deploy.keys import keygen, load_identity
from gpumpc.errors import ConfigError
from gpumpc.offline.secret import write_private

OPERATIONS = ("mkdir", "open", "fsync", "link", "unlink", "chmod", "replace")


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


def cut_off_everywhere(folder: Path, make: Callable[[Path], object], step: int = 1) -> list[Path]:
    """Run `make` in a folder for every `step`-th place to be cut off at; those folders."""
    folders = []
    for count in range(0, 200, step):
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


def test_local_setup_is_finished_where_it_was_killed(tmp_path: Path) -> None:
    """By the same command, as `gpumpc up --local` does unless `client.toml` is there.

    At some places while it makes keys, and at every place after it has made them.
    """
    plan = tmp_path / "plan"
    folders = cut_off_everywhere(tmp_path / "a", lambda folder: write_local(folder, [plan], 2), 7)
    made = write_local(tmp_path / "made", [plan], 2).folder
    for file in made.glob("*.toml"):
        file.unlink()
    write_private(made / ".unfinished", b"")
    for count in range(40):
        shutil.copytree(made, tmp_path / "b" / str(count))
    folders += cut_off_everywhere(tmp_path / "b", lambda folder: write_local(folder, [plan], 2))
    n_unfinished = 0
    for folder in folders:
        setup = LocalSetup.of(folder)
        if not setup.client.exists():
            n_unfinished += 1
            write_local(folder, [plan], 2)
        first, second = load_server(setup.server0), load_server(setup.server1)
        endpoints = (first.listen, second.listen)
        assert load_dealer(setup.dealer).server_endpoints == endpoints
        client = load_client(setup.client)
        assert client.server_endpoints == endpoints and load_identity(client.identity)
        assert first.users == second.users and first.peer_listen == second.peer_connect
    assert n_unfinished > 20 and len(folders) > n_unfinished


@pytest.mark.parametrize("name", ["server1.toml", "client.toml", "user"])
def test_finished_setup_and_foreign_files_stay(tmp_path: Path, name: str) -> None:
    setup = write_local(tmp_path / "made", [tmp_path / "plan"], 2)
    before = setup.client.read_bytes()
    with pytest.raises(ConfigError, match="server0.toml is there already"):
        write_local(setup.folder, [tmp_path / "plan"], 2)
    (tmp_path / "own").mkdir(mode=0o700)
    (setup.folder / name).rename(tmp_path / "own" / name)
    with pytest.raises(ConfigError, match=f"{name} is there already"):
        write_local(tmp_path / "own", [tmp_path / "plan"], 2)
    assert name == "client.toml" or setup.client.read_bytes() == before
