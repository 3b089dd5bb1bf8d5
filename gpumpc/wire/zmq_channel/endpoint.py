"""Keys, the allow-list, and the socket options of this project."""

import dataclasses
import threading
from collections.abc import Mapping, Sequence

import zmq
from zmq.utils import z85

from gpumpc.errors import ConfigError
from gpumpc.wire.frames import Buffer
from gpumpc.wire.resources import check_free_files, passing_lack
from gpumpc.wire.zmq_channel.watch import Note, Watch

_LINGER_MS = 2000
# High-water marks count messages, not bytes: corrections wait after so many pieces.
_HWM = 64
# A silent peer is known after 4.5 seconds at most, and one that is stopped for 4 is not lost.
_HEARTBEAT_MS, _HEARTBEAT_TIMEOUT_MS = 500, 4000
_HANDSHAKE_MS = 3000
# ZeroMQ's own limit counts the bytes that CURVE adds to each part, and holds for the handshake too:
# a connection without a proved key takes so much memory. Payloads travel in parts of PART_BYTES.
_HANDSHAKE_BYTES, _CURVE_BYTES = 1024, 64
PART_BYTES = 1 << 18
# What ZeroMQ takes for a context and its socket. It ends the process if it finds fewer.
_FILES_AN_ENDPOINT = 24
_OPTIONS = {
    zmq.LINGER: _LINGER_MS,
    zmq.SNDHWM: _HWM,
    zmq.RCVHWM: _HWM,
    zmq.HANDSHAKE_IVL: _HANDSHAKE_MS,
    zmq.HEARTBEAT_IVL: _HEARTBEAT_MS,
    zmq.HEARTBEAT_TIMEOUT: _HEARTBEAT_TIMEOUT_MS,
    zmq.RECONNECT_IVL: 100,
    zmq.RECONNECT_IVL_MAX: 500,
}


@dataclasses.dataclass(frozen=True)
class CurveKeys:
    """A party's own CURVE keys, z85 encoded (40 bytes each); the secret one is never shown."""

    public: bytes
    secret: bytes = dataclasses.field(repr=False)


def curve_keypair() -> CurveKeys:
    """A fresh CURVE key pair."""
    return CurveKeys(*zmq.curve_keypair())


def curve_public(secret: bytes) -> bytes:
    """The public key (z85) of a secret one. Raises ConfigError if `secret` is not a key."""
    try:
        return zmq.curve_public(secret)
    except (ValueError, zmq.ZMQError) as error:
        what, why = "a CURVE key cannot be used", "it is not 40 z85 characters"
        raise ConfigError(what, why, "make new keys") from error


class AllowList(threading.Thread):
    """One context's ZAP handler: tells ZeroMQ whether a key may connect; ends with the context."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], names_by_key: Mapping[bytes, str]
    ) -> None:
        super().__init__(name="gpumpc-allow-list", daemon=True)
        self._names = {z85.decode(key): name.encode() for key, name in names_by_key.items()}
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind("inproc://zeromq.zap.01")

    def run(self) -> None:
        """The thread's loop."""
        try:
            while True:
                self._socket.send_multipart(self._answer(self._socket.recv_multipart()))
        except zmq.ContextTerminated:
            pass
        finally:
            # Also after an error: every key is refused then, and closing must not wait for it.
            self._socket.close()

    def _answer(self, request: list[bytes]) -> list[bytes]:
        version, request_id = request[0], request[1]
        # RFC 27: version, id, domain, address, identity, mechanism, its credentials.
        known = version == b"1.0" and len(request) == 7 and request[5] == b"CURVE"
        name = self._names.get(request[6]) if known else None
        if name is None:
            return [b"1.0", request_id, b"400", b"this key is not on the list", b"", b""]
        return [b"1.0", request_id, b"200", b"OK", name, b""]


class Endpoint:
    """One socket in a context of its own, with the options of this project.

    Args:
        note: called in a thread of its own with each event of the socket's monitor.
        most_bytes: the largest payload of one message.

    Raises OutOfResources; so do `bind` and `connect`.
    """

    def __init__(self, kind: int, keys: CurveKeys, most_bytes: int, note: Note) -> None:
        self._note = note
        self._watch: Watch | None = None
        self._allow_list: AllowList | None = None
        with passing_lack("no socket can be made now"):
            check_free_files(_FILES_AN_ENDPOINT)
            self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            try:
                self.socket = self.context.socket(kind)
            except zmq.ZMQError:
                self.context.term()
                raise
        for option, value in _OPTIONS.items():
            self.socket.setsockopt(option, value)
        part_bytes = max(min(most_bytes, PART_BYTES), _HANDSHAKE_BYTES) + _CURVE_BYTES
        self.socket.setsockopt(zmq.MAXMSGSIZE, part_bytes)
        self.socket.curve_publickey, self.socket.curve_secretkey = keys.public, keys.secret

    def bind(self, endpoint: str, allowed: Mapping[bytes, str]) -> str:
        """Listen for the keys (z85) in `allowed`; the real endpoint. Raises ConfigError."""
        self.socket.curve_server = True
        self.socket.zap_domain = b"gpumpc"
        self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        what = f"cannot listen at {endpoint}"
        try:
            with passing_lack(f"{what} now"):
                self._allow_list = AllowList(self.context, allowed)
                self._allow_list.start()
                self._begin_watch(bounds=True)
                self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise _no_endpoint(what, error) from error
        return bytes(self.socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()

    def connect(self, endpoint: str, server_key: bytes) -> None:
        """Begin to connect, pinning the server's public key (z85). Raises ConfigError."""
        what = f"cannot connect to {endpoint}"
        try:
            with passing_lack(f"{what} now"):
                self._begin_watch(bounds=False)
                self.socket.curve_serverkey = server_key
                self.socket.connect(endpoint)
        except (zmq.ZMQError, ValueError) as error:
            raise _no_endpoint(what, error) from error

    def close(self) -> None:
        """Flush for a moment and close; safe to call twice."""
        if self.context.closed:
            return
        if self._watch is not None:
            self._watch.close()
        self.socket.close()
        self.context.term()  # also ends the allow-list
        if self._allow_list is not None:
            self._allow_list.join()

    def _begin_watch(self, *, bounds: bool) -> None:
        watch = Watch(self.socket, self._note, bounds=bounds)
        watch.start()
        self._watch = watch


def in_parts(payload: bytes) -> list[memoryview]:
    """A payload as the parts in which it travels: one, or more of PART_BYTES."""
    view = memoryview(payload)
    return [view[i : i + PART_BYTES] for i in range(0, max(1, len(view)), PART_BYTES)]


def joined(parts: Sequence[zmq.Frame]) -> list[Buffer]:
    """Header and payload of a message; the payload is copied if it has several parts."""
    if len(parts) < 3:
        return [part.buffer for part in parts]
    return [parts[0].buffer, b"".join(part.buffer for part in parts[1:])]


def with_port(endpoint: str, port: int) -> str:
    """The same host, another port."""
    return f"{endpoint.rpartition(':')[0]}:{port}"


def _no_endpoint(what: str, error: Exception) -> ConfigError:
    hint = "give an endpoint like tcp://127.0.0.1:7000 whose port is free"
    return ConfigError(what, str(error), hint)
