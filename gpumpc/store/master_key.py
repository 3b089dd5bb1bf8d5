"""Where a store's master key comes from: a file, an environment variable, a systemd credential.

The master key encrypts the rows' keys. It is written as 64 hex digits.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpumpc.errors import ConfigError, MissingFile
from gpumpc.offline.secret import Secret, file_error, read_private, sync_folder, write_private

KEY_BYTES = 32
_HINT = "put the key back: without it no row of this store can be read"


@dataclass(frozen=True)
class KeySource:
    """A place that holds a master key.

    Attributes:
        kind: a file is made (0600) where it is missing; the other two are the operator's.
        name: a path, or the name of the variable or credential.
    """

    kind: Literal["file", "env", "credential"]
    name: str

    @classmethod
    def parse(cls, text: str, folder: Path) -> "KeySource":
        """The source that `file:PATH` (relative to `folder`), `env:NAME` or `credential:NAME` says.

        Raises ConfigError.
        """
        match = re.fullmatch(r"(file):(.+)|(env|credential):([A-Za-z0-9_.-]+)", text)
        if match is None:
            hint = "write file:PATH, env:NAME or credential:NAME"
            raise ConfigError(f"'{text}' names no place of a key", "its form is another", hint)
        if match[1]:
            return cls("file", str(folder / match[2]))
        return cls("env" if match[3] == "env" else "credential", match[4])

    def __str__(self) -> str:
        words = {"file": "file", "env": "environment variable", "credential": "systemd credential"}
        return f"the {words[self.kind]} {self.name}"

    def read(self) -> Secret | None:
        """The key; None where the source does not exist. Raises ConfigError, ExposedSecret."""
        text = self._text()
        if text is None:
            return None
        if re.fullmatch(r"[0-9a-f]{64}", text.strip()) is None:
            what = f"the master key of the store cannot be read from {self}"
            raise ConfigError(what, "it is not 64 hex digits", _HINT)
        return Secret(bytes.fromhex(text))

    def _text(self) -> str | None:
        if self.kind == "env":
            return os.environ.get(self.name)
        path = Path(self.name)
        if self.kind == "credential":
            # systemd keeps other users out of its folder, whatever the mode of the file.
            path = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), self.name)
        try:
            if self.kind == "file":
                return read_private(path).decode("ascii", "replace")
            return path.read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, MissingFile):
            return None
        except OSError as error:
            raise file_error(f"{self} cannot be read", error) from error

    def make(self) -> Secret:
        """A new random key, written to the file. Raises ConfigError for the other kinds."""
        if self.kind != "file":
            hint = "set it to 64 random hex digits, for example of `openssl rand -hex 32`"
            raise MissingFile("the store has no master key yet", f"{self} is not set", hint)
        key = secrets.token_bytes(KEY_BYTES)
        path = Path(self.name)
        write_private(path, f"{key.hex()}\n".encode())
        with _explained(path):
            sync_folder(path.parent)
        return Secret(key)

    # a new key in the same file

    @property
    def successor(self) -> "KeySource":
        """The file beside this one in which a new key waits while rows are rewrapped."""
        return KeySource("file", f"{self.name}.new")

    def succeed(self) -> None:
        """Put the successor's key in the place of this one, whose bytes are overwritten."""
        path = Path(self.name)
        with _explained(path):
            with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
                file.write(bytes(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            os.replace(self.successor.name, path)
            sync_folder(path.parent)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise file_error(f"the master key {path} cannot be written", error) from error


def unlock(source: KeySource, is_right: Callable[[Secret], bool]) -> Secret:
    """The key of a store that has one. Raises MissingFile, ConfigError naming the source.

    A file's successor that is right is put in its place: a rotation ended between the two.
    """
    if source.kind == "file":
        waiting = None
        with contextlib.suppress(ConfigError):  # written by half: the rotation changed nothing yet
            waiting = source.successor.read()
        if waiting is not None and is_right(waiting):
            source.succeed()
            return waiting
    key = source.read()
    if key is not None and is_right(key):
        return key
    if key is None:
        raise MissingFile(f"the master key of the store is missing: {source}", "it is gone", _HINT)
    raise ConfigError(
        f"the master key in {source} is not that of this store",
        "it is another key, one from before a rotation, or the manifest's check value was changed",
        "name the source that holds the key of this store; nothing was read or changed",
    )
