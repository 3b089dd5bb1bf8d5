"""Our record layer against TLS 1.3 of the standard library: `python -m bench.tls_exchange --mb 64
[--runs 3] [--json]`.

Two processes exchange messages over loopback, as in `bench.bulk_exchange`, in three ways:

stream    gpumpc's AES-256-GCM records, as the servers use them
tls       one TLS connection; one thread sends and receives without blocking, since OpenSSL forbids
          two threads on one connection
tls_pair  two TLS connections, one a direction; a second thread sends while the first receives

Both TLS ways use mutual authentication: each end trusts the other's self-signed certificate and
nothing else. Frames are the same: a header of fixed size, then the payload, received into its
place. The runs of the three ways alternate.
"""

import argparse
import datetime
import json
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.backends.openssl import backend as cryptography_openssl
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import bulk_exchange
from bench.bulk_exchange import Timing, measure
from bench.command import command_line, show
from bench.schema import row
from gpumpc.wire.frames import HEADER, MAX_PAYLOAD_BYTES, Kind, decode_header, encode_header

WAYS = ("stream", "tls", "tls_pair")
_PATIENCE_S = 60.0
_SUITE = "TLS_AES_256_GCM_SHA384"
# The most one call to `send` is given while the same thread also receives.
_CHUNK_BYTES = 1 << 18
# Below this a frame is sent by the thread that receives: a change of threads costs more.
_LARGE_BYTES = 1 << 20


class _Incoming:
    """A frame while it arrives: its header first, then the payload in an array of its own."""

    def __init__(self) -> None:
        self._header = memoryview(bytearray(HEADER.size))
        self.place = self._header
        self._payload: memoryview | None = None

    def advance(self, n_bytes: int) -> bool:
        """Note that `n_bytes` more bytes are in place; whether the frame is complete."""
        if not n_bytes:
            raise ConnectionResetError("the other process closed the connection")
        self.place = self.place[n_bytes:]
        if not self.place and self._payload is None:
            n_payload = decode_header(bytes(self._header), MAX_PAYLOAD_BYTES).n_bytes
            self._payload = self.place = np.empty(n_payload, np.uint8).data
        return not self.place


def _outgoing(payload: Sequence[bytes]) -> list[memoryview]:
    """A frame as views to send: a small one joined with its header, a large one uncopied."""
    data = payload[0]
    header = encode_header(Kind.OPENING, len(data))
    parts = [header, data] if len(data) >= _LARGE_BYTES else [header + data]
    return [memoryview(part) for part in parts]


class TlsChannel:
    """One TLS connection, sent to and read from by one thread."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        sock.setblocking(False)
        self._poller = select.poll()

    def exchange(self, payload: Sequence[bytes]) -> None:
        """Send this frame and receive the peer's, both at once."""
        to_send, incoming, complete = _outgoing(payload), _Incoming(), False
        while to_send or not complete:
            n_sent = self._send_some(to_send)
            n_received = None if complete else self._receive_some(incoming)
            if n_received is not None:
                complete = incoming.advance(n_received)
            elif not n_sent:
                self._wait(bool(to_send), not complete)

    def _send_some(self, to_send: list[memoryview]) -> int:
        if not to_send:
            return 0
        try:
            n_sent = self._socket.send(to_send[0][:_CHUNK_BYTES])
        except ssl.SSLWantWriteError:
            return 0
        to_send[0] = to_send[0][n_sent:]
        if not to_send[0]:
            to_send.pop(0)
        return n_sent

    def _receive_some(self, incoming: _Incoming) -> int | None:
        try:
            return self._socket.recv_into(incoming.place)
        except ssl.SSLWantReadError:
            return None

    def _wait(self, sends: bool, receives: bool) -> None:
        events = select.POLLOUT * sends | select.POLLIN * receives
        self._poller.register(self._socket, events)
        self._poller.poll(_PATIENCE_S * 1000)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class TlsPair:
    """Two TLS connections, one a direction, each used by one thread at a time."""

    def __init__(self, sending: ssl.SSLSocket, receiving: ssl.SSLSocket) -> None:
        self._sending, self._receiving = sending, receiving
        self._executor = ThreadPoolExecutor(1, "sending")

    def exchange(self, payload: Sequence[bytes]) -> None:
        """Send this frame and receive the peer's, both at once."""
        parts, incoming = _outgoing(payload), _Incoming()
        if len(parts) == 1:
            self._send(parts)
            self._receive(incoming)
            return
        sent = self._executor.submit(self._send, parts)
        self._receive(incoming)
        sent.result(_PATIENCE_S)

    def _send(self, parts: Sequence[memoryview]) -> None:
        for part in parts:
            self._sending.sendall(part)

    def _receive(self, incoming: _Incoming) -> None:
        while not incoming.advance(self._receiving.recv_into(incoming.place)):
            pass

    def close(self) -> None:
        """Close both connections."""
        self._executor.shutdown()
        self._sending.close()
        self._receiving.close()


