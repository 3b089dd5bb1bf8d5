"""One connection: whole frames out and in."""

import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from gpumpc.errors import BadFrame, PeerLost
from gpumpc.wire.frames import MAX_PAYLOAD_BYTES, Buffer, Frame, Header, decode_header
from gpumpc.wire.stream.records import (
    HEADER_LABEL,
    RECORD_BYTES,
    SEALED_HEADER_BYTES,
    TAG_BYTES,
    StreamKeys,
)
from gpumpc.wire.stream.send_buffer import SendBuffer, Sending
from gpumpc.wire.transport import peer_lost

_LOOK_S = 0.25
_CLOSE_S = 2.0
# Read along with a header: a small frame then takes one call to the kernel.
_AHEAD_BYTES = 1 << 14
_KEEPALIVE_S = 10
_TCP_CLOSE = 7


class Stream:
    """Frames over a connected socket under one connection's keys; for one thread at a time.

    After BadFrame or PeerLost it stays unusable. A frame is returned only when all of its records
    have opened.

    Args:
        peer: the other end's name, for messages.
    """

    def __init__(
        self,
        sock: socket.socket,
        keys: StreamKeys,
        peer: str,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self.peer, self._max_payload_bytes = peer, max_payload_bytes
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            sock.setsockopt(socket.IPPROTO_TCP, option, _KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._opener = keys.opener()
        self._keys = keys
        # Made with the first frame sent: a connection's keys have one sealer.
        self._send_buffer: SendBuffer | None = None
        # Sealed bytes that have arrived and are not opened yet: [start, end) of the buffer.
        n_bytes = SEALED_HEADER_BYTES + RECORD_BYTES + TAG_BYTES + _AHEAD_BYTES
        self._arrived = memoryview(bytearray(n_bytes))
        self._start = self._end = 0
        # The arriving frame: its header, its payload, and how many bytes of that are there.
        self._header: Header | None = None
        self._raw_header = b""
        self._payload = memoryview(b"")
        self._at = 0
        self._broken: BadFrame | PeerLost | None = None
        self._closed = False

    def fileno(self) -> int:
        """For a poller: call `receive` when it is readable."""
        return self._socket.fileno()

    def put(self, header: bytes, parts: Sequence[Buffer], check: Callable[[], None]) -> None:
        """Send one frame; its parts may be changed on return. Raises PeerLost."""
        self._out().put(header, parts, check)

    def start(
        self, header: bytes, parts: Sequence[Buffer], check: Callable[[], None]
    ) -> Sending | None:
        """Begin to send one frame; its parts must not be changed before `finish`, or `abort`.

        Raises PeerLost, and what `check` raises.
        """
        return self._out().start(header, parts, check)

    def get(self, timeout_s: float, check: Callable[[], None]) -> Frame | None:
        """The next frame; None after `timeout_s` without a whole one.

        Args:
            check: called before it waits, and now and then while it does; raises if the peer has
                gone.

        Raises BadFrame, PeerLost, and what `check` raises.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            frame = self.receive() or self._checked(check)
            left_s = deadline - time.monotonic()
            if frame is not None or left_s <= 0:
                return frame
            self._readable.poll(min(left_s, _LOOK_S) * 1000)

    def _checked(self, check: Callable[[], None]) -> Frame | None:
        try:
            check()
        except PeerLost:
            # Frames that the peer sent before it went are still delivered.
            frame = self.receive()
            if frame is not None:
                return frame
            raise
        return None

    def receive(self) -> Frame | None:
        """The next frame if all of it has arrived, without waiting. Raises BadFrame, PeerLost."""
        self._check_open()
        try:
            header = self._header or self._open_header()
            while header is not None and self._at < header.n_bytes:
                if not self._open_record(header):
                    return None
        except (BadFrame, PeerLost) as error:
            self._broken, self._payload = error, memoryview(b"")
            raise
        return self._whole(header) if header is not None else None

    def abort(self) -> None:
        """Cut the connection: nothing more is sent, and no array of a caller is read any longer."""
        self._close(flush_s=0.0)

    def close(self) -> None:
        """Send the rest (at most two seconds) and close; safe to call twice."""
        self._close(flush_s=_CLOSE_S)

    def _open_header(self) -> Header | None:
        if not self._fill(SEALED_HEADER_BYTES, _AHEAD_BYTES):
            return None
        self._raw_header = self._opener.open(self._take(SEALED_HEADER_BYTES), HEADER_LABEL)
        self._header = decode_header(self._raw_header, self._max_payload_bytes)
        # Not a bytearray: that would be written with zeros first.
        self._payload, self._at = np.empty(self._header.n_bytes, np.uint8).data, 0
        return self._header

    def _open_record(self, header: Header) -> bool:
        size = min(RECORD_BYTES, header.n_bytes - self._at)
        if not self._fill(size + TAG_BYTES, 0):
            return False
        place = self._payload[self._at : self._at + size]
        self._opener.open_into(self._take(size + TAG_BYTES), self._raw_header, place)
        self._at += size
        return True

    def _whole(self, header: Header) -> Frame:
        payload, self._header, self._payload = self._payload.toreadonly(), None, memoryview(b"")
        return Frame(header.kind, payload, header.session, header.batch_index, header.sequence)

    def _take(self, n_bytes: int) -> memoryview:
        start = self._start
        self._start += n_bytes
        return self._arrived[start : self._start]

    def _fill(self, n_bytes: int, readahead_bytes: int) -> bool:
        """Whether `n_bytes` sealed bytes are here; reads some more, too. Raises PeerLost."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start + n_bytes + readahead_bytes > len(self._arrived):
            rest = bytes(self._arrived[self._start : self._end])
            self._start, self._end = 0, len(rest)
            self._arrived[: len(rest)] = rest
        while self._end - self._start < n_bytes:
            place = self._arrived[self._end : self._start + n_bytes + readahead_bytes]
            try:
                n_read = self._socket.recv_into(place)
            except BlockingIOError:
                return False
            except OSError as error:
                raise self._lost(error.strerror or str(error)) from error
            if not n_read:
                raise self._ended()
            self._end += n_read
        return True

    def _out(self) -> SendBuffer:
        self._check_open()
        if self._send_buffer is None:
            self._send_buffer = SendBuffer(self._socket, self._keys.sealer(), self.peer)
        return self._send_buffer

    def _ended(self) -> PeerLost:
        if self._header is None and self._start == self._end:
            return self._lost("it closed the connection")
        return self._lost("the connection ended in the middle of a frame, which was dropped")

    def _lost(self, why: str) -> PeerLost:
        return peer_lost(self.peer, why)

    def _check_open(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._closed:
            raise self._lost("this end was closed")

    def _close(self, flush_s: float) -> None:
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + flush_s
        if self._send_buffer is not None:
            self._send_buffer.flush(deadline)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR if flush_s else socket.SHUT_RDWR)
        if self._send_buffer is not None:
            self._send_buffer.stop()
        # A socket that is closed with unread bytes drops the bytes that it has not delivered yet.
        while flush_s and _undelivered(self._socket) and time.monotonic() < deadline:
            time.sleep(0.001)
        self._socket.close()


def _undelivered(sock: socket.socket) -> int:
    """Bytes sent and not acknowledged by the other machine, if it may still do so."""
    try:
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:  # a reset
            return 0
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0
