"""The thread that reads a socket's monitor, and closes connections that prove no key.

ZeroMQ accepts whoever connects and waits three seconds for a proof. Nothing in it bounds how many
it waits for, so this thread does, as the monitor names each connection's file number.
"""

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from gpumpc.wire.resources import SeldomWarning
from gpumpc.wire.unproved import UnprovedConnections

# What a listening end has sent before the client's key is proved, at most: greeting, WELCOME and
# ERROR (RFC 23 and 26). READY takes more.
_GREETING_BYTES, _WELCOME_BYTES, _ERROR_BYTES = 64, 170, 12
_UNPROVED_BYTES = _GREETING_BYTES + _WELCOME_BYTES + _ERROR_BYTES
# tcpi_bytes_sent and tcpi_bytes_retrans of Linux's tcp_info.
_SENT, _SENT_OFFSET, _TCP_INFO_BYTES = struct.Struct("=QQ"), 200, 216
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_MONITOR_STOPPED
)

log = logging.getLogger("gpumpc")

Note = Callable[[int, int], None]


class Watch(threading.Thread):
    """Reads the monitor of one socket until `close`, also while no other thread has time to.

    Args:
        note: called in this thread with each event and its value.
        bounds: close the oldest connections when too many have not proved a key.
    """

    def __init__(self, watched: zmq.Socket[bytes], note: Note, *, bounds: bool) -> None:
        super().__init__(name="gpumpc-watch", daemon=True)
        self._watched, self._note = watched, note
        self._guard = Guard() if bounds else None
        self._monitor = watched.get_monitor_socket(_EVENTS)

    def run(self) -> None:
        """The thread's loop."""
        try:
            while True:
                message = recv_monitor_message(self._monitor)
                event, value = int(message["event"]), int(message["value"])
                if event == zmq.EVENT_MONITOR_STOPPED:
                    return
                try:
                    if self._guard is not None:
                        self._guard.note(event, value, message["endpoint"])
                    self._note(event, value)
                except Exception:  # a bug: ZeroMQ's own thread would wait for ever without a reader
                    log.exception("an event of a connection was lost")
        except zmq.ContextTerminated:
            pass
        finally:
            self._monitor.close(linger=0)
            if self._guard is not None:
                self._guard.close()

    def close(self) -> None:
        """End the thread; by whoever uses the watched socket, and before that is closed."""
        # It reads to the end: an event that found it closed would stop ZeroMQ's own thread.
        self._watched.disable_monitor()
        self.join()


class _Connection(NamedTuple):
    """A connection that ZeroMQ has accepted: its file number, and its other end."""

    fileno: int
    peer: tuple[object, ...]


class Guard:
    """Closes the oldest of too many connections that have not proved a key; for one thread.

    A file number of ZeroMQ's may belong to something else by the time that its event is read. So
    it is copied first onto a number of this object's own, which needs no free one, and looked at.
    """

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._own = os.dup(self._null)
        self._unproved: UnprovedConnections[_Connection] = UnprovedConnections()
        self._by_fileno: dict[int, _Connection] = {}
        self._warning = SeldomWarning()

    def note(self, event: int, value: int, endpoint: bytes) -> None:
        """Take in one event of the monitor; `endpoint` is the listening one."""
        if event == zmq.EVENT_ACCEPTED:
            self._accepted(value, int(endpoint.rpartition(b":")[2]))
        elif event == zmq.EVENT_DISCONNECTED:
            self._forget(value)
        elif event == zmq.EVENT_ACCEPT_FAILED:
            self._warning.warn(f"no connection can be accepted: {os.strerror(value)}")

    def close(self) -> None:
        """Free its own file numbers."""
        os.close(self._own)
        os.close(self._null)

    def _accepted(self, fileno: int, port: int) -> None:
        self._forget(fileno)
        oldest = None
        with contextlib.suppress(OSError), self._copied(fileno) as sock:  # it may have gone already
            if sock.getsockname()[1] != port:
                return
            connection = _Connection(fileno, sock.getpeername())
            self._by_fileno[fileno] = connection
            oldest = self._unproved.add(connection, str(connection.peer[0]))
        if oldest is not None:
            self._end(oldest)

    def _end(self, connection: _Connection) -> None:
        """Close a connection, unless it has proved its key meanwhile."""
        self._by_fileno.pop(connection.fileno, None)
        with contextlib.suppress(OSError), self._copied(connection.fileno) as sock:
            if sock.getpeername() == connection.peer and not has_proved(sock):
                sock.shutdown(socket.SHUT_RDWR)  # ZeroMQ reads its end, and closes it

    def _forget(self, fileno: int) -> None:
        connection = self._by_fileno.pop(fileno, None)
        if connection is not None:
            self._unproved.discard(connection)

    @contextlib.contextmanager
    def _copied(self, fileno: int) -> Iterator[socket.socket]:
        """What a file number of ZeroMQ's is now, as a socket. Raises OSError if it is none."""
        os.dup2(fileno, self._own, inheritable=False)
        try:
            sock = socket.socket(fileno=self._own)
            try:
                yield sock
            finally:
                sock.detach()
        finally:
            os.dup2(self._null, self._own, inheritable=False)


def has_proved(sock: socket.socket) -> bool:
    """Whether a connection that was accepted has got READY: its other end has proved its key."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:  # a kernel before 4.19: nobody is taken for a stranger
        return True
    n_sent, n_again = _SENT.unpack_from(info, _SENT_OFFSET)
    return bool(n_sent - n_again > _UNPROVED_BYTES)
