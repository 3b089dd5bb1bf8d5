"""One connection: whole frames out and in."""

import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from gpumpc.errors import BadFrame, PeerLost
from gpumpc.wire.frames import (
    MAX_PAYLOAD_BYTES,
    Buffer,
    Frame,
    Header,
    Kind,
    decode_header,
    encode_header,
)
from gpumpc.wire.stream import heartbeat
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
# Bytes of heartbeats that a busy end leaves unread for two minutes. If more wait, they are of bulk
# that nobody reads here, and the peer may be unable to send more.
_MUCH_UNREAD = 1 << 14
_TCP_CLOSE = 7
_SILENT = (
    f"it sent nothing for {heartbeat.SILENCE_S:g} s, not even a heartbeat: it is stopped, or the "
    "network between is down"
)


class Stream:
    """Frames over a connected socket under one connection's keys; for one thread at a time.

    After BadFrame or PeerLost it stays unusable. A frame is returned only when all of its records
    have opened. From `keep_alive` on, a peer that is silent for five seconds is a lost one.

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
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._hung_up = select.poll()
        self._hung_up.register(sock, select.POLLRDHUP)
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
        self._heartbeat: heartbeat.Heartbeat | None = None
        self._n_read = 0
        self._ended_why = ""

    def fileno(self) -> int:
        """For a poller: call `receive` when it is readable."""
        return self._socket.fileno()

    def keep_alive(self, *, reads: bool = False) -> None:
        """From now on, send heartbeats and notice a silent peer; both ends have proved their keys.

        Args:
            reads: the peer sends no frame, and nobody calls `receive` here: read its heartbeats.
        """
        beat = self._beat_and_read if reads else self._beat
        self._heartbeat = heartbeat.Heartbeat(beat, self._heard, self._lose)
        self._heartbeat.start()

    def put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """Send one frame; its parts may be changed on return. Raises PeerLost."""
        self._out().put(header, parts)

    def start(self, header: bytes, parts: Sequence[Buffer]) -> Sending | None:
        """Begin to send one frame; its parts must not be changed before `finish`, or `abort`.

        Raises PeerLost.
        """
        return self._out().start(header, parts)

    def get(self, timeout_s: float) -> Frame | None:
        """The next frame; None after `timeout_s` without a whole one. Raises BadFrame, PeerLost."""
        deadline = time.monotonic() + timeout_s
        while True:
            frame = self.receive()
            left_s = deadline - time.monotonic()
            if frame is not None or left_s <= 0:
                return frame
            self._readable.poll(min(left_s, _LOOK_S) * 1000)

    def receive(self) -> Frame | None:
        """The next frame if all of it has arrived, without waiting. Raises BadFrame, PeerLost."""
        self._check_open()
        try:
            while (header := self._header or self._open_header()) is not None:
                while self._at < header.n_bytes:
                    if not self._open_record(header):
                        return None
                frame = self._whole(header)
                if header.kind is not Kind.HEARTBEAT or header.n_bytes:
                    return frame
        except (BadFrame, PeerLost) as error:
            self._broken, self._payload = _copied(error), memoryview(b"")
            raise
        return None

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
            self._n_read += n_read
        return True

    def _out(self) -> SendBuffer:
        self._check_open()
        if self._send_buffer is None:
            self._send_buffer = SendBuffer(self._socket, self._keys.sealer(), self.peer)
        return self._send_buffer

    def _beat(self) -> None:
        with suppress(PeerLost):
            header = encode_header(Kind.HEARTBEAT, 0)
            self._out().put_if_idle(header, heartbeat.IDLE_S, heartbeat.HEARTBEAT_S)

    def _beat_and_read(self) -> None:
        self._beat()
        try:
            if self.receive() is not None:
                self._broken = self._lost("it sent a frame where heartbeats alone were due")
        except (BadFrame, PeerLost):
            pass  # `put` raises it
        if self._broken is not None:
            self._wake(self._broken.why)

    def _heard(self) -> int | None:
        """Bytes that have arrived; None while silence would not mean that the peer is lost."""
        if self._hung_up.poll(0):  # it has ended the connection, and whoever reads will see it
            return None
        try:
            unread = _queued(self._socket, termios.FIONREAD)
        except (OSError, ValueError):  # this end is closing
            return None
        return None if unread > _MUCH_UNREAD else self._n_read + unread

    def _lose(self) -> None:
        self._ended_why = _SILENT
        self._wake(_SILENT)

    def _wake(self, why: str) -> None:
        """End the connection: a thread that waits for the peer raises PeerLost."""
        if self._send_buffer is not None:
            self._send_buffer.fail(why)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _ended(self) -> PeerLost:
        if self._ended_why:
            return self._lost(self._ended_why)
        if self._header is None and self._start == self._end:
            return self._lost("it closed the connection")
        return self._lost("the connection ended in the middle of a frame, which was dropped")

    def _lost(self, why: str) -> PeerLost:
        return peer_lost(self.peer, why)

    def _check_open(self) -> None:
        if self._broken is not None:
            raise _copied(self._broken)
        if self._closed:
            raise self._lost("this end was closed")

    def _close(self, flush_s: float) -> None:
        if self._closed:
            return
        self._closed = True
        if self._heartbeat is not None:
            self._heartbeat.stop()
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


def _copied(error: BadFrame | PeerLost) -> BadFrame | PeerLost:
    """The same error without a traceback, which would keep the stream and its buffers alive."""
    return type(error)(error.what, error.why, error.hint)


def _undelivered(sock: socket.socket) -> int:
    """Bytes sent and not acknowledged by the other machine, if it may still do so."""
    try:
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE:  # a reset
            return 0
        return _queued(sock, termios.TIOCOUTQ)
    except OSError:
        return 0


def _queued(sock: socket.socket, request: int) -> int:
    """Bytes in one of a socket's two queues."""
    return int(struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0])
