"""Hostile frames against a listener and a stream: `python -m bench.hostile_frames
[--frames 1000000] [--journal out/evidence/frames.jsonl]`.

A child process is the target: a `Listener`, and ends of a stream. Half of the frames come from a
client on the allow-list and break the rules of a frame; half are bytes on a stream, from somebody
who can change them on the way, and from a peer who holds the keys and seals what should not be
sealed. The target must go on, raise no error but those of the wire, and keep its memory.

Work is done in units of 10,000 frames with a seed each; finished ones are lines of --journal and
are skipped by the next call. The last line printed is a JSON object; the exit status is 1 if there
was a fault.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpumpc.errors import GpumpcError, PeerLost, RemoteError, WireError
from gpumpc.wire.frames import HEADER, MAGIC, Buffer, Kind, encode_header
from gpumpc.wire.stream import Stream, StreamKeys
from gpumpc.wire.stream.records import HEADER_LABEL, TAG_BYTES, Sealer
from gpumpc.wire.zmq_channel import CurveKeys, Listener, Requester, curve_keypair

SEED = 20261125
UNIT = 10_000
# Memory that is taken once, such as by buffers and pools, is no growth.
WARM_UNITS = 2
GROWTH_BYTES = 16 << 20
_PAYLOAD_BYTES = 1 << 20
Unit = dict[str, Any]

_PATIENCE_S = 20.0
_LINGER_AT_ONCE = b"\x01\0\0\0\0\0\0\0"


# the target


def _serve_streams(
    server: socket.socket, secrets: tuple[bytes, bytes], counts: Counter[str]
) -> None:
    while True:
        sock, _ = server.accept()
        stream = Stream(sock, StreamKeys(*secrets, b""), "peer", _PAYLOAD_BYTES)
        try:
            while stream.get(_PATIENCE_S) is not None:
                counts["frames accepted by the stream"] += 1
        except WireError as error:
            counts[type(error).__name__] += 1
        except Exception:
            traceback.print_exc()
            counts["crashes"] += 1
        stream.abort()


def _serve_requests(listener: Listener, counts: Counter[str]) -> None:
    while True:
        try:
            arrival = listener.poll(1.0)
            if arrival is not None:
                counts["frames accepted by the listener"] += 1
                listener.reply(arrival.routing_id, Kind.REPLY, b"", sequence=1)
        except Exception:
            traceback.print_exc()
            counts["crashes"] += 1


def target() -> None:
    """The child: tells its ports, then answers each line of its input with what it has counted."""
    setup = json.loads(sys.stdin.readline())
    counts: Counter[str] = Counter()
    keys = CurveKeys(setup["public"].encode(), setup["secret"].encode())
    listener = Listener("tcp://127.0.0.1:0", keys, {setup["client"].encode(): "user"}, 1 << 20)
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    secrets = bytes.fromhex(setup["own"]), bytes.fromhex(setup["peers"])
    threading.Thread(target=_serve_requests, args=(listener, counts), daemon=True).start()
    threading.Thread(target=_serve_streams, args=(server, secrets, counts), daemon=True).start()
    print(json.dumps({"listener": listener.endpoint, "stream": server.getsockname()[1]}))
    sys.stdout.flush()
    for _ in sys.stdin:
        print(json.dumps({**counts, "malformed": listener.malformed}), flush=True)
    os._exit(0)


# the attacker


class Attacker:
    """Makes hostile frames and sends them to a target that it starts."""

    def __init__(self) -> None:
        server, self._keys = curve_keypair(), curve_keypair()
        self._server_key, self._secret = server.public, os.urandom(32)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.hostile_frames", "--target"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        setup = {"public": server.public.decode(), "secret": server.secret.decode()}
        setup |= {"client": self._keys.public.decode(), "own": os.urandom(32).hex()}
        self._places = self._asked(json.dumps(setup | {"peers": self._secret.hex()}))
        self._client = self._connected()
        self.rng = np.random.default_rng(0)

    def unit(self, number: int) -> Unit:
        """Send one unit's frames; what the target counted, what it holds, and the faults."""
        self.rng = np.random.default_rng([SEED, number])
        before, faults = self._asked("count"), []
        for i in range(UNIT // 2):
            self._to_stream()
            self._to_listener(drain=i % 32 == 0)
        self._drain(wait=True)
        counts = {k: v - before.get(k, 0) for k, v in self._asked("count").items()}
        if counts.get("crashes"):
            faults.append(f"{counts['crashes']} errors that are not of the wire")
        n_ended = counts.get("BadFrame", 0) + counts.get("PeerLost", 0)
        if n_ended != UNIT // 2:
            faults.append(f"{n_ended} of {UNIT // 2} streams ended with an error")
        if self._child.poll() is not None:
            faults.append("the target ended")
        return {"counts": counts, "resident_bytes": self._resident_bytes(), "faults": faults}

    def close(self) -> None:
        """End the target."""
        self._client.close()
        self._child.kill()
        self._child.communicate()

    def _asked(self, line: str) -> dict[str, int]:
        assert self._child.stdin and self._child.stdout  # noqa: S101 - for the type checker
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        answer: dict[str, int] = json.loads(self._child.stdout.readline())
        return answer

    def _resident_bytes(self) -> int:
        n_pages = int(Path(f"/proc/{self._child.pid}/statm").read_text().split()[1])
        return n_pages * os.sysconf("SC_PAGE_SIZE")

    def _connected(self) -> Requester:
        client = Requester(str(self._places["listener"]), self._keys, self._server_key)
        client.wait_peer(_PATIENCE_S)
        return client

    # requests

    def _to_listener(self, *, drain: bool) -> None:
        self._put(self._hostile_parts())
        if drain:
            self._drain(wait=False)

    def _put(self, parts: Sequence[Buffer]) -> None:
        try:
            self._client._link.put(parts)  # no client of ours sends such frames
        except PeerLost:  # ZeroMQ has hung up, as for a part above its limit
            self._client.close()
            self._client = self._connected()

    def _drain(self, *, wait: bool) -> None:
        """Read the answers; with `wait`, until one to a good frame shows that all were handled."""
        if wait:
            self._put([encode_header(Kind.REQUEST, 4, sequence=7), b"good"])
        while True:
            try:
                self._client.receive(_PATIENCE_S if wait else 0.0, errors_of=-1)
                if wait:
                    return
            except RemoteError:
                continue
            except GpumpcError:
                return

    def _hostile_parts(self) -> list[bytes]:
        rng = self.rng
        payload = rng.bytes(int(rng.integers(0, 200)))
        header = bytearray(encode_header(Kind.REQUEST, len(payload)))
        match int(rng.integers(6)):
            case 0:
                return [rng.bytes(int(rng.integers(0, 100))) for _ in range(rng.integers(1, 6))]
            case 1:
                header[rng.integers(len(header))] ^= 1 << int(rng.integers(8))
            case 2:
                return [bytes(header[: rng.integers(len(header))]), payload]
            case 3:
                return [bytes(header), payload, rng.bytes(int(rng.integers(1, 50)))]
            case 4:
                return [self._odd_header(), payload]
            case _:
                kind = list(Kind)[rng.integers(len(Kind))]
                return [encode_header(kind, len(payload)), payload]
        return [bytes(header), payload]

    def _odd_header(self) -> bytes:
        """A header whose fields are of the right form and have any values."""
        rng = self.rng
        n_bytes = int(rng.integers(0, 1 << 63)) >> int(rng.integers(63))
        kind, flags = int(rng.integers(12)), int(rng.integers(2))
        session, batch = rng.bytes(16), int(rng.integers(1 << 62))
        return HEADER.pack(MAGIC, 1, kind, flags, session, batch, int(rng.integers(9)), n_bytes)

    # streams

    def _to_stream(self) -> None:
        data = self._hostile_bytes()
        with contextlib.suppress(OSError):  # the target hangs up at the first wrong byte
            sock = socket.create_connection(("127.0.0.1", int(self._places["stream"])))
            with sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(_PATIENCE_S)
                while sock.recv(1 << 12):
                    pass
                # Else each connection would occupy a port of this machine for a minute.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_AT_ONCE)

    def _hostile_bytes(self) -> bytes:
        rng, sealer = self.rng, Sealer(self._secret)
        header = encode_header(Kind.OPENING, 50)
        good = _sealed(sealer, header, HEADER_LABEL) + _sealed(sealer, rng.bytes(50), header)
        match int(rng.integers(7)):
            case 0:
                return rng.bytes(int(rng.integers(0, 300)))
            case 1:
                changed = bytearray(good)
                changed[rng.integers(len(good))] ^= 1 << int(rng.integers(8))
                return bytes(changed)
            case 2:
                return good[: rng.integers(len(good))]
            case 3:
                return good + good
            case 4:  # a peer that holds the keys
                return good + _sealed(sealer, rng.bytes(HEADER.size), HEADER_LABEL)
            case 5:
                return good + _sealed(sealer, self._odd_header(), HEADER_LABEL) + rng.bytes(99)
            case _:
                beat = _sealed(sealer, encode_header(Kind.HEARTBEAT, 0), HEADER_LABEL)
                return good + beat + beat


def _sealed(sealer: Sealer, data: bytes, associated: bytes) -> bytes:
    out = bytearray(len(data) + TAG_BYTES)
    sealer.seal_into(data, associated, memoryview(out))
    return bytes(out)


# the journal


def summary(units: Sequence[Unit]) -> dict[str, object]:
    """Sums over all units, and all faults."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for number, unit in enumerate(units):
        counts.update(unit["counts"])
        faults += [f"unit {number}: {fault}" for fault in unit["faults"]]
    return {
        "frames": len(units) * UNIT,
        "counts": dict(sorted(counts.items())),
        "crashes": counts["crashes"],
        "faults": faults,
    }


def main() -> int:
    """Run the units that are missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile_frames")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--journal", type=Path, default=Path("out/evidence/frames.jsonl"))
    parser.add_argument("--target", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.target:
        target()
    options.journal.parent.mkdir(parents=True, exist_ok=True)
    known = options.journal.read_text().splitlines() if options.journal.exists() else []
    units = [json.loads(line) for line in known]
    attacker = Attacker()
    warm_bytes = growth_bytes = 0
    with contextlib.closing(attacker), options.journal.open("a") as journal:
        for done in range(-(-options.frames // UNIT) - len(units)):
            unit = attacker.unit(len(units))
            if done < WARM_UNITS:
                warm_bytes = unit["resident_bytes"]
            growth_bytes = unit["resident_bytes"] - warm_bytes
            if growth_bytes > GROWTH_BYTES:
                unit["faults"].append(f"memory grew by {growth_bytes} bytes")
            journal.write(json.dumps(unit) + "\n")
            journal.flush()
            units.append(unit)
    found = summary(units)
    print(json.dumps({**found, "growth_bytes_in_this_call": growth_bytes}))
    return int(bool(found["faults"]))


if __name__ == "__main__":
    sys.exit(main())
