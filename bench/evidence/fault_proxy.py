"""A TCP relay between two parties that can spoil what it passes on."""

import contextlib
import socket
import threading
import time

import numpy as np

KINDS = (
    "drop",
    "delay",
    "duplicate",
    "reorder",
    "corrupt",
    "replay",
    "one-way",
    "trickle",
    "black hole",
)
DELAY_S = 0.2
TRICKLE_BYTES_PER_S = 2000
_CHUNK = 1 << 14


class FaultProxy:
    """Passes on every connection to `target`, unchanged until a fault is set.

    Args:
        target: the party that listens, `tcp://host:port`.
        rng: chooses the bit that is changed.

    Attributes:
        endpoint: where the other party connects.
        touched: chunks that a fault has changed, held up or swallowed.
    """

    def __init__(self, target: str, rng: np.random.Generator) -> None:
        host, port = target.removeprefix("tcp://").split(":")
        self._target, self._rng = (host, int(port)), rng
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._kind = ""
        self._ways: tuple[int, ...] = (0, 1)
        self.touched = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def spoil(self, kind: str, ways: tuple[int, ...] = (0, 1)) -> None:
        """Set a fault, for the way to the target (0), back (1), or both; a drop happens at once."""
        self._kind, self._ways = kind, ways
        if kind == "drop":
            self.touched += len(self._sockets)
            self.cut()

    def heal(self) -> None:
        """Pass everything on again; what was spoilt is cut, so that the parties connect anew."""
        self._kind = ""
        self.cut()

    def cut(self) -> None:
        """Close all connections."""
        ends, self._sockets = self._sockets, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Listen no more, and close all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            try:
                called = socket.create_connection(self._target, 1.0)
            except OSError:  # nobody listens: the caller tries again
                caller.close()
                continue
            called.settimeout(None)
            for end in (caller, called):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [caller, called]
            for way, pair in enumerate(((caller, called), (called, caller))):
                threading.Thread(target=self._pass, args=(*pair, way), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, way: int) -> None:
        before, held = b"", b""
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self.heard(source, way, data)
                kind = self._kind if way in self._ways else ""
                self.touched += bool(kind)
                if kind == "reorder" and not held:
                    held = data
                    continue
                self._send(sink, kind, self._spoilt(kind, data, before) + held)
                before, held = data, b""
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def heard(self, source: socket.socket, way: int, data: bytes) -> None:
        """Called with everything that arrives; a tap keeps it."""

    def _spoilt(self, kind: str, data: bytes, before: bytes) -> bytes:
        """What goes on of `data`, of which `before` is the last that went before."""
        if kind in ("black hole", "one-way"):
            return b""
        if kind == "duplicate":
            return data + data
        if kind == "replay":
            return before + data
        if kind == "corrupt":
            bit = int(self._rng.integers(8 * len(data)))
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            return bytes(changed)
        return data

    def _send(self, sink: socket.socket, kind: str, data: bytes) -> None:
        if kind == "delay":
            time.sleep(DELAY_S)
        if kind != "trickle":
            sink.sendall(data)
            return
        step = TRICKLE_BYTES_PER_S // 10
        for start in range(0, len(data), step):
            sink.sendall(data[start : start + step])
            if self._kind == "trickle":
                time.sleep(0.1)
