"""Keys that carry a secret label, and a k-nearest-neighbour vote on them."""

import dataclasses
import functools
import itertools
import operator

from gpumpc.cost import Cost
from gpumpc.errors import PlanError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.chains import MAX_DIGIT_BITS
from gpumpc.protocols.comparison import ones_at_party_0
from gpumpc.protocols.ranking.argmax import KnockOut
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring import selection
from gpumpc.ring.backend import Backend, Lanes, Words, lane_bytes, packed_bytes
from gpumpc.session import Session, Xor
from gpumpc.shares import Additive

# Four digits, whose equalities are multiplied in one round.
MAX_LABEL_BITS = 4 * MAX_DIGIT_BITS


@dataclasses.dataclass(frozen=True)
class LabelledKeys(Step):
    """Scores, positions and labels as one number a row.

    **Computes** v 2^(id_bits + label_bits) + i 2^label_bits + label_i of v (Q, N) modulo
    2^value_bits and labels (N,) modulo as much as the sum, 0 <= label < 2^label_bits. So ties go to
    the lowest position, and the label is the key modulo 2^label_bits. **Hides** everything: nothing
    is sent. **Cost** none. **Error** none.
    """

    value_bits: int
    id_bits: int
    label_bits: int

    @property
    def bits(self) -> int:
        """Bits of a key."""
        return self.value_bits + self.id_bits + self.label_bits

    def run(self, session: Session, v: Additive, labels: Additive) -> Additive:
        backend = session.backend
        labels, v = labels.at_bits(backend, self.bits), v.at_bits(backend, self.value_bits)
        words = self._shifted(backend, v.words) + labels.words[None]
        if session.party == 0:
            words = words + self._ids(backend)
        return Additive(backend.reduce(words, self.bits), self.bits, owner=v.owner)

    def _shifted(self, backend: Backend, v: Words) -> Words:
        return backend.scale(v, 1 << (self.id_bits + self.label_bits), 64)

    def _ids(self, backend: Backend) -> Words:
        return backend.scale(backend.counting(self.shape[1]), 1 << self.label_bits, 64)

    def plain(self, clear: Clear, v: Words, labels: Words) -> Words:
        return self._shifted(clear.backend, v) + self._ids(clear.backend) + labels[None]


