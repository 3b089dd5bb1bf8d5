"""The dealer's side of a batch: walk the program, deal each step, send its correction bytes.

The dealer knows both roots and no input. Uniform values come from the seeds; for a function of
other masks, server 0 draws share 0 from its seed and server 1 receives a correction, packed at the
number of bits that matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gpumpc.errors import CostMismatch
from gpumpc.offline.seeds import SeedTree
from gpumpc.params import Cipher
from gpumpc.ring import selection
from gpumpc.ring.backend import Backend, Lanes, Operand, Words

# Takes one correction, which is not changed afterwards.
Send = Callable[[memoryview], None]


class Dealable(Protocol):
    """What the dealer needs of a step."""

    @property
    def name(self) -> str:
        """Unique in the program."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values it reads."""

    @property
    def output(self) -> str:
        """Name of the value it makes."""

    @property
    def dealer_bytes(self) -> int:
        """Correction bytes it declares."""

    def deal(self, dealing: Dealing, *masks: Any) -> object:
        """Deal; the steps that read `output` get the returned mask."""


class Dealing:
    """Both parties' masks of one batch; sends its corrections.

    Args:
        backend, cipher: must be those of the servers' program.
        seeds: the two parties' trees for this (session, batch).
        weight_masks: static masks by layer, already added up.
        send: called with every correction as soon as it is dealt: server 1 reads the first while
            later ones are computed.

    Attributes:
        sent_bytes: the size of all corrections sent so far.
    """

    def __init__(
        self,
        backend: Backend,
        cipher: Cipher,
        seeds: tuple[SeedTree, SeedTree],
        weight_masks: Mapping[str, Operand],
        send: Send,
    ) -> None:
        self.backend, self.weight_masks, self._send = backend, weight_masks, send
        self._cipher: Cipher = cipher
        self._seeds, self._step, self.sent_bytes = seeds, "", 0

    def at(self, step: str) -> None:
        """Let the names that follow belong to this step."""
        self._step = step

    def words(self, party: int, name: str, shape: Sequence[int], bits: int) -> Words:
        """Party `party`'s uniform words under this name."""
        return self.backend.expand_words(self._cipher, self._key(party, name), shape, bits)

    def lanes(self, party: int, name: str, planes: int, n: int) -> Lanes:
        """Party `party`'s uniform lanes under this name."""
        return self.backend.expand_lanes(self._cipher, self._key(party, name), planes, n)

    def permutations(self, party: int, name: str, rows: int, n: int) -> selection.Index:
        """Party `party`'s permutations under this name."""
        return selection.permutations(self._cipher, self._key(party, name), rows, n)

    def sum_words(self, name: str, shape: Sequence[int], bits: int) -> Words:
        """A mask both parties hold additive shares of: the sum of their draws."""
        first = self.words(0, name, shape, bits)
        return self.backend.add_uniform(first, self._cipher, self._key(1, name), bits)

    def xor_lanes(self, name: str, planes: int, n: int) -> Lanes:
        """A mask both parties hold XOR shares of."""
        first = self.lanes(0, name, planes, n)
        return self.backend.xor_uniform(first, self._cipher, self._key(1, name), n)

    def deal_words(self, name: str, value: Words, bits: int) -> None:
        """Share `value` modulo 2^bits: party 0 draws its share, party 1 gets the correction."""
        key = self._key(0, name)
        self._send_correction(self.backend.pack_masked(value, self._cipher, key, bits, -1))

    def deal_bits(self, name: str, value: Words, bits: int) -> None:
        """Share the bits of words by XOR; both parties read them as words."""
        share_0 = self.words(0, name, value.shape, bits)
        self._send_correction(self.backend.pack(value ^ share_0, bits))

    def deal_lanes(self, name: str, value: Lanes, n: int) -> None:
        """Share lanes (planes, n_lanes) by XOR."""
        masked = self.backend.xor_uniform(value, self._cipher, self._key(0, name), n)
        self._send_correction(self.backend.pack_lanes(masked))

    def _key(self, party: int, name: str) -> bytes:
        return self._seeds[party].key(self._step, name)

    def _send_correction(self, correction: memoryview) -> None:
        self.sent_bytes += len(correction)
        self._send(correction)


def deal_batch(steps: Sequence[Dealable], dealing: Dealing) -> None:
    """Deal every step, in program order.

    A step's `deal` receives the masks that the steps of its inputs returned (None if none), so that
    a product finds the mask of its operand without its name. Raises CostMismatch if a step deals
    another number of bytes than it declares.
    """
    masks: dict[str, object] = {}
    for step in steps:
        dealing.at(step.name)
        before = dealing.sent_bytes
        masks[step.output] = step.deal(dealing, *(masks.get(name) for name in step.inputs))
        n_bytes = dealing.sent_bytes - before
        if n_bytes != step.dealer_bytes:
            what = f"step '{step.name}' dealt {n_bytes} bytes and declares {step.dealer_bytes}"
            why = "its `deal` and its `cost` disagree"
            raise CostMismatch(what, why, "this is a bug in the protocol: please report it")


def weight_masks(
    backend: Backend,
    cipher: Cipher,
    seeds: tuple[SeedTree, SeedTree],
    shapes: Mapping[str, tuple[Sequence[int], int]],
) -> dict[str, Operand]:
    """The static mask Bm = Bm_0 + Bm_1 by layer; `shapes` gives (weight shape, bits) by layer."""
    dealing = Dealing(backend, cipher, seeds, {}, _refuse)
    masks = {}
    for layer, (shape, bits) in shapes.items():
        dealing.at(layer)
        masks[layer] = backend.static(dealing.sum_words("Bm", shape, bits), bits)
    return masks


def _refuse(correction: memoryview) -> None:
    raise AssertionError("static masks need no corrections")
