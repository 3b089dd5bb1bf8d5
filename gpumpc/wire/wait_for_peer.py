"""Waiting for a process that may not run yet."""

import logging
import threading
import time
from collections.abc import Callable

from gpumpc.errors import PeerTimeout

_LOOK_S = 1.0
_WARN_S = 10.0

log = logging.getLogger("gpumpc")


def wait_for_peer(wait_peer: Callable[[float], None], stopping: threading.Event) -> bool:
    """Call `wait_peer` until it finds the peer, logging PeerTimeout; false if `stopping` is set.

    Raises the other errors of `wait_peer`.
    """
    warned_at = 0.0
    while not stopping.is_set():
        try:
            wait_peer(_LOOK_S)
            return True
        except PeerTimeout as error:
            if time.monotonic() - warned_at > _WARN_S:
                warned_at = time.monotonic()
                log.warning("%s", error)
    return False