@dataclasses.dataclass(frozen=True)
class Equality:
    """[y = r] of public y and the dealer's r, of `bits` bits.

    **Computes** XOR shares of it: each digit's from one look-up in r's thermometer codes, as in a
    `Comparison`; the digits' product from their openings under one mask each, with all products of
    masks dealt. **Hides** r and the result. **Cost** no round for one digit, else one;
    `opened_bits`, `dealt_bits` an element. **Error** none. **Source** docs/protocols.md sections 6
    and 9b.
    """

    bits: int

    @property
    def edges(self) -> list[int]:
        """Where digits begin and end, from the lowest."""
        n_digits = -(-self.bits // MAX_DIGIT_BITS)
        return [self.bits * i // n_digits for i in range(n_digits + 1)]

    @property
    def _digits(self) -> list[slice]:
        return list(itertools.starmap(slice, itertools.pairwise(self.edges)))

    @property
    def _subsets(self) -> list[tuple[int, ...]]:
        """Sets of two digits or more: the products of their masks are dealt."""
        digits = range(len(self._digits))
        return [
            subset for size in digits[1:] for subset in itertools.combinations(digits, size + 1)
        ]

    @property
    def rounds(self) -> int:
        """0 where there is nothing to multiply."""
        return 1 if len(self._digits) > 1 else 0

    @property
    def opened_bits(self) -> int:
        """Bits an element opened by each server."""
        return self.rounds * len(self._digits)

    @property
    def dealt_bits(self) -> int:
        """Bits an element corrected."""
        tables = sum((1 << high - low) - 1 for low, high in itertools.pairwise(self.edges))
        return tables + len(self._subsets)

    def deal(self, dealing: Dealing, r_planes: Lanes, n: int) -> None:
        for i, digit in enumerate(self._digits):
            [table] = dealing.backend.thermometer(r_planes[None, digit])
            dealing.deal_lanes(f"eq.table{i}", table, n)
        if self.rounds:
            masks = dealing.xor_lanes("eq.masks", len(self._digits), n)
            [products] = dealing.backend.mask_products(masks[None], self._subsets)
            dealing.deal_lanes("eq.products", products, n)

    def run(self, session: Session, y_planes: Lanes, n: int) -> Lanes:
        """A share of [y = r], (n_lanes,); `y_planes` are the planes of y."""
        backend, below = session.backend, ones_at_party_0(session, n)
        equal = []
        for i, digit in enumerate(self._digits):
            table = session.dealt_lanes(f"eq.table{i}", (1 << digit.stop - digit.start) - 1, n)
            equal.append(backend.lookup(table[None], y_planes[None, digit], below)[1])
        if not self.rounds:
            return equal[0][0]
        masks = session.lanes("eq.masks", len(equal), n)
        dealt = session.dealt_lanes("eq.products", len(self._subsets), n)
        [opened] = session.open_many(Xor(backend.concat(equal, 0) ^ masks, n))
        return self._product(session, opened, masks, dealt)

    def _product(self, session: Session, opened: Lanes, masks: Lanes, dealt: Lanes) -> Lanes:
        # prod_i (o_i ^ a_i) = XOR over sets S of (prod of o_i outside S) (prod of a_i inside S)
        digits = range(len(masks))
        shares = {(i,): masks[i] for i in digits} | dict(zip(self._subsets, dealt, strict=True))
        terms = []
        for subset, share in shares.items():
            outside = (opened[i] for i in digits if i not in subset)
            terms.append(functools.reduce(operator.and_, outside, share))
        if session.party == 0:
            terms.append(functools.reduce(operator.and_, opened))
        return functools.reduce(operator.xor, terms)


@dataclasses.dataclass(frozen=True)
class Vote(Step):
    """The label that most of k have.

    **Computes** the commonest label of keys (Q, k), nearest first, modulo 2^label_bits; a key's
    label is the key modulo that; of equally common ones the one whose first holder is nearest.
    y_i = label_i + r_i is opened once; for all pairs, [label_i = label_j] from y_i - y_j and tables
    of r_i - r_j; their sums are the counts, and a `KnockOut` of counts carries the label, the left
    operand winning ties. **Hides** labels, which of them are equal, counts and winner: y under r,
    each pair's bit under its own t, then as `Duel`. **Cost** 2 rounds, one more for labels of over
    4 bits, and ceil(log2 k) duels; nothing for k = 1. **Error** none. **Source** this project;
    docs/protocols.md section 9b.

    Raises PlanError for labels of more than `MAX_LABEL_BITS` bits.
    """

    label_bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.label_bits <= MAX_LABEL_BITS:
            why = f"1 to {MAX_LABEL_BITS} bits can"
            raise PlanError(
                f"labels of {self.label_bits} bits cannot vote", why, "use fewer classes"
            )

    @property
    def _pairs(self) -> int:
        """Pairs of all rows."""
        return self.shape[0] * self.shape[1] * (self.shape[1] - 1) // 2

    @property
    def _count_bits(self) -> int:
        """Bits of a count of others with the same label: a difference of two is below k."""
        return (self.shape[1] - 1).bit_length() + 1

    @property
    def _equality(self) -> Equality:
        return Equality(self.label_bits)

    @functools.cached_property
    def _knock_out(self) -> KnockOut:
        return KnockOut(self.shape[0], self.shape[1], self._count_bits, self.label_bits)

    @property
    def cost(self) -> Cost:
        n, equality = self._pairs, self._equality
        if not n:
            return Cost()
        sent = packed_bytes(self.n, self.label_bits) + lane_bytes(n, equality.opened_bits + 1)
        dealt = lane_bytes(n, equality.dealt_bits) + packed_bytes(n, self._count_bits)
        return Cost.both_ways(2 + equality.rounds, sent, dealt) + self._knock_out.cost

    def deal(self, dealing: Dealing, *masks: object) -> None:
        backend, n = dealing.backend, self._pairs
        if not n:
            return
        r = self._differences(backend, dealing.sum_words("r", self.shape, self.label_bits))
        self._equality.deal(dealing, backend.to_planes(r, self.label_bits), n)
        t = backend.from_bit(dealing.xor_lanes("t'", 1, n)[0], (n,))
        dealing.deal_words("t", t, self._count_bits)
        self._knock_out.deal(dealing, self.name)

    def run(self, session: Session, keys: Additive) -> Additive:
        backend = session.backend
        labels = keys.at_bits(backend, self.label_bits).words
        counts = self._counts(session, labels) if self._pairs else labels
        words = self._knock_out.run(session, self.name, counts, labels)
        return Additive(words, self.label_bits, owner=keys.owner)

    def _counts(self, session: Session, labels: Words) -> Words:
        """Shares of the number of others with the same label, (Q, k)."""
        backend, n = session.backend, self._pairs
        [y] = session.open_many(session.masked(labels, "r", self.label_bits))
        planes = backend.to_planes(self._differences(backend, y), self.label_bits)
        equal = self._equality.run(session, planes, n)
        t = session.dealt_words("t", (n,), self._count_bits)
        [opened] = session.open_many(Xor((equal ^ session.lanes("t'", 1, n)[0])[None], n))
        # e = c + (1 - 2c) t
        c = backend.from_bit(opened[0], (n,))
        e = t - c * (t + t)
        if session.party == 0:
            e = e + c
        return backend.reduce(self._summed(backend, e.reshape(self.shape[0], -1)), self._count_bits)

    def _differences(self, backend: Backend, words: Words) -> Words:
        indices = (selection.repeat_rows(i, self.shape[0]) for i in selection.pairs(self.shape[1]))
        left, right = (backend.gather(words, index) for index in indices)
        return backend.reduce(left - right, self.label_bits)

    def _summed(self, backend: Backend, pairs: Words) -> Words:
        """(Q, pairs) -> (Q, k): each one's sum over the pairs it is in."""
        left, right = (side.tolist() for side in selection.pairs(self.shape[1]))
        both = list(zip(left, right, strict=True))
        members = [[p for p, pair in enumerate(both) if i in pair] for i in range(self.shape[1])]
        columns = (backend.take(pairs, column, 1) for column in zip(*members, strict=True))
        return functools.reduce(operator.add, columns)

    def plain(self, clear: Clear, keys: Words) -> Words:
        backend = clear.backend
        labels = backend.reduce(keys, self.label_bits)
        if not self._pairs:
            return labels[:, 0]
        # Of numbers from 0, zero alone is negative once one is taken away.
        less_one = backend.add_constant(self._differences(backend, labels), -1, 64)
        counts = self._summed(backend, backend.from_bit(backend.bit(less_one, 63), less_one.shape))
        best, winner = counts[:, 0], labels[:, 0]
        for i in range(1, self.shape[1]):
            more = backend.bit(best - counts[:, i], 63)
            best = backend.select(more, counts[:, i], best)
            winner = backend.select(more, labels[:, i], winner)
        return winner
