"""Waiting for a process that may not run yet."""

import threading
from collections.abc import Callable

from gpumpc.errors import PeerTimeout
from gpumpc.wire.resources import SeldomWarning

_LOOK_S = 1.0
# ZeroMQ gives up an address for good after bytes that are no CURVE: only a new socket tries again.
_RENEW_AFTER = 5


def wait_for_peer(
    wait_peer: Callable[[float], None], stopping: threading.Event, *, connects: bool = False
) -> bool:
    """Call `wait_peer` until it finds the peer, logging PeerTimeout; false if `stopping` is set.

    Raises the other errors of `wait_peer`.

    Args:
        connects: whether this end connects: it is then false too after some seconds, for the caller
            to try again with a new socket.
    """
    warning, n_looks = SeldomWarning(), 0
    while not stopping.is_set() and not (connects and n_looks >= _RENEW_AFTER):
        n_looks += 1
        try:
            wait_peer(_LOOK_S)
            return True
        except PeerTimeout as error:
            warning.warn(error)
    return False
