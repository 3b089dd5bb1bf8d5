"""A running protocol's party, backend, channel, and correlated randomness of one batch.

It is the first argument everywhere; there is no global state. All masked values of a step leave in
one message: `open_many` packs them, exchanges once and unpacks.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, overload

from gpumpc.cost import Cost
from gpumpc.errors import BadFrame, CorrelationsMissing, CostMismatch
from gpumpc.offline.seeds import SeedTree
from gpumpc.params import Cipher
from gpumpc.ring import selection
from gpumpc.ring.backend import Backend, Lanes, Operand, Words, lane_bytes, packed_bytes
from gpumpc.shares import Additive
from gpumpc.wire.channel import Channel


class Corrections(Protocol):
    """Server 1's stream of correction bytes for one batch."""

    def read(self, n_bytes: int) -> memoryview:
        """The next bytes. Raises CorrelationsMissing past the end."""

    def finish(self) -> None:
        """End the batch. Raises LeftoverCorrelations if bytes are unread."""


@dataclasses.dataclass(frozen=True, repr=False)
class Sum:
    """An additive share to be opened: both learn the sum modulo 2^bits.

    `packed` are its bytes, if already made; `operand`: the sum is needed as one of products.
    """

    words: Words
    bits: int
    packed: memoryview | None = None
    operand: bool = False


@dataclasses.dataclass(frozen=True, repr=False)
class Xor:
    """XOR shares of lanes (planes, n_lanes) of n elements to be opened."""

    lanes: Lanes
    n: int


@dataclasses.dataclass(frozen=True, repr=False)
class OneWay:
    """Masked lanes of this party's own bits; the result is the peer's, not a combination."""

    lanes: Lanes
    n: int


Item = Sum | Xor | OneWay


@dataclasses.dataclass(frozen=True, repr=False)
class StaticWeight:
    """One server's part of a layer: W_p, the public F = W - Bm (private weights only), its bias."""

    weight: Operand
    opened: Operand | None
    bias: Words

    def __repr__(self) -> str:
        return "StaticWeight(<secret>)"


class PartyRandomness:
    """One server's own randomness for a batch, and its part of the weights: no input is needed.

    Args:
        seeds: this party's tree for the (session, batch).
        weights: this server's part of every layer.
    """

    def __init__(
        self,
        party: int,
        backend: Backend,
        cipher: Cipher,
        seeds: SeedTree,
        weights: Mapping[str, StaticWeight],
    ) -> None:
        self.party, self.backend, self.weights = party, backend, weights
        self._cipher: Cipher = cipher
        self._seeds = seeds
        self._step = ""

    def at(self, step: str) -> None:
        """Let the names that follow belong to this step."""
        self._step = step

    def _key(self, name: str) -> bytes:
        return self._seeds.key(self._step, name)

    def words(self, name: str, shape: Sequence[int], bits: int) -> Words:
        """This party's uniform words under a name."""
        return self.backend.expand_words(self._cipher, self._key(name), shape, bits)

    def lanes(self, name: str, planes: int, n: int) -> Lanes:
        """This party's uniform lanes under a name."""
        return self.backend.expand_lanes(self._cipher, self._key(name), planes, n)

    def permutations(self, name: str, rows: int, n: int) -> selection.Index:
        """This party's secret permutations under a name."""
        return selection.permutations(self._cipher, self._key(name), rows, n)


