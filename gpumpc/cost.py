"""What a protocol costs: one record for what is declared and for what is measured."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """Rounds and payload bytes.

    Attributes:
        rounds: messages that must wait for the peer's previous one.
        s0_bytes, s1_bytes: payload bytes sent by server 0 and by server 1 to the other.
        dealer_bytes: correction bytes sent by the dealer to server 1.
    """

    rounds: int = 0
    s0_bytes: int = 0
    s1_bytes: int = 0
    dealer_bytes: int = 0

    @classmethod
    def both_ways(cls, rounds: int, n_bytes: int, dealer_bytes: int = 0) -> Cost:
        """A cost with `n_bytes` sent in each direction."""
        return cls(rounds, n_bytes, n_bytes, dealer_bytes)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.rounds + other.rounds,
            self.s0_bytes + other.s0_bytes,
            self.s1_bytes + other.s1_bytes,
            self.dealer_bytes + other.dealer_bytes,
        )

    def __mul__(self, times: int) -> Cost:
        return Cost(*(times * v for v in dataclasses.astuple(self)))

    @property
    def online_bytes(self) -> int:
        """Payload bytes of the busier direction between the servers."""
        return max(self.s0_bytes, self.s1_bytes)
