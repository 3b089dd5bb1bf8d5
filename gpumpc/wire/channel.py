"""The contract of a channel between the two servers, and a real in-memory pair.

A channel moves payload bytes in lock step and counts them. `begin` names the (session, batch) that the next openings
belong to; every opening frame carries it with a running number, and a frame that is not exactly the expected one is
refused. Control messages (handshake, job orders) travel the same way and are not counted: they carry no masked byte.
"""

from __future__ import annotations

from typing import Protocol, Sequence, Union

from gpumpc.cost import Cost

Buffer = Union[bytes, bytearray, memoryview]


class Channel(Protocol):
    """One server's end."""

    party: int

    def begin(self, session_id: bytes, batch: int) -> None:
        """Start counting anew for one batch (16-byte session id)."""

    def exchange(self, payload: Sequence[Buffer]) -> memoryview:
        """Send one message and receive one: one round. Raises PeerLost, PeerTimeout, BadFrame."""

    def send(self, payload: Sequence[Buffer]) -> None:
        """Send one message: a round, counted at both ends."""

    def receive(self) -> memoryview:
        """Receive one message: a round, counted at both ends."""

    def measured(self) -> Cost:
        """Rounds and payload bytes of both directions since `begin` (dealer_bytes = 0)."""

    def send_control(self, record: bytes) -> None:
        """Send an uncounted control record."""

    def receive_control(self, timeout_s: float) -> bytes:
        """Wait for a control record. Raises PeerTimeout, PeerLost."""

    def close(self) -> None:
        """Give the resources back; safe to call twice."""