class Session(PartyRandomness):
    """One server's evaluation of one batch.

    Args:
        own: this server's randomness and weights for the batch, which is reserved.
        corrections: server 1's stream; None at server 0, which receives none.
        ahead: the results of the steps' `prepare` for this batch, by step.
    """

    def __init__(
        self,
        own: PartyRandomness,
        channel: Channel,
        corrections: Corrections | None,
        ahead: Mapping[str, Words] | None = None,
    ) -> None:
        super().__init__(own.party, own.backend, own._cipher, own._seeds, own.weights)
        self.channel = channel
        self._corrections, self._ahead = corrections, ahead or {}
        self._dealer_bytes = 0

    # correlations

    def ahead(self, step: str) -> Words | None:
        """The result of the step's `prepare`, if there was time for it."""
        return self._ahead.get(step)

    def masked(self, words: Words, name: str, bits: int) -> Sum:
        """Words plus this party's uniform words under a name, modulo 2^bits, to be opened."""
        masked, packed = self.backend.mask_and_pack(words, self._cipher, self._key(name), bits)
        return Sum(masked, bits, packed)

    def masked_operand(self, words: Words, name: str, bits: int) -> tuple[Words, Sum]:
        """This party's uniform words under a name; words minus them, to be opened for products."""
        key = self._key(name)
        drawn, masked, packed = self.backend.draw_and_pack(words, self._cipher, key, bits)
        return drawn, Sum(masked, bits, packed, operand=True)

    def dealt_words(self, name: str, shape: Sequence[int], bits: int) -> Words:
        """This party's share of a dealt value: drawn at server 0, received at server 1."""
        if self._corrections is None:
            return self.words(name, shape, bits)
        n_bytes = packed_bytes(math.prod(shape), bits)
        return self.backend.unpack(self._read(self._corrections, n_bytes), shape, bits)

    def plus_dealt(self, words: Words, name: str, bits: int) -> Words:
        """Words plus this party's share of a value the dealer computed, modulo 2^bits."""
        if self._corrections is None:
            return self.backend.add_uniform(words, self._cipher, self._key(name), bits)
        received = self._read(self._corrections, packed_bytes(words.size, bits))
        return self.backend.add_packed(words, received, bits)

    def dealt_lanes(self, name: str, planes: int, n: int) -> Lanes:
        """This party's XOR share of lanes the dealer computed."""
        if self._corrections is None:
            return self.lanes(name, planes, n)
        received = self._read(self._corrections, lane_bytes(n, planes))
        return self.backend.unpack_lanes(received, planes, n)

    def _read(self, corrections: Corrections, n_bytes: int) -> memoryview:
        self._dealer_bytes += n_bytes
        return corrections.read(n_bytes)

    def correction(self, shape: Sequence[int], bits: int) -> Words:
        """Server 1's next correction, for protocols whose servers hold different parts."""
        if self._corrections is None:
            what = f"step '{self._step}' reads a correction at server 0"
            raise CorrelationsMissing(what, "it receives none", "")
        n_bytes = packed_bytes(math.prod(shape), bits)
        return self.backend.unpack(self._read(self._corrections, n_bytes), shape, bits)

    # one way

    def send_words(self, words: Words, bits: int) -> None:
        """Send masked words to the peer: one round, one way."""
        self.channel.send([self.backend.pack(words, bits)])

    def send_masked(self, words: Words, name: str, bits: int) -> None:
        """Send words minus this party's uniform words under a name."""
        packed = self.backend.pack_masked(words, self._cipher, self._key(name), bits, -1)
        self.channel.send([packed])

    def receive_words(self, shape: Sequence[int], bits: int) -> Words:
        """Receive the words that the peer sent with `send_words` or `send_masked`."""
        return self.backend.unpack(self.channel.receive(), shape, bits)

    # openings

    @overload
    def open_many(self, *items: Xor | OneWay) -> list[Lanes]: ...

    @overload
    def open_many(self, *items: Item) -> list[Any]: ...

    def open_many(self, *items: Item) -> list[Any]:
        """Exchange all items of a step in one round; the combined values in order."""
        own = [_message(self.backend, item) for item in items]
        received = self.channel.exchange(own)
        sizes = [len(part) for part in own]
        if len(received) != sum(sizes):
            raise BadFrame(
                f"step '{self._step}' received {len(received)} bytes, not {sum(sizes)}",
                "the servers do not run the same program",
                "compare their plans",
            )
        opened, start = [], 0
        for item, size in zip(items, sizes, strict=True):
            opened.append(self._combine(item, received[start : start + size]))
            start += size
        return opened

    def _combine(self, item: Item, theirs: memoryview) -> Words | Lanes | Operand:
        if isinstance(item, Sum):
            add = self.backend.combine if item.operand else self.backend.add_packed
            return add(item.words, theirs, item.bits)
        other = self.backend.unpack_lanes(theirs, len(item.lanes), item.n)
        return other if isinstance(item, OneWay) else item.lanes ^ other

    # end of a run

    def measured(self) -> Cost:
        """The bytes sent and read, and the rounds, since the channel's `begin`."""
        return self.channel.measured() + Cost(dealer_bytes=self._dealer_bytes)

    def finish(self, declared: Cost) -> None:
        """Raises CostMismatch for an undeclared cost, LeftoverCorrelations for unread bytes."""
        if self._corrections is not None:
            self._corrections.finish()
        else:
            declared = dataclasses.replace(declared, dealer_bytes=0)
        if self.measured() != declared:
            raise CostMismatch(
                f"the run cost {self.measured()} and the program declares {declared}",
                "a protocol sent or read another amount than its `cost` says",
                "this is a bug: please report it; the result was not released",
            )

    # small helpers every protocol needs

    def public(self, share: Additive, value: int) -> Additive:
        """The share plus a public constant, added by server 0."""
        if self.party == 1:
            return share
        return share.with_words(self.backend.add_constant(share.words, value, share.bits))


def _message(backend: Backend, item: Item) -> memoryview:
    """The bytes sent for an item."""
    if not isinstance(item, Sum):
        return backend.pack_lanes(item.lanes)
    return backend.pack(item.words, item.bits) if item.packed is None else item.packed
