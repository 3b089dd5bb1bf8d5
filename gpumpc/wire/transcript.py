"""What one end of a connection sent and received: a digest of every message, a list a direction.

The digests are of payloads alone. They say nothing of a payload that a reader does not know, as
each is one-time padded.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

from gpumpc.wire.frames import Buffer

DIGEST_BYTES = 32
Place = tuple[bytes, int]  # session id and batch index


class Direction:
    """The messages of one batch that went one way.

    Attributes:
        n_bytes: of their payloads.
        digests: the SHA-256 of each, 32 bytes, one after the other.
    """

    def __init__(self) -> None:
        self.n_bytes, self.digests = 0, bytearray()

    def note(self, payload: Iterable[Buffer]) -> None:
        """Note the next message, given as the parts of its payload."""
        message = hashlib.sha256()
        for part in payload:
            message.update(part)
            self.n_bytes += len(part)
        self.digests += message.digest()

    @property
    def n_messages(self) -> int:
        """How many were noted."""
        return len(self.digests) // DIGEST_BYTES

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for all messages in their order."""
        return hashlib.sha256(self.digests).digest()


@dataclasses.dataclass(frozen=True)
class Transcript:
    """One batch, as one end saw it."""

    sent: Direction = dataclasses.field(default_factory=Direction)
    received: Direction = dataclasses.field(default_factory=Direction)


def total_digest(places: Sequence[Place], directions: Sequence[Direction]) -> bytes:
    """32 bytes that stand for the messages of several batches, in the order given."""
    whole = hashlib.sha256()
    for (session_id, batch_index), direction in zip(places, directions, strict=True):
        whole.update(session_id + batch_index.to_bytes(8, "big") + direction.digest)
    return whole.digest()
