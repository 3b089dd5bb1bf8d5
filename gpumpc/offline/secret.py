"""Secrets in memory, which do not print, and on disk, where other users cannot read them."""

import contextlib
import errno
import fcntl
import hmac
import os
import stat
from pathlib import Path

from gpumpc.errors import ConfigError, ExposedSecret, MissingFile

_OTHERS_MAY_ANYTHING = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Secret:
    """Bytes that no repr, str, format or pickle shows; only `expose` returns them."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def expose(self) -> bytes:
        """The bytes themselves."""
        return self._value

    def fingerprint(self) -> str:
        """32 hex digits by which two parties compare their secrets without showing them."""
        return hmac.digest(self._value, b"gpumpc root check", "sha256").hex()[:32]

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    # A hash of a secret could be compared with guesses.
    __hash__ = None  # type: ignore[assignment]  # how Python says "not hashable"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not serialised: write it with write_private")


def private_folder(folder: Path) -> Path:
    """The folder, made for this user alone (0700) where it is missing, with its parents.

    Raises ExposedSecret if others may write in it (they could put an old ledger back), else
    ConfigError.
    """
    try:
        for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        raise file_error(f"the folder {folder} cannot be made", error) from error
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"{folder} is not a folder", "a file has its name", "move the file away")
    if mode & _OTHERS_MAY_WRITE:
        what = f"the folder {folder} can be changed by other users"
        hint = f"use a folder of this party's own, or run: chmod 700 {folder}"
        raise ExposedSecret(what, f"its mode is {stat.S_IMODE(mode):04o}", hint)
    return folder


def write_private(path: Path, data: bytes) -> None:
    """Write a new file for this user alone (0600), durably: all of it is there, or nothing.

    Raises ConfigError if it exists.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        _remove(draft)  # of a process that was killed here
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, it fails where the name is taken
        _remove(draft)
        sync_folder(path.parent)
    except FileExistsError:
        _remove(draft)
        why, hint = "a file is never overwritten", "give another folder, or move the old one away"
        raise ConfigError(f"{path} is there already", why, hint) from None
    except OSError as error:
        _remove(draft)
        raise file_error(f"{path} cannot be written", error) from error


def _remove(draft: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)


def read_private(path: Path) -> bytes:
    """A secret file's bytes. Raises ExposedSecret, MissingFile, ConfigError."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS_MAY_ANYTHING:
                raise ExposedSecret(
                    f"the secret file {path} is open to other users",
                    f"its mode is {stat.S_IMODE(mode):04o}, so its keys may be known to others",
                    f"run: chmod 600 {path}; if others could log in here, make new keys instead",
                )
            return file.read()
    except FileNotFoundError:
        hint = "make the keys with gpumpc keygen, or correct the path in the configuration"
        raise MissingFile(f"{path} is missing", "no such file", hint) from None
    except OSError as error:
        raise file_error(f"{path} cannot be read", error) from error


def lock_file(path: Path, what: str) -> int:
    """Take the file lock at `path` for this process; returns the descriptor to close when done.

    The kernel releases it when the process ends, however it ends. Raises ConfigError if another
    process holds it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise file_error(f"{what} cannot be locked", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        hint = "stop the other process, or give each party a state folder of its own"
        why = f"another process holds {path} ({error.strerror})"
        raise ConfigError(f"{what} is in use", why, hint) from error
    return descriptor


def sync_folder(folder: Path) -> None:
    """Make new, renamed and deleted names in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_error(what: str, error: OSError) -> ConfigError:
    """The error for a file operation that the system refused."""
    hint = "free some space on that disk, check the permissions of the folder, then start again"
    if isinstance(error, IsADirectoryError):
        hint = "give the path of a file, not of a folder"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "close connections or raise the limit of open files, then try again; nothing is lost"
    if error.errno == errno.ENOMEM:
        hint = "free some memory, then try again; nothing is lost"
    if error.errno == errno.EIO:
        hint = "check that disk (see the system's log), then try again; nothing was changed"
    return ConfigError(what, error.strerror or str(error), hint)
