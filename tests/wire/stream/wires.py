"""Two streams with an attacker between them who may change all bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from gpumpc.errors import WireError
from gpumpc.wire.frames import Frame, Kind, encode_header
from gpumpc.wire.stream import Exchange, Stream, StreamKeys
from gpumpc.wire.stream.records import RECORD_BYTES, SEALED_HEADER_BYTES, TAG_BYTES

SESSION = bytes(range(16))
LIMIT_S = 5.0
SEALED_RECORD_BYTES = RECORD_BYTES + TAG_BYTES


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        return here, server.accept()[0]


def both_keys() -> tuple[StreamKeys, StreamKeys]:
    here, there = Exchange(b"L" * 40, b"C" * 40, 7001), Exchange(b"C" * 40, b"L" * 40)
    return here.agree(there.hello)[0], there.agree(here.hello)[0]


def header_of(n_bytes: int, sequence: int = 0) -> bytes:
    return encode_header(Kind.OPENING, n_bytes, session=SESSION, batch_index=1, sequence=sequence)


def put(end: Stream, *parts: bytes | bytearray | memoryview, sequence: int = 0) -> None:
    end.put(header_of(sum(map(len, parts)), sequence), parts)


def got(end: Stream) -> Frame:
    frame = end.get(5.0)
    assert frame is not None
    return frame


class Wire:
    """Two streams; `take` gets the bytes that one sends, and `give` passes them to the other."""

    def __init__(self, max_payload_bytes: int = 1 << 26) -> None:
        pairs = tcp_pair(), tcp_pair()
        self.ends = [
            Stream(pair[0], keys, f"server{1 - party}", max_payload_bytes)
            for party, (pair, keys) in enumerate(zip(pairs, both_keys(), strict=True))
        ]
        self.taps = [pair[1] for pair in pairs]

    def take(self, party: int, payload: bytes, sequence: int = 0) -> bytes:
        """The bytes on the wire of one frame that end `party` sends."""
        put(self.ends[party], payload, sequence=sequence)
        n_records = -(-len(payload) // RECORD_BYTES)
        return self.read(party, SEALED_HEADER_BYTES + len(payload) + n_records * TAG_BYTES)

    def read(self, party: int, n_bytes: int) -> bytes:
        found = bytearray()
        self.taps[party].settimeout(LIMIT_S)
        while len(found) < n_bytes:
            found += self.taps[party].recv(n_bytes - len(found)) or b"the connection ended"
        return bytes(found)

    def give(self, party: int, data: bytes) -> None:
        """Pass `data` to end `party`, in a thread if the kernel does not take it at once."""
        self.taps[party].settimeout(LIMIT_S)
        if len(data) < 1 << 16:
            self.taps[party].sendall(data)
        else:
            threading.Thread(target=self._give, args=(party, data), daemon=True).start()

    def _give(self, party: int, data: bytes) -> None:
        with contextlib.suppress(OSError):  # an end that refuses what it reads hangs up
            self.taps[party].sendall(data)

    def cut(self, party: int) -> None:
        self.taps[party].shutdown(socket.SHUT_WR)

    def outcome(self, party: int, wait_s: float = LIMIT_S) -> list[Frame | WireError]:
        """The frames that end `party` accepts within `wait_s` seconds, and its error, if any."""
        found: list[Frame | WireError] = []
        deadline = time.monotonic() + wait_s
        try:
            while frame := self.ends[party].get(max(0.0, deadline - time.monotonic())):
                found.append(frame)
        except WireError as error:
            found.append(error)
        return found

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        for end in self.ends:
            end.abort()
        for tap in self.taps:
            tap.close()
