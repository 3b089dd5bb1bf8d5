"""Changes of ring: truncation (local), and the lift to a larger one, ring extension (one bit)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring.backend import Lanes, LiftLanes, Words, lane_bytes, packed_bytes
from gpumpc.session import OneWay, Session
from gpumpc.shares import Additive


@dataclasses.dataclass(frozen=True)
class Truncate(Step):
    """Divide by 2^shift, on each server alone.

    **Computes** floor(x / 2^shift) or that plus one, modulo 2^(k - shift), elementwise; multiples
    of 2^shift exactly. **Hides** everything: nothing is sent.
    **Cost** none.
    **Error** below one ulp, unbiased; exact law for -2^(k-1) <= x <= 2^(k-1) - 2^shift: given the
    shares the result is ((x_0 + 2^shift - 1) mod 2^k >> shift) + ((x_1 mod 2^k) >> shift). There
    are no large errors. **Source** this project; docs/protocols.md section 4, proved exhaustively
    for small k in tests/protocols.
    """

    ring_bits: int
    shift: int

    def run(self, session: Session, x: Additive) -> Additive:
        x.check_bits(self.ring_bits)  # truncation itself reduces
        words = session.backend.truncate(x.words, self.ring_bits, self.shift, session.party)
        bits, frac = self.ring_bits - self.shift, x.frac - self.shift
        return dataclasses.replace(x, words=words, bits=bits, frac=frac)

    def plain(self, clear: Clear, x: Words) -> Words:
        # Rounded to nearest, ties up: always one of the two values `run` may give.
        half = clear.backend.add_constant(x, 1 << (self.shift - 1), 64)
        return clear.backend.shift_signed(half, self.shift)


@dataclasses.dataclass(frozen=True)
class LiftBits:
    """The bit that lifts shares of 0 <= v < 2^(low-1), one or two candidates, to modulo 2^high.

    v = s_0 + s_1 - 2^low (m_0 OR m_1), m_p the top bit of s_p, known to S_p alone. S_p sends g_p =
    m_p ^ a_p; the dealer has shared P = a_0 a_1 modulo 2^(high-low). Each candidate has its own
    masks; one of them may be selected afterwards.
    """

    n: int
    low: int
    high: int
    candidates: int = 1

    @property
    def masked_bytes(self) -> int:
        """Bytes of g_p."""
        return lane_bytes(self.n, self.candidates)

    @property
    def dealer_bytes(self) -> int:
        """Bytes of P's corrections."""
        return packed_bytes(self.candidates * self.n, self.high - self.low)

    def deal(self, dealing: Dealing) -> None:
        a_0, a_1 = (dealing.lanes(p, "lift.a", self.candidates, self.n) for p in (0, 1))
        products = dealing.backend.from_lanes(a_0 & a_1, self.n)
        dealing.deal_words("lift.P", products, self.high - self.low)

    def mask_top_bits(self, session: Session, shares: list[Words]) -> PendingLift:
        """Mask the top bits of the candidates' shares (flat words modulo 2^low)."""
        backend = session.backend
        masks = session.lanes("lift.a", self.candidates, self.n)
        products = session.dealt_words("lift.P", (self.candidates, self.n), self.high - self.low)
        tops, masked = backend.mask_top_bits(shares, masks, self.low)
        return PendingLift(self, tops, masks, products, masked)


@dataclasses.dataclass(frozen=True, repr=False)
class PendingLift:
    """A lift between sending g_p and receiving the peer's."""

    lift: LiftBits
    tops: Lanes
    masks: Lanes
    products: Words
    masked: Lanes

    @property
    def message(self) -> OneWay:
        """g_p, to be sent."""
        return OneWay(self.masked, self.lift.n)

    def finish(
        self, session: Session, theirs: Lanes, choice: Lanes | None, shares: Sequence[Words]
    ) -> Words:
        """Lift the candidate that the public lane `choice` names (None where there is one only)."""
        # v = s_p - 2^low w_p with
        # w_0 = m_0 - m_0 g_1 - (1 - 2 g_1)(1 - 2 g_0) P_0
        # w_1 = m_1 - (1 - 2 g_1)(g_0 a_1 + (1 - 2 g_0) P_1)
        lanes = LiftLanes(self.tops, self.masked, theirs, self.masks, choice)
        low, high = self.lift.low, self.lift.high
        return session.backend.lift(shares, lanes, self.products, session.party, low, high)


@dataclasses.dataclass(frozen=True)
class Lift(Step):
    """Take a signed value from modulo 2^low to modulo 2^high: ring extension.

    **Computes** the same value modulo 2^high, for |v| < 2^(low-2), elementwise.
    **Hides** the top bit of each share: it is sent under a uniform bit that is used once.
    **Cost** 1 round; one bit an element each way; high - low correction bits.
    **Error** none.
    **Source** this project; docs/protocols.md section 5.
    """

    low: int
    high: int

    @functools.cached_property
    def _bits(self) -> LiftBits:
        return LiftBits(self.n, self.low, self.high)

    @property
    def cost(self) -> Cost:
        return Cost.both_ways(1, self._bits.masked_bytes, self._bits.dealer_bytes)

    def deal(self, dealing: Dealing, *masks: object) -> None:
        self._bits.deal(dealing)

    def run(self, session: Session, x: Additive) -> Additive:
        # Signed: v + 2^(low-2) lies in [0, 2^(low-1)).
        half = 1 << (self.low - 2)
        shifted = session.public(x.at_bits(session.backend, self.low), half)
        flat = shifted.words.reshape(-1)
        pending = self._bits.mask_top_bits(session, [flat])
        [theirs] = session.open_many(pending.message)
        words = pending.finish(session, theirs, None, [flat]).reshape(self.shape)
        return session.public(dataclasses.replace(x, words=words, bits=self.high), -half)

    def plain(self, clear: Clear, x: Words) -> Words:
        return x
