"""Keys, the allow-list, and the socket options of this project."""

import dataclasses
import threading
from collections.abc import Mapping

import zmq
from zmq.utils import z85

from gpumpc.errors import ConfigError

_LINGER_MS = 2000
# High-water marks count messages, not bytes: corrections wait after so many pieces.
_HWM = 64
_HEARTBEAT_MS, _HEARTBEAT_TIMEOUT_MS = 1000, 4000
_HANDSHAKE_MS = 3000
# ZeroMQ's own limit counts the bytes that CURVE adds to each part, and holds for the handshake too.
_HANDSHAKE_BYTES, _CURVE_BYTES = 1024, 64
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
    """One socket in a context of its own, with the options of this project."""

    def __init__(self, kind: int, keys: CurveKeys, max_payload_bytes: int) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(kind)
        for option, value in _OPTIONS.items():
            self.socket.setsockopt(option, value)
        most_bytes = max(max_payload_bytes, _HANDSHAKE_BYTES) + _CURVE_BYTES
        self.socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
        self.socket.curve_publickey, self.socket.curve_secretkey = keys.public, keys.secret
        self._allow_list: AllowList | None = None

    def bind(self, endpoint: str, allowed: Mapping[bytes, str]) -> str:
        """Listen for the keys (z85) in `allowed`; the real endpoint. Raises ConfigError."""
        self.socket.curve_server = True
        self.socket.zap_domain = b"gpumpc"
        self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._allow_list = AllowList(self.context, allowed)
        self._allow_list.start()
        try:
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise _no_endpoint(f"cannot listen at {endpoint}", error) from error
        return bytes(self.socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()

    def connect(self, endpoint: str, server_key: bytes) -> None:
        """Begin to connect, pinning the server's public key (z85). Raises ConfigError."""
        try:
            self.socket.curve_serverkey = server_key
            self.socket.connect(endpoint)
        except (zmq.ZMQError, ValueError) as error:
            raise _no_endpoint(f"cannot connect to {endpoint}", error) from error

    def close(self) -> None:
        """Flush for a moment and close; safe to call twice.

        A monitor of the socket must be disabled and closed before: the context waits for it.
        """
        if self.context.closed:
            return
        self.socket.close()
        self.context.term()  # also ends the allow-list
        if self._allow_list is not None:
            self._allow_list.join()


def with_port(endpoint: str, port: int) -> str:
    """The same host, another port."""
    return f"{endpoint.rpartition(':')[0]}:{port}"


def _no_endpoint(what: str, error: Exception) -> ConfigError:
    hint = "give an endpoint like tcp://127.0.0.1:7000 whose port is free"
    return ConfigError(what, str(error), hint)