def write_credentials(folder: Path, name: str) -> None:
    """Write a self-signed certificate `name.pem` and its private key `name.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, form, plain)
    (folder / f"{name}.key").write_bytes(private)


def _secured(sock: socket.socket, folder: Path, own: str, peer: str) -> ssl.SSLSocket:
    """TLS 1.3 over a connected socket, with the peer's certificate as the only trusted one."""
    listens = own == "listener"
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(_PATIENCE_S)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is pinned
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / f"{own}.pem", folder / f"{own}.key")
    context.load_verify_locations(folder / f"{peer}.pem")
    if listens:
        context.num_tickets = 0
    secured = context.wrap_socket(sock, server_side=listens)
    suite = secured.cipher()
    if suite is None or suite[0] != _SUITE:
        raise ConnectionAbortedError(f"the suite is {suite}, not {_SUITE}")
    return secured


def play(channel: TlsChannel | TlsPair, sizes: Sequence[tuple[int, int]]) -> list[Timing]:
    """Measure at one end; both ends do the same."""
    found = [measure(channel.exchange, n_bytes, times) for n_bytes, times in sizes]
    channel.close()
    return found


def run_tls(way: str, sizes: Sequence[tuple[int, int]]) -> list[Timing]:
    """Two processes over TLS; what this one measured."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as listener:
        folder = Path(name)
        for party in ("listener", "caller"):
            write_credentials(folder, party)
        port = listener.getsockname()[1]
        told = json.dumps({"way": way, "sizes": sizes, "folder": name, "port": port})
        caller = subprocess.Popen([sys.executable, "-m", "bench.tls_exchange", "--caller", told])
        try:
            listener.settimeout(_PATIENCE_S)

            def connect() -> ssl.SSLSocket:
                return _secured(listener.accept()[0], folder, "listener", "caller")

            first = connect()
            return play(TlsChannel(first) if way == "tls" else TlsPair(first, connect()), sizes)
        finally:
            caller.wait(_PATIENCE_S)


def _be_the_caller(told: str) -> int:
    values = json.loads(told)
    folder, address = Path(values["folder"]), ("127.0.0.1", values["port"])

    def connect() -> ssl.SSLSocket:
        sock = socket.create_connection(address, _PATIENCE_S)
        return _secured(sock, folder, "caller", "listener")

    first = connect()
    # The first connection carries what the listener sends.
    pair = values["way"] == "tls_pair"
    play(TlsPair(connect(), first) if pair else TlsChannel(first), values["sizes"])
    return 0


def run(way: str, sizes: Sequence[tuple[int, int]]) -> list[Timing]:
    """One run of one way."""
    return bulk_exchange.run("stream", sizes) if way == "stream" else run_tls(way, sizes)


def _middle(timings: Sequence[Timing]) -> Timing:
    """The median over runs, field by field; the least of the least."""
    median, _, processor, switches = (statistics.median(v) for v in zip(*timings, strict=True))
    return Timing(median, min(timing.least for timing in timings), processor, switches)


def _values(way: str, small: Timing, large: Timing) -> dict[str, float]:
    return {
        f"seconds_{way}": large.median,
        f"seconds_{way}_least": large.least,
        f"seconds_{way}_processor": large.processor,
        f"seconds_{way}_small": small.median,
        f"seconds_{way}_small_least": small.least,
        f"seconds_{way}_small_processor": small.processor,
        f"switches_{way}_small": small.switches,
    }


def _parser() -> argparse.ArgumentParser:
    parser = command_line("tls_exchange", "Time our records against TLS 1.3.")
    parser.add_argument("--mb", type=float, default=64.0, help="millions of bytes each way")
    parser.add_argument("--times", type=int, default=9, help="large exchanges a run")
    parser.add_argument("--small", type=int, default=1000, help="bytes each way of a small one")
    parser.add_argument("--small-times", type=int, default=2000, help="small exchanges a run")
    parser.add_argument("--runs", type=int, default=3, help="runs of each way, alternating")
    parser.add_argument("--caller", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the three ways and print."""
    options = _parser().parse_args(arguments)
    if options.caller:
        return _be_the_caller(options.caller)
    start, n_bytes = time.monotonic(), int(options.mb * 1e6)
    sizes = [(options.small, options.small_times), (n_bytes, options.times)]
    runs = [{way: run(way, sizes) for way in WAYS} for _ in range(options.runs)]
    values: dict[str, float] = {}
    for way in WAYS:
        small, large = (_middle([done[way][i] for done in runs]) for i in range(2))
        values |= _values(way, small, large)
        print(
            f"{way}: large {large.median:.4f} s, processor {large.processor:.4f} s;"
            f" small {small.median * 1e6:.0f} us, processor {small.processor * 1e6:.0f} us",
            file=sys.stderr,
        )
    measured = row(
        seconds_total=time.monotonic() - start,
        seconds_online=values["seconds_stream"],
        online_bytes=n_bytes,
        rounds=1,
        small_online_bytes=options.small,
        runs=options.runs,
        openssl_of_tls=ssl.OPENSSL_VERSION,
        openssl_of_stream=cryptography_openssl.openssl_version_text(),
        tls_over_stream_processor=values["seconds_tls_pair_processor"]
        / values["seconds_stream_processor"],
        **values,
    )
    show(measured, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
