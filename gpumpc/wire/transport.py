"""The contract of a transport: it moves whole frames, and neither counts nor checks them."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gpumpc.errors import BadFrame, PeerLost, PeerTimeout
from gpumpc.wire.frames import Buffer, Frame

Finish = Callable[[float], None]


class Transport(Protocol):
    """One end; one thread at a time may send and one receive."""

    @property
    def peer(self) -> str:
        """The other end's name, for messages."""

    def wait_peer(self, timeout_s: float) -> None:
        """Wait for the peer to connect. Raises AccessDenied, PeerTimeout, PeerLost, BadFrame."""

    def put(self, header: bytes, parts: Sequence[Buffer]) -> None:
        """Send one frame, its payload in parts; they may be changed on return. Raises PeerLost."""

    def start(self, header: bytes, parts: Sequence[Buffer]) -> Finish | None:
        """Like `put`, but the parts must not be changed until the returned function, called with a
        timeout in seconds, has returned; None if the frame is sent already.

        Raises PeerLost; so does the returned function, or PeerTimeout.
        """

    def get(self, timeout_s: float) -> Frame:
        """The peer's next frame. Raises PeerLost, PeerTimeout, BadFrame."""

    def close(self) -> None:
        """Free the resources; safe to call twice."""

    def abort(self) -> None:
        """Close at once: a frame begun with `start` is not sent to its end. Raises nothing."""


def peer_lost(peer: str, why: str) -> PeerLost:
    """The error for a connection that has ended."""
    hint = f"see the log of {peer}, start it again and retry"
    return PeerLost(f"the connection to {peer} is gone", why, hint)


def peer_silent(peer: str, timeout_s: float) -> PeerTimeout:
    """The error for a connected peer that sent no frame in time."""
    why = "its process is up but busy, stopped or waiting itself"
    hint = f"see the log of {peer}, or allow more time with timeout_s"
    return PeerTimeout(f"{peer} sent nothing for {timeout_s:g} s", why, hint)


def frame_refused(peer: str, why: str) -> BadFrame:
    """The error for a well-formed frame that is not the expected one."""
    hint = "stop this session and start a new one"
    return BadFrame(f"a frame of {peer} was refused", why, hint)
