"""The sign of a shared value, and selections by it: ReLU and clamp.

The dealer knows r; the servers open y = v + r modulo 2^K. With l = [y_low < r_low] on the low K - 1
bits, drelu = [v >= 0] = 1 ^ msb(y) ^ msb(r) ^ l. The bit t, shared also as words t and t r, turns
the opened c = drelu ^ t into a choice between two candidates that both servers hold as shares:
drelu v = t y - t r where c = 0, v minus that where c = 1.
"""

import dataclasses
import functools

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.comparison import Comparison, ones_at_party_0, plan_comparison
from gpumpc.protocols.step import Clear, Step
from gpumpc.protocols.truncation import LiftBits
from gpumpc.ring.backend import Backend, Lanes, Words, lane_bytes, packed_bytes
from gpumpc.session import Session, Xor
from gpumpc.shares import Additive


def lift_of_two(n: int, low: int, high: int) -> LiftBits | None:
    """The lift of two candidates, where the result's ring is larger."""
    return LiftBits(n, low, high, candidates=2) if high > low else None


def split_top(planes: Lanes) -> tuple[Lanes, Lanes]:
    """Planes of all bits -> (planes below the top, the top lane)."""
    return planes[:-1], planes[-1]


@dataclasses.dataclass(frozen=True)
class Positive:
    """max(v, 0) of n flat elements, a part of ReLU and max-pool.

    **Computes** v [v >= 0] for |v| < 2^(bits-1); modulo 2^high if high > bits (lifted in the same
    round), else 2^bits. **Hides** v: y under r; each tree bit under its own mask; drelu under t;
    the top bits of both candidates under two masks. **Cost** 2 + tree rounds; bits + tree + 1 (+ 2
    if lifted) bits an element each way. **Error** none.
    **Source** this project; docs/protocols.md section 7.
    """

    n: int
    bits: int
    high: int

    @property
    def comparison(self) -> Comparison:
        """[y_low < r_low]."""
        return plan_comparison(self.bits - 1)

    @property
    def lift(self) -> LiftBits | None:
        """The lift of both candidates, for a result in a larger ring."""
        return lift_of_two(self.n, self.bits, self.high)

    @property
    def cost(self) -> Cost:
        sent = packed_bytes(self.n, self.bits) + lane_bytes(self.n, self.comparison.opened_bits + 1)
        dealt = lane_bytes(self.n, self.comparison.dealt_bits) + 2 * packed_bytes(self.n, self.bits)
        if self.lift:
            sent, dealt = sent + self.lift.masked_bytes, dealt + self.lift.dealer_bytes
        return Cost.both_ways(2 + self.comparison.rounds, sent, dealt)

    def deal(self, dealing: Dealing) -> None:
        backend = dealing.backend
        r = dealing.sum_words("r", (self.n,), self.bits)
        low, top = split_top(backend.to_planes(r, self.bits))
        self.comparison.deal(dealing, low, self.n)
        # t = msb(r) ^ t', so that msb(r) cancels from the share of c.
        t = backend.from_bit(top ^ dealing.xor_lanes("t'", 1, self.n)[0], (self.n,))
        dealing.deal_words("t", t, self.bits)
        dealing.deal_words("t r", backend.multiply(t, r, self.bits), self.bits)
        if self.lift:
            self.lift.deal(dealing)

    def run(self, session: Session, v: Words) -> Words:
        """Flat share words modulo 2^bits in, flat share words modulo 2^max(bits, high) out."""
        backend, n = session.backend, self.n
        [y] = session.open_many(session.masked(v, "r", self.bits))
        y_low, y_top = split_top(backend.to_planes(y, self.bits))
        [less] = self.comparison.run(session, [y_low], n)
        t = session.dealt_words("t", (n,), self.bits)
        t_r = session.dealt_words("t r", (n,), self.bits)
        # share of c = drelu ^ t: l_p ^ t'_p, and 1 ^ msb(y) at party 0
        choice = less ^ session.lanes("t'", 1, n)[0] ^ ones_at_party_0(session, n)
        if session.party == 0:
            choice = choice ^ y_top
        zero, one = backend.candidates(y, t, t_r, v, self.bits)
        if self.lift is None:
            [c] = session.open_many(Xor(choice[None], n))
            return backend.select(c[0], one, zero)
        pending = self.lift.mask_top_bits(session, [zero, one])
        c, theirs = session.open_many(Xor(choice[None], n), pending.message)
        return pending.finish(session, theirs, c[0], [zero, one])


def positive_part(backend: Backend, x: Words) -> Words:
    """max(x, 0) of signed words, in the clear."""
    lane = backend.bit(x, 63)
    return backend.select(lane, backend.zeros(x.shape), x)


@dataclasses.dataclass(frozen=True)
class ReLU(Step):
    """`Positive` as a layer; see there for Computes, Hides, Cost, Error, Source."""

    bits: int
    high: int

    @functools.cached_property
    def core(self) -> Positive:
        """The step without shapes and names."""
        return Positive(self.n, self.bits, self.high)

    @property
    def cost(self) -> Cost:
        return self.core.cost

    def deal(self, dealing: Dealing, *masks: object) -> None:
        self.core.deal(dealing)

    def run(self, session: Session, x: Additive) -> Additive:
        x.check_bits(self.bits)  # everything made of v is reduced
        words = self.core.run(session, x.words.reshape(-1)).reshape(self.shape)
        return dataclasses.replace(x, words=words, bits=max(self.bits, self.high))

    def plain(self, clear: Clear, x: Words) -> Words:
        return positive_part(clear.backend, x)


