"""A DEALER socket with one peer, and the peer's state as its monitor reports it."""

import threading
import time
from collections.abc import Sequence

import zmq

from gpumpc.errors import AccessDenied, GpumpcError, PeerTimeout
from gpumpc.wire.frames import Buffer, Frame, decode
from gpumpc.wire.stream import Exchange
from gpumpc.wire.transport import peer_lost
from gpumpc.wire.zmq_channel.endpoint import CurveKeys, Endpoint, joined

CONNECT_S = 5.0
_UP = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED
_DOWN = zmq.EVENT_DISCONNECTED
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_READY = zmq.EVENT_HANDSHAKE_SUCCEEDED
# How often a thread that waits for a frame looks whether the peer has gone.
_LOOK_S = 0.1


class Link:
    """A DEALER socket with one peer; for one thread at a time. After PeerLost it stays unusable.

    Args:
        peer: the other end's name, for messages and for the allow-list.
        max_payload_bytes: the largest payload of one frame, either way.

    Raises OutOfResources; so do `bind` and `connect`.
    """

    def __init__(self, peer: str, keys: CurveKeys, max_payload_bytes: int) -> None:
        self.peer, self._max_payload_bytes, self._keys = peer, max_payload_bytes, keys
        self._peer_key = b""
        # The endpoint's thread notes here what becomes of the connection.
        self._changed = threading.Condition()
        self._end = Endpoint(zmq.DEALER, keys, max_payload_bytes, self._note)
        self._socket = self._end.socket
        self._listens, self.endpoint = False, ""
        self._open: set[int] = set()
        # Once the peer has authenticated: the connections of which one is the peer's.
        self._peers_own: set[int] | None = None
        self._gone, self._refused, self._reached = "", 0, False

    def bind(self, endpoint: str, peer_key: bytes) -> None:
        """Listen for the owner of `peer_key` (z85) alone. Raises ConfigError."""
        self._listens, self._peer_key = True, peer_key
        try:
            self.endpoint = self._end.bind(endpoint, {peer_key: self.peer})
        except GpumpcError:
            self.close()
            raise

    def connect(self, endpoint: str, server_key: bytes) -> None:
        """Begin to connect to the owner of the key `server_key` (z85). Raises ConfigError."""
        self.endpoint, self._peer_key = endpoint, server_key
        try:
            self._end.connect(endpoint, server_key)
        except GpumpcError:
            self.close()
            raise

    def wait_peer(self, timeout_s: float) -> None:
        """Wait until the peer has proved its key. Raises AccessDenied, PeerTimeout, PeerLost."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_settled, timeout_s)
        self._check_usable()
        if self._peers_own is None:
            raise self.absent(timeout_s)

    def put(self, parts: Sequence[Buffer]) -> None:
        """Send one message, waiting for a slow peer. Raises AccessDenied, PeerTimeout, PeerLost."""
        self.wait_peer(CONNECT_S)
        while True:
            self._check_usable()
            try:
                self._socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
                return
            except zmq.Again:  # the peer is slow to take; it is alive, or will be noted as gone
                with self._changed:
                    self._changed.wait(_LOOK_S)

    def get(self, timeout_s: float) -> tuple[Frame, str | None] | None:
        """The next frame and its sender's name from ZAP; None after `timeout_s` without a frame.

        Raises AccessDenied, PeerLost, BadFrame.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            was_usable = self._is_usable
            parts = self._receive()
            if parts is not None:
                frame = decode(joined(parts), self._max_payload_bytes)
                return frame, sender_of(parts[0])
            # Only now: frames that the peer sent before it went are still delivered.
            if not was_usable:
                self._check_usable()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            if not self._socket.closed:
                self._socket.poll(int(min(left_s, _LOOK_S) * 1000) + 1)

    def check(self) -> None:
        """Raises PeerLost if the peer has gone, as far as the connection knows by now."""
        self._check_usable()

    def absent(self, timeout_s: float) -> PeerTimeout:
        """The error, with every likely cause, for a peer that did not connect in time."""
        what = f"no {self.peer} at {self.endpoint} within {timeout_s:g} s"
        if self._listens:
            why = f"{self.peer} does not run, or it pins another key than this party's"
            if self._refused:
                why += f"; {self._refused} connections with a key that is not its own were refused"
            hint = f"start {self.peer}; compare the cards that both ends are configured with"
            return PeerTimeout(what, why, hint)
        seen = "something listens there" if self._reached else "nothing answers there"
        why = f"{self.peer} does not run there, or its key is not the one in its card here ({seen})"
        hint = f"start {self.peer}, check the endpoint, and copy its card.toml here again"
        return PeerTimeout(what, why, hint)

    def exchange(self, port: int = 0) -> Exchange:
        """A key agreement with the peer; `port` is where this end listens for the stream."""
        return Exchange(self._keys.public, self._peer_key, port)

    @property
    def is_ready(self) -> bool:
        """Whether the peer has proved its key."""
        return self._peers_own is not None

    def close(self) -> None:
        """Flush for a moment and close; safe to call twice."""
        self._gone = self._gone or "this end was closed"
        self._end.close()

    def _receive(self) -> list[zmq.Frame] | None:
        if self._socket.closed:
            return None
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None

    def _note(self, event: int, value: int) -> None:
        """Take in one event of the connection; in the thread that watches it."""
        with self._changed:
            if event & _UP:
                self._reached = True
                self._open.add(value)
            elif event == _DOWN:
                self._note_end(value)
            elif event == _REFUSED:
                self._refused += 1
            elif event == _READY:
                if self._peers_own is not None:
                    why = "it connected a second time: started again, or two processes use its key"
                    self._gone = why
                # The event does not name its connection. One without a valid key that is open too
                # soon ends: it cannot pass the handshake, and HANDSHAKE_IVL limits that.
                self._peers_own = set(self._open)
            self._changed.notify_all()

    def _note_end(self, fileno: int) -> None:
        self._open.discard(fileno)
        if self._peers_own is not None:
            self._peers_own.discard(fileno)
            if not self._peers_own:
                self._gone = self._gone or "its process ended, or the network between is down"

    @property
    def _is_denied(self) -> bool:
        return self._refused > 0 and not self._listens and self._peers_own is None

    @property
    def _is_usable(self) -> bool:
        return not self._gone and not self._is_denied

    @property
    def _is_settled(self) -> bool:
        return self._peers_own is not None or not self._is_usable

    def _check_usable(self) -> None:
        if self._gone:
            raise peer_lost(self.peer, self._gone)
        if self._is_denied:
            raise AccessDenied(
                f"{self.peer} at {self.endpoint} refused this party's key",
                "the public key of this party's identity is not on its allow-list",
                f"add this party's card.toml to the configuration of {self.peer}, and start it "
                "again",
            )


def sender_of(part: zmq.Frame) -> str | None:
    """The allow-list's name of a part's sender; None at a connecting end, which pins a key."""
    try:
        return str(part.get("User-Id"))
    except zmq.ZMQError:
        return None
