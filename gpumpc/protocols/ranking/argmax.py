"""Index of the largest entry, the lowest index on ties, on untruncated logits."""

import dataclasses
import functools
from collections.abc import Iterator

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.comparison import Comparison, ones_at_party_0, plan_comparison
from gpumpc.protocols.relu import split_top
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring.backend import Words, lane_bytes, packed_bytes
from gpumpc.session import Session, Xor
from gpumpc.shares import Additive


@dataclasses.dataclass(frozen=True)
class Duel:
    """From n pairs ((a, i), (b, j)) the larger value and its index; the left one where a >= b.

    **Computes** b + d (a - b) modulo 2^bits and j + d (i - j) modulo 2^index_bits with d = [a - b
    >= 0], for |a - b| < 2^(bits-1).
    **Hides** as `Positive`: a - b under r, i - j under its own r', d under t. The words t serve
    both selections. **Cost** 2 + tree rounds. **Error** none. **Source** this project;
    docs/protocols.md section 8.
    """

    n: int
    bits: int
    index_bits: int

    @property
    def comparison(self) -> Comparison:
        return plan_comparison(self.bits - 1)

    @property
    def choice_bits(self) -> int:
        """Bits of the words t, which multiply values and indices alike."""
        return max(self.bits, self.index_bits)

    @property
    def cost(self) -> Cost:
        sent = packed_bytes(self.n, self.bits) + packed_bytes(self.n, self.index_bits)
        sent += lane_bytes(self.n, self.comparison.opened_bits + 1)
        dealt = lane_bytes(self.n, self.comparison.dealt_bits)
        widths = self.choice_bits, self.bits, self.index_bits
        dealt += sum(packed_bytes(self.n, bits) for bits in widths)
        return Cost.both_ways(2 + self.comparison.rounds, sent, dealt)

    def deal(self, dealing: Dealing) -> None:
        backend, n = dealing.backend, self.n
        r = dealing.sum_words("r", (n,), self.bits)
        r_index = dealing.sum_words("r index", (n,), self.index_bits)
        low, top = split_top(backend.to_planes(r, self.bits))
        self.comparison.deal(dealing, low, n)
        t = backend.from_bit(top ^ dealing.xor_lanes("t'", 1, n)[0], (n,))
        dealing.deal_words("t", t, self.choice_bits)
        dealing.deal_words("t r", t * r, self.bits)
        dealing.deal_words("t r index", t * r_index, self.index_bits)

    def run(self, session: Session, v: Words, index: Words) -> tuple[Words, Words]:
        """d v and d index from shares of the differences, flat."""
        backend, n = session.backend, self.n
        y, y_index = session.open_many(
            session.masked(v, "r", self.bits), session.masked(index, "r index", self.index_bits)
        )
        y_low, y_top = split_top(backend.to_planes(y, self.bits))
        [less] = self.comparison.run(session, [y_low], n)
        t = session.dealt_words("t", (n,), self.choice_bits)
        zero = y * t - session.dealt_words("t r", (n,), self.bits)
        zero_index = y_index * t - session.dealt_words("t r index", (n,), self.index_bits)
        choice = less ^ session.lanes("t'", 1, n)[0] ^ ones_at_party_0(session, n)
        if session.party == 0:
            choice = choice ^ y_top
        [c] = session.open_many(Xor(choice[None], n))
        won = backend.select(c[0], v - zero, zero)
        return won, backend.select(c[0], index - zero_index, zero_index)


@dataclasses.dataclass(frozen=True)
class KnockOut:
    """The payload of each row's largest value by levels of `Duel`s; an odd last entry goes on.

    **Computes** the payload of the first of the largest of (rows, n) values, modulo 2^payload_bits,
    for differences below 2^(bits-1). **Hides** as `Duel`; each level draws under a name of its own.
    **Cost** ceil(log2 n) duels. **Error** none. **Source** this project; docs/protocols.md section
    8.
    """

    rows: int
    n: int
    bits: int
    payload_bits: int

    def _levels(self) -> Iterator[Duel]:
        remaining = self.n
        while remaining > 1:
            yield Duel(self.rows * (remaining // 2), self.bits, self.payload_bits)
            remaining -= remaining // 2

    @property
    def cost(self) -> Cost:
        return sum((duel.cost for duel in self._levels()), Cost())

    def deal(self, dealing: Dealing, name: str) -> None:
        for level, duel in enumerate(self._levels()):
            dealing.at(f"{name}/{level}")
            duel.deal(dealing)

    def run(self, session: Session, name: str, value: Words, payload: Words) -> Words:
        """Share words (rows, n) of both in, of the winners' payloads (rows,) out."""
        for level, duel in enumerate(self._levels()):
            session.at(f"{name}/{level}")
            value, payload = self._level(session, duel, value, payload)
        return session.backend.reduce(payload[:, 0], self.payload_bits)

    @staticmethod
    def _level(session: Session, duel: Duel, value: Words, payload: Words) -> tuple[Words, Words]:
        paired = 2 * (value.shape[1] // 2)
        left, right = slice(0, paired, 2), slice(1, paired, 2)
        shape = value[:, left].shape
        differences = (side[:, left] - side[:, right] for side in (value, payload))
        found = duel.run(session, *(difference.reshape(-1) for difference in differences))
        best, best_payload = (
            session.backend.concat([side[:, right] + won.reshape(shape), side[:, paired:]], 1)
            for side, won in zip((value, payload), found, strict=True)
        )
        return best, best_payload


@dataclasses.dataclass(frozen=True)
class Argmax(Step):
    """Argmax over the last axis of x (B, N): a `KnockOut` whose payload is the index.

    **Computes** the lowest index of a maximum, modulo 2^ceil(log2 N), for |x| < 2^(bits-2).
    **Hides** values, order and index. **Cost** ceil(log2 N) duels. **Error** none.
    **Source** this project; docs/protocols.md section 8.
    """

    bits: int

    @property
    def index_bits(self) -> int:
        """Bits of the result."""
        return max(1, (self.shape[1] - 1).bit_length())

    @functools.cached_property
    def _core(self) -> KnockOut:
        return KnockOut(self.shape[0], self.shape[1], self.bits, self.index_bits)

    @property
    def cost(self) -> Cost:
        return self._core.cost

    def deal(self, dealing: Dealing, *masks: object) -> None:
        self._core.deal(dealing, self.name)

    def run(self, session: Session, x: Additive) -> Additive:
        backend = session.backend
        value = x.at_bits(backend, self.bits).words
        index = backend.zeros(value.shape)
        if session.party == 0:
            index = index + backend.counting(self.shape[1])
        words = self._core.run(session, self.name, value, index)
        return dataclasses.replace(x, words=words, bits=self.index_bits, frac=0, divisor=1)

    def plain(self, clear: Clear, x: Words) -> Words:
        return clear.backend.argmax_signed(x)