@dataclasses.dataclass(frozen=True)
class Clamp(Step):
    """min(max(v, 0), top): ReLU6 with top = 6 * 2^f.

    **Computes** dm v + top d1 with d1 = [v >= top], dm = [v >= 0] ^ d1, for -2^(bits-1) + top <= v
    < 2^(bits-1); modulo 2^high. The words that carry dm v are only as wide as the clamp (`narrow`),
    not as v. **Hides** v and both signs: y under r, tree bits under masks of their own, dm under
    tm, d1 under t1. **Cost** 2 + tree rounds; both comparisons share the tables, and one subtree
    for the low bits in which y and y - top agree.
    **Error** none; the constant is exact at the value's scale.
    **Source** this project; docs/protocols.md section 7.
    """

    bits: int
    high: int
    top: int

    @property
    def narrow(self) -> int:
        """Bits of the words that carry dm v: 0 <= dm v < top < 2^(narrow-1)."""
        return min(self.bits, self.top.bit_length() + 1)

    @property
    def out_bits(self) -> int:
        """Bits of the result."""
        return max(self.high, self.narrow)

    @property
    def twos(self) -> int:
        """Trailing zero bits of the constant: y and y - top agree in them."""
        return (self.top & -self.top).bit_length() - 1

    @property
    def comparison(self) -> Comparison:
        """[y_low < r_low] and [(y - top)_low < r_low]."""
        return plan_comparison(self.bits - 1, min(self.twos, self.bits - 2), copies=2)

    @property
    def lift(self) -> LiftBits | None:
        """The lift of both candidates for dm v."""
        return lift_of_two(self.n, self.narrow, self.high)

    @property
    def cost(self) -> Cost:
        sent = packed_bytes(self.n, self.bits) + lane_bytes(self.n, self.comparison.opened_bits + 2)
        dealt = lane_bytes(self.n, self.comparison.dealt_bits)
        dealt += 2 * packed_bytes(self.n, self.narrow) + packed_bytes(self.n, self._step_bits)
        if self.lift:
            sent, dealt = sent + self.lift.masked_bytes, dealt + self.lift.dealer_bytes
        return Cost.both_ways(2 + self.comparison.rounds, sent, dealt)

    @property
    def _step_bits(self) -> int:
        """d1 is multiplied by the constant, so its low `twos` bits come free."""
        return max(1, self.out_bits - self.twos)

    def deal(self, dealing: Dealing, *masks: object) -> None:
        backend, n = dealing.backend, self.n
        r = dealing.sum_words("r", (n,), self.bits)
        low, top = split_top(backend.to_planes(r, self.bits))
        self.comparison.deal(dealing, low, n)
        # dm needs no msb(r): it cancels between the two comparisons; t1 carries it for d1.
        t_m = backend.from_bit(dealing.xor_lanes("tm", 1, n)[0], (n,))
        t_1 = backend.from_bit(top ^ dealing.xor_lanes("t1'", 1, n)[0], (n,))
        dealing.deal_words("tm words", t_m, self.narrow)
        dealing.deal_words("tm r", backend.multiply(t_m, r, self.narrow), self.narrow)
        dealing.deal_words("t1 words", t_1, self._step_bits)
        if self.lift:
            self.lift.deal(dealing)

    def run(self, session: Session, x: Additive) -> Additive:
        backend, n = session.backend, self.n
        x.check_bits(self.bits)  # everything made of v is reduced
        v = x.words.reshape(-1)
        [y] = session.open_many(session.masked(v, "r", self.bits))
        below = backend.add_constant(y, -self.top, self.bits)
        (y_low, y_top), (below_low, below_top) = (
            split_top(backend.to_planes(value, self.bits)) for value in (y, below)
        )
        less, less_below = self.comparison.run(session, [y_low, below_low], n)
        # dm ^ tm = msb(y) ^ msb(y - top) ^ l ^ l1 ^ tm;   d1 ^ t1 = 1 ^ msb(y - top) ^ l1 ^ t1'
        middle = less ^ less_below ^ session.lanes("tm", 1, n)[0]
        above = less_below ^ session.lanes("t1'", 1, n)[0] ^ ones_at_party_0(session, n)
        if session.party == 0:
            middle = middle ^ y_top ^ below_top
            above = above ^ below_top
        words = self._select(session, v, y, middle, above)
        return dataclasses.replace(x, words=words.reshape(self.shape), bits=self.out_bits)

    def _select(self, session: Session, v: Words, y: Words, middle: Lanes, above: Lanes) -> Words:
        """Open both choices; dm v from two candidates, d1 = c1 + (1 - 2 c1) t1."""
        backend, n = session.backend, self.n
        t_m = session.dealt_words("tm words", (n,), self.narrow)
        t_m_r = session.dealt_words("tm r", (n,), self.narrow)
        t_1 = session.dealt_words("t1 words", (n,), self._step_bits)
        zero, one = backend.candidates(y, t_m, t_m_r, v, self.narrow)
        choices = Xor(backend.concat([middle[None], above[None]], 0), n)
        if self.lift is None:
            [c] = session.open_many(choices)
            inside = backend.select(c[0], one, zero)
        else:
            pending = self.lift.mask_top_bits(session, [zero, one])
            c, theirs = session.open_many(choices, pending.message)
            inside = pending.finish(session, theirs, c[0], [zero, one])
        return backend.add_flipped(inside, c[1], t_1, self.top, session.party, self.out_bits)

    def plain(self, clear: Clear, x: Words) -> Words:
        # min(p, top) = top - max(top - p, 0)
        backend = clear.backend
        for _ in range(2):
            x = backend.scale(positive_part(backend, x), -1, 64)
            x = backend.add_constant(x, self.top, 64)
        return x
