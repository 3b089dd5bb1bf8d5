"""Waiting for a process that may not run yet."""

import threading
from collections.abc import Callable

from gpumpc.errors import PeerTimeout
from gpumpc.wire.resources import SeldomWarning

_LOOK_S = 1.0


def wait_for_peer(wait_peer: Callable[[float], None], stopping: threading.Event) -> bool:
    """Call `wait_peer` until it finds the peer, logging PeerTimeout; false if `stopping` is set.

    Raises the other errors of `wait_peer`.
    """
    warning = SeldomWarning()
    while not stopping.is_set():
        try:
            wait_peer(_LOOK_S)
            return True
        except PeerTimeout as error:
            warning.warn(error)
    return False
