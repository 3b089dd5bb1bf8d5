"""A stranger without a key, as a process: opens connections to ports and never proves anything."""

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator

_KEPT_S = 3.0


def flood(ports: list[int], per_second: int, seconds: float) -> int:
    """Open so many connections a second, each kept open for three; how many were opened."""
    kept: deque[tuple[float, socket.socket]] = deque()
    start, n = time.monotonic(), 0
    while (now := time.monotonic()) < start + seconds:
        while kept and now - kept[0][0] > _KEPT_S:
            kept.popleft()[1].close()
        while n < (now - start) * per_second:
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(("127.0.0.1", ports[n % len(ports)]))
            kept.append((now, sock))
            n += 1
        time.sleep(0.005)
    return n


def claim(port: int, n_connections: int, claimed_bytes: int, seconds: float) -> int:
    """Claim a command of so many bytes on each connection and send zeros; the bytes sent."""
    # ZMTP 3.1: a greeting of CURVE, then a long command with its size.
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE".ljust(23, b"\0") + bytes(32)
    selector, zeros, sent = selectors.DefaultSelector(), bytes(1 << 20), 0
    for _ in range(n_connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(greeting + b"\x06" + claimed_bytes.to_bytes(8, "big"))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_WRITE)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and selector.get_map():
        for key, _ in selector.select(0.1):
            try:
                sent += key.fileobj.send(zeros)  # type: ignore[union-attr]  # a socket
            except BlockingIOError:
                pass
            except OSError:
                selector.unregister(key.fileobj)
    return sent


@contextlib.contextmanager
def stranger(call: str) -> Iterator[subprocess.Popen[str]]:
    """A process that makes one of the calls above and prints what it returns."""
    code = f"from tests.processes.strangers import *; print({call}, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
