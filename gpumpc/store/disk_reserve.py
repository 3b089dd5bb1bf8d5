"""A file that only holds room on the disk, so that deleting works when the disk is full."""

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

from gpumpc.errors import ConfigError

RESERVE_BYTES = 1 << 20


class DiskReserve:
    """Room that a store gives up where a change that frees room finds none.

    Args:
        path: the file; made (0600) by `keep`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self) -> bool:
        """Hold the room, if the disk has it; whether it is held."""
        if self._path.exists():
            return True
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            self.release()
            return False
        finally:
            os.close(descriptor)
        return True

    def release(self) -> bool:
        """Give the room up; whether it was held."""
        with contextlib.suppress(OSError):
            self._path.unlink()
            return True
        return False


def is_full(error: ConfigError) -> bool:
    """Whether a change failed because the disk had no room."""
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
