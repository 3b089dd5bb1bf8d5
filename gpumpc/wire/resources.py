"""What this machine lacks for a moment: file numbers, memory, space on a disk."""

import contextlib
import errno
import logging
import os
import resource
import time
from collections.abc import Iterator

from gpumpc.errors import OutOfResources

log = logging.getLogger("gpumpc")

# A server with few clients uses about 50; strangers may hold half of what there is (`unproved`).
FEW_FILES = 4096
_LACKING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC})
_WARN_S = 10.0


def lacks_resources(error: BaseException) -> bool:
    """Whether an error of the system, or of ZeroMQ, is a lack that passes."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in _LACKING


@contextlib.contextmanager
def passing_lack(what: str) -> Iterator[None]:
    """Raise OutOfResources for an error that is a lack of resources; `what` failed then."""
    try:
        yield
    except Exception as error:
        if not lacks_resources(error):
            raise
        why = f"{error}; {file_limits()}"
        hint = "it is tried again by itself; if it lasts, raise the limit (`ulimit -n`)"
        raise OutOfResources(what, why, hint) from error


def check_free_files(n: int) -> None:
    """Raises OSError (EMFILE, ENFILE) unless `n` file numbers are free.

    For a library that ends the process when it finds none.
    """
    taken: list[int] = []
    try:
        for _ in range(n):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for number in taken:
            os.close(number)


def raise_file_limit() -> tuple[int, int]:
    """Raise this process's limit of open files to what it may have; soft and hard limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # A kernel may refuse it, in a container for one: the limit then stays as it is.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def file_limits() -> str:
    """Soft and hard limit of open files, in words."""
    soft, hard = map(limit_text, resource.getrlimit(resource.RLIMIT_NOFILE))
    return f"the limit of open files is {soft}, at most {hard}"


def max_files() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def limit_text(limit: int) -> str:
    """A limit of this process in words."""
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


class SeldomWarning:
    """Logs a warning at most once in 10 seconds."""

    def __init__(self) -> None:
        self._warned_at = float("-inf")

    def warn(self, message: object) -> None:
        """Log it, unless the last one is too young."""
        if (now := time.monotonic()) - self._warned_at > _WARN_S:
            self._warned_at = now
            log.warning("%s", message)
