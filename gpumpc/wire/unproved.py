"""How many connections a listening socket holds that have not proved a key yet.

Anybody can open one, and each takes a file number. Above a bound the oldest is closed: a peer that
holds a key proves it within a few round trips. The bound of one address is half of the whole, so
that one address alone cannot close the connections of all others.
"""

import ipaddress
from collections import deque
from typing import Generic, TypeVar

from gpumpc.wire.resources import max_files

T = TypeVar("T")

_MOST = 1024
# A server has four listening sockets at most, so that half of its file numbers stay free.
_SHARE_OF_FILES = 8


class UnprovedConnections(Generic[T]):
    """Connections without a proved key, the oldest first; for one thread at a time.

    Args:
        limit: how many there may be in all; else as many as the limit of open files allows.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit or max(16, min(_MOST, max_files() // _SHARE_OF_FILES))
        self._connections: dict[T, str] = {}
        self._of_network: dict[str, deque[T]] = {}

    def all(self) -> list[T]:
        """All of them, the oldest first."""
        return [*self._connections]

    def add(self, connection: T, address: str) -> T | None:
        """Add one; the connection to close now, if there are too many."""
        network = _network(address)
        self._connections[connection] = network
        of_network = self._of_network.setdefault(network, deque())
        of_network.append(connection)
        if len(of_network) > self.limit // 2:
            return self._removed(of_network[0])
        if len(self._connections) > self.limit:
            return self._removed(next(iter(self._connections)))
        return None

    def discard(self, connection: T) -> None:
        """Forget one that has ended or has proved its key, if it is known."""
        if connection in self._connections:
            self._removed(connection)

    def __len__(self) -> int:
        return len(self._connections)

    def _removed(self, connection: T) -> T:
        network = self._connections.pop(connection)
        of_network = self._of_network[network]
        of_network.remove(connection)
        if not of_network:
            del self._of_network[network]
        return connection


def _network(address: str) -> str:
    """The address; of IPv6 its first 64 bits, which one subscriber has whole."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
