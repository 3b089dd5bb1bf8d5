"""A TCP relay that counts bytes and reads what ZMTP shows anyone on the way: lengths."""

import socket
import threading

GREETING_BYTES = 64
# RFC 26: a MESSAGE command has 8 bytes of name, 8 of nonce, and a box of 16 bytes and one of flags
# around the content.
CURVE_BYTES = 8 + 8 + 16 + 1
HEADER_BYTES = 44
_LONG, _COMMAND = 2, 4


class Relay:
    """Listens at a free port of 127.0.0.1 and passes everything on to `target`; `streams` keeps
    both directions.

    streams[0]: from whoever connects to the target; streams[1]: back. Only the newest connection is
    kept.
    """

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.streams: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            try:
                called = socket.create_connection(self._target)
            except OSError:
                caller.close()
                continue
            self._sockets += [caller, called]
            self.streams = (bytearray(), bytearray())
            for way, (source, sink) in enumerate(((caller, called), (called, caller))):
                threading.Thread(target=self._pass, args=(source, sink, way), daemon=True).start()

    def passing(self, way: int, n_before: int, data: bytes) -> bytes:
        """What is passed on of `data`, before which `n_before` bytes went the same way."""
        return data

    def _pass(self, source: socket.socket, sink: socket.socket, way: int) -> None:
        stream = self.streams[way]
        try:
            while data := source.recv(1 << 16):
                changed = self.passing(way, len(stream), data)
                stream += data
                sink.sendall(changed)
        except OSError:
            pass
        for end in (source, sink):
            end.close()

    def close(self) -> None:
        for end in (self._listener, *self._sockets):
            end.close()


def frames(stream: bytes) -> list[tuple[bool, int, int]]:
    """(is a command, body bytes, framed bytes) of every whole ZMTP frame after the greeting."""
    found, at = [], GREETING_BYTES
    while at + 2 <= len(stream):
        flags = stream[at]
        head = 9 if flags & _LONG else 2
        size = int.from_bytes(stream[at + 1 : at + head], "big")
        if at + head + size > len(stream):
            break
        found.append((bool(flags & _COMMAND), size, head + size))
        at += head + size
    return found


def payloads(stream: bytes) -> list[int]:
    """Payload bytes of every gpumpc frame: a part of 44 bytes, and the part behind it.

    What else is there must be known: the CURVE handshake in the clear, and sealed heartbeats (at
    most 23 bytes).
    """
    sizes: list[int] = []
    parts = [size - CURVE_BYTES for is_command, size, _ in frames(stream) if not is_command]
    awaits_payload = False
    for part in parts:
        if awaits_payload:
            sizes.append(part)
            awaits_payload = False
        elif part == HEADER_BYTES:
            awaits_payload = True
        else:
            assert part <= 23, f"{part} bytes that nobody explains"
    return sizes
