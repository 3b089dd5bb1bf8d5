"""A public step function of a shared integer, from one opening of it.

With thresholds theta_1 < .. < theta_J the bits b_j = [s >= theta_j] say on which step s lies. All
come from one opened y = s + r and one set of the dealer's tables, looked up at the public y -
theta_j. The value on that step is, bit by bit,

    g = g_0 ^ XOR_j (g_j ^ g_{j-1}) b_j,

because the steps up to s telescope. The differences are public, so this is local on XOR shares of
the b_j: neither are these opened nor does the dealer share a word for any of them. Only the few
bits of g itself become arithmetic.
"""

import dataclasses
import functools
import itertools

from gpumpc.cost import Cost
from gpumpc.errors import PlanError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.comparison import Comparison, ones_at_party_0, plan_comparison
from gpumpc.protocols.relu import split_top
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring.backend import Backend, Lanes, Words, lane_bytes, packed_bytes
from gpumpc.session import Session, Xor
from gpumpc.shares import Additive

_BUG = "this is a bug: please report it"


@dataclasses.dataclass(frozen=True)
class RepeatedTables(Comparison):
    """Comparisons of n = times * rows elements, threshold by threshold, whose rows have one r each.

    The tables are dealt once a row; each tree has masks of its own, for every threshold. Cost,
    Error, Source: `Comparison`.
    """

    times: int = 1

    def deal(self, dealing: Dealing, r_planes: Lanes, n: int) -> None:
        self._deal_tables(dealing, r_planes, n // self.times)
        self._deal_trees(dealing, n)

    def _table(self, session: Session, name: str, planes: int, n: int) -> Lanes:
        rows = n // self.times
        backend, table = session.backend, session.dealt_lanes(name, planes, rows)
        parts = (table[i : i + 64] for i in range(0, planes, 64))
        return backend.concat([repeated_lanes(backend, p, rows, self.times) for p in parts], 0)


def repeated_lanes(backend: Backend, lanes: Lanes, n: int, times: int) -> Lanes:
    """Lanes of n elements -> lanes of times * n elements, the n repeated; 64 planes at most."""
    words = backend.zeros((1, n))
    for i, lane in enumerate(lanes):
        words = words + backend.scale(backend.from_bit(lane, (1, n)), 1 << i, 64)
    return backend.to_planes(backend.take(words, [0] * times, 0), len(lanes))


@functools.cache
def plan_stairs(bits: int, times: int) -> RepeatedTables:
    """The cheapest comparison whose tables serve `times` trees."""
    return RepeatedTables(plan_comparison(bits, copies=times).high, None, times=times)


@dataclasses.dataclass(frozen=True)
class Staircase(Step):
    """A public step function (piecewise constant) of each element.

    **Computes** values[j] of s (N,), j the number of thresholds <= s, for -2^(bits-1) +
    thresholds[-1] <= s < 2^(bits-1); modulo 2^high, at scale 2^frac. d_j = y - theta_j: b_j = 1 ^
    msb(d_j) ^ msb(r) ^ [d_j low < r low]; bit i of the value is opened as c = bit ^ t, and is c +
    (1 - 2c) t. **Hides** s: y under r, every tree bit under a mask of its own, each bit of the
    value under its own t. msb(r) appears in a bit once for every threshold at which it changes;
    where that number is odd, the dealer puts it into t. **Cost** 2 + tree rounds; each way `bits`
    and the value's bits a row, tree bits a row and threshold; corrections: tables a row, products a
    row and threshold, a word of `high` bits a row and bit of the value. **Error** none.
    **Source** this project; docs/protocols.md section 9a.

    Raises PlanError for thresholds that do not ascend, and for any or values outside the ring.
    """

    bits: int
    high: int
    frac: int
    thresholds: tuple[int, ...]
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        edges = (0, *self.thresholds, 1 << (self.bits - 1))
        if len(edges) < 3 or any(low >= high for low, high in itertools.pairwise(edges)):
            raise PlanError(
                f"step '{self.name}' has thresholds that do not ascend below 2^{self.bits - 1}",
                "each must lie above the one before, and there must be one",
                _BUG,
            )
        in_ring = 0 <= min(self.values) <= max(self.values) < 1 << self.high
        if len(self.values) != len(self.thresholds) + 1 or not in_ring:
            why = f"there must be one more than thresholds, from 0 to 2^{self.high} - 1"
            raise PlanError(f"step '{self.name}' has values that do not fit", why, _BUG)

    @property
    def value_bits(self) -> int:
        """Bits of a value that are opened."""
        return max(1, max(self.values).bit_length())

    @property
    def comparison(self) -> RepeatedTables:
        """[d_j low < r low], for all j."""
        return plan_stairs(self.bits - 1, len(self.thresholds))

    @property
    def changes(self) -> list[int]:
        """g_j ^ g_{j-1} of every threshold."""
        return [above ^ below for below, above in itertools.pairwise(self.values)]

    @property
    def cost(self) -> Cost:
        tree, n = self.comparison, self.n
        every = n * len(self.thresholds)
        sent = packed_bytes(n, self.bits) + lane_bytes(every, tree.opened_bits)
        sent += lane_bytes(n, self.value_bits)
        dealt = lane_bytes(n, tree.high.table_bits) + lane_bytes(every, tree.high.product_bits)
        dealt += packed_bytes(self.value_bits * n, self.high)
        return Cost.both_ways(2 + tree.rounds, sent, dealt)

    def deal(self, dealing: Dealing, *masks: object) -> None:
        backend, n = dealing.backend, self.n
        low, top = split_top(backend.to_planes(dealing.sum_words("r", (n,), self.bits), self.bits))
        self.comparison.deal(dealing, low, n * len(self.thresholds))
        t = dealing.xor_lanes("t'", self.value_bits, n)
        # XOR_j (g_j ^ g_{j-1}) = g_J ^ g_0: where that keeps msb(r) in a bit, t takes it out.
        odd = self.values[-1] ^ self.values[0]
        lanes = [lane ^ top if odd >> i & 1 else lane for i, lane in enumerate(t)]
        words = backend.concat([backend.from_bit(lane, (1, n)) for lane in lanes], 0)
        dealing.deal_words("t", words, self.high)

    def run(self, session: Session, s: Additive) -> Additive:
        backend, n = session.backend, self.n
        s.check_bits(self.bits)  # an opening is reduced
        [y] = session.open_many(session.masked(s.words.reshape(-1), "r", self.bits))
        differences = backend.reduce(self._less_thresholds(backend, y), self.bits)
        bits = self._value_lanes(session, differences)
        t = session.dealt_words("t", (self.value_bits, n), self.high)
        [c] = session.open_many(Xor(bits ^ session.lanes("t'", self.value_bits, n), n))
        total = backend.zeros((n,))
        for i in range(self.value_bits):
            c_i = backend.from_bit(c[i], (n,))
            bit = t[i] - c_i * (t[i] + t[i])
            total = total + backend.scale(bit + c_i if session.party == 0 else bit, 1 << i, 64)
        words = backend.reduce(total, self.high).reshape(self.shape)
        return Additive(words, self.high, self.frac, owner=s.owner)

    def _less_thresholds(self, backend: Backend, y: Words) -> Words:
        """y - theta_j, (J, N)."""
        rows = [backend.add_constant(y[None], -theta, 64) for theta in self.thresholds]
        return backend.concat(rows, 0)

    def _value_lanes(self, session: Session, differences: Words) -> Lanes:
        """XOR shares of the value's bits, msb(r) left out: (value_bits, n_lanes)."""
        backend, every = session.backend, self.n * len(self.thresholds)
        low, top = split_top(backend.to_planes(differences, self.bits))
        [less] = self.comparison.run(session, [low], every)
        above = less ^ ones_at_party_0(session, every)
        if session.party == 0:
            above = above ^ top
        # g_0 ^ XOR_j (g_j ^ g_{j-1}) b_j
        changes = self._column(backend, self.changes)
        value = xor_rows(backend, backend.from_bit(above, differences.shape) * changes)
        if session.party == 0:
            value = value ^ self._column(backend, self.values[:1])[0]
        return backend.to_planes(value, self.value_bits)

    @staticmethod
    def _column(backend: Backend, integers: list[int] | tuple[int, ...]) -> Words:
        zero = backend.zeros((1, 1))
        return backend.concat([backend.add_constant(zero, integer, 64) for integer in integers], 0)

    def plain(self, clear: Clear, s: Words) -> Words:
        backend = clear.backend
        differences = self._less_thresholds(backend, s.reshape(-1))
        below = backend.from_bit(backend.bit(differences, 63), differences.shape)
        above = below ^ self._column(backend, [1])
        value = xor_rows(backend, above * self._column(backend, self.changes))
        return (value ^ self._column(backend, self.values[:1])[0]).reshape(s.shape)


def xor_rows(backend: Backend, words: Words) -> Words:
    """XOR of all rows of (J, N), as (N,)."""
    while len(words) > 1:
        half = len(words) // 2
        words = backend.concat([words[:half] ^ words[half : 2 * half], words[2 * half :]], 0)
    return words[0]
