"""Both servers and the dealer in one process: any steps, run over a real in-memory channel, with
everything written down.

`run_steps` deals a program's corrections with the real dealer, runs both servers in two threads
with the real session, and returns both result shares, the measured cost, every message by round,
every opened value, and what each party drew. Given roots (the default ones are fixed) nothing is
left to chance. `script` replaces draws by name, so that a test can put every mask of a small ring
in one tensor, or every permutation of a short row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import CorrelationsMissing, LeftoverCorrelations, PeerLost
from gpumpc.offline import deal_batch as dealer
from gpumpc.offline.seeds import SeedTree
from gpumpc.params import Cipher, Params
from gpumpc.program.program import Program, Value, WeightSpec
from gpumpc.protocols.linear import PrivateProduct, PublicProduct
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring import selection
from gpumpc.ring.fixed_point import signed
from gpumpc.ring.numba_backend import NumbaBackend
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import OneWay, PartyRandomness, Session, StaticWeight, Sum
from gpumpc.shares import Additive
from gpumpc.wire.channel import Buffer, Channel, memory_pair

Words = npt.NDArray[np.uint64]
Integers = dict[str, tuple[Words, Words]]
Pair = tuple[Additive, Additive]
Name = tuple[int, str, str]  # party, step, name
Parts = dict[str, StaticWeight]
Static = tuple[tuple[Parts, Parts], dict[str, Words]]
BACKEND = NumpyBackend()
SESSION_ID = b"a test's session"
WEIGHT_SESSION = b"a test's weights"


def roots(seed: int) -> tuple[bytes, bytes]:
    """Two 32-byte roots from a number."""
    first, second = (
        hashlib.sha256(f"root {party} of {seed}".encode()).digest() for party in (0, 1)
    )
    return first, second


def drawn_openly(patch: pytest.MonkeyPatch) -> None:
    """Every draw goes through `words` or `lanes`, where a planted bug can change it; the
    definitions of what is fused.
    """

    def masked(self: Session, words: Words, name: str, bits: int) -> Sum:
        return Sum(words + self.words(name, words.shape, bits), bits)

    def masked_operand(self: Session, words: Words, name: str, bits: int) -> tuple[Words, Sum]:
        drawn = self.words(name, words.shape, bits)
        return drawn, Sum(words - drawn, bits, operand=True)

    def send_masked(self: Session, words: Words, name: str, bits: int) -> None:
        self.send_words(words - self.words(name, words.shape, bits), bits)

    def sum_words(self: dealer.Dealing, name: str, shape: Sequence[int], bits: int) -> Any:
        return self.backend.reduce(
            self.words(0, name, shape, bits) + self.words(1, name, shape, bits), bits
        )

    def xor_lanes(self: dealer.Dealing, name: str, planes: int, n: int) -> Any:
        return self.lanes(0, name, planes, n) ^ self.lanes(1, name, planes, n)

    def deal_words(self: dealer.Dealing, name: str, value: Words, bits: int) -> None:
        self._send_correction(
            self.backend.pack(value - self.words(0, name, value.shape, bits), bits)
        )

    def deal_lanes(self: dealer.Dealing, name: str, value: Words, n: int) -> None:
        self._send_correction(self.backend.pack_lanes(value ^ self.lanes(0, name, len(value), n)))

    fused = {
        Session: (masked, masked_operand, send_masked),
        dealer.Dealing: (sum_words, xor_lanes, deal_words, deal_lanes),
    }
    for owner, functions in fused.items():
        for function in functions:
            patch.setattr(owner, function.__name__, function)


class BytesCorrections:
    """Server 1's stream of corrections, out of a bytes object."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def read(self, n_bytes: int) -> memoryview:
        if n_bytes > len(self._left):
            raise CorrelationsMissing(f"{n_bytes} bytes asked, {len(self._left)} left")
        piece, self._left = self._left[:n_bytes], self._left[n_bytes:]
        return piece

    def finish(self) -> None:
        if len(self._left):
            raise LeftoverCorrelations(f"{len(self._left)} bytes were not read")


class RecordingChannel(Channel):
    """A channel that keeps a copy of what its end sends, a round an entry: empty where it only
    receives.
    """

    def __init__(self, inner: Channel) -> None:
        super().__init__(inner.transport, inner.party, inner.patience_s)
        self.sent: list[bytes] = []

    def exchange(self, payload: Sequence[Buffer]) -> memoryview:
        self.sent.append(b"".join(payload))
        return super().exchange([self.sent[-1]])

    def send(self, payload: Sequence[Buffer]) -> None:
        self.sent.append(b"".join(payload))
        super().send([self.sent[-1]])

    def receive(self) -> memoryview:
        self.sent.append(b"")
        return super().receive()


class NamedTree(SeedTree):
    """A seed tree that says which name each key belongs to."""

    def __init__(
        self, root: bytes, batch_index: int, party: int, session_id: bytes = SESSION_ID
    ) -> None:
        super().__init__(root, session_id, batch_index)
        self._party = party
        self.names: dict[bytes, Name] = {}

    def key(self, step: str, name: str) -> bytes:
        key = super().key(step, name)
        self.names[key] = (self._party, step, name)
        return key


class Scripted(NumpyBackend):
    """A backend with some draws replaced and all of them written down, with their bits (0:
    lanes).
    """

    def __init__(self, names: Mapping[bytes, Name], script: Mapping[Name, Words]) -> None:
        self._names, self._script = names, script
        self.drawn: dict[Name, tuple[int, Words]] = {}

    def expand_words(self, cipher: Cipher, key: bytes, shape: Sequence[int], bits: int) -> Words:
        name = self._names[key]
        if name in self._script:
            words = self.reduce(self._script[name].reshape(shape), bits)
        else:
            words = super().expand_words(cipher, key, shape, bits)
        self.drawn[name] = (bits, words.copy())  # what is added to a draw may be added in place
        return words

    def expand_lanes(self, cipher: Cipher, key: bytes, planes: int, n: int) -> Words:
        name = self._names[key]
        if name in self._script:
            lanes = self._script[name].reshape(planes, -1).copy()
        else:
            lanes = super().expand_lanes(cipher, key, planes, n)
        self.drawn[name] = (0, lanes.copy())
        return lanes


class ScriptedNumba(Scripted, NumbaBackend):
    """The same over the compiled loops."""


SCRIPTED: dict[str, type[Scripted]] = {"numpy": Scripted, "numba": ScriptedNumba}
NUMPY = ("numpy", "numpy", "numpy")


class ScriptedDealing(dealer.Dealing):
    """The dealer, with some permutations replaced."""

    script: Mapping[Name, Any]

    def permutations(self, party: int, name: str, rows: int, n: int) -> selection.Index:
        honest = super().permutations(party, name, rows, n)
        scripted: selection.Index = self.script.get((party, self._step, name), honest)
        return scripted


@dataclasses.dataclass(frozen=True)
class Opening:
    """One opened item: `bits` valid bits of `values`, or 0 for lanes; `informative` to this party,
    or `sent` to it one way.
    """

    step: str
    round: int
    bits: int
    n: int
    values: Words


class RecordingSession(Session):
    """A session that writes down what it learns from each opening, and from the dealer."""

    def __init__(self, script: Mapping[Name, Any], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._script = script
        self.openings: list[Opening] = []
        self.dealt: dict[Name, tuple[int, Words]] = {}

    def dealt_words(self, name: str, shape: Sequence[int], bits: int) -> Words:
        words: Words = super().dealt_words(name, shape, bits)
        self.dealt[self.party, self._step, name] = (bits, words)
        return words

    def plus_dealt(self, words: Words, name: str, bits: int) -> Any:
        """Not in one pass, so that what was dealt is seen."""
        return self.backend.reduce(words + self.dealt_words(name, words.shape, bits), bits)

    def dealt_lanes(self, name: str, planes: int, n: int) -> Words:
        lanes: Words = super().dealt_lanes(name, planes, n)
        self.dealt[self.party, self._step, name] = (0, lanes)
        return lanes

    def permutations(self, name: str, rows: int, n: int) -> selection.Index:
        honest = super().permutations(name, rows, n)
        scripted: selection.Index = self._script.get((self.party, self._step, name), honest)
        return scripted

    def correction(self, shape: Sequence[int], bits: int) -> Words:
        words: Words = super().correction(shape, bits)
        number = sum(
            name.startswith("correction") for _, step, name in self.dealt if step == self._step
        )
        self.dealt[self.party, self._step, f"correction{number}"] = (bits, words)
        return words

    def receive_words(self, shape: Sequence[int], bits: int) -> Words:
        words: Words = super().receive_words(shape, bits)
        rounds = self.channel.measured().rounds
        self.openings.append(
            Opening(f"{self._step} sent", rounds, bits, words.size, np.array(words))
        )
        return words

    def open_many(self, *items: Any) -> list[Any]:
        values = super().open_many(*items)
        rounds = self.channel.measured().rounds
        for item, value in zip(items, values, strict=True):
            bits, n = (item.bits, item.words.size) if isinstance(item, Sum) else (0, item.n)
            label = f"{self._step} told" if isinstance(item, OneWay) else self._step
            self.openings.append(
                Opening(label, rounds, bits, n, np.array(self.backend.download(value)))
            )
        return values


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        shares: both servers' results, as the last step gave them.
        cost: measured by server 1, the dealer's bytes included; server 0 measured the same without
            them.
        sent: by round, what server 0 and what server 1 sent; empty for who only received.
        openings: by party, what it learned.
        drawn: by party, its own draws and what it was dealt, by (party, step, name).
        corrections: what the dealer sent to server 1.
    """

    shares: tuple[Any, Any]
    cost: Cost
    sent: list[tuple[bytes, bytes]]
    openings: tuple[list[Opening], list[Opening]]
    drawn: tuple[dict[Name, tuple[int, Words]], dict[Name, tuple[int, Words]]]
    corrections: bytes

    @property
    def words(self) -> Words:
        """The result modulo 2^bits."""
        first, second = self.shares
        assert (first.bits, first.frac, first.divisor) == (second.bits, second.frac, second.divisor)
        return BACKEND.reduce(first.words + second.words, first.bits)

    @property
    def values(self) -> npt.NDArray[np.int64]:
        """The result as signed integers."""
        return signed(np.ascontiguousarray(self.words), self.shares[0].bits)


# inputs


def share(
    values: npt.ArrayLike, bits: int, frac: int = 0, seed: int = 0, first: Words | None = None
) -> Pair:
    """Additive shares of integers modulo 2^bits: the first one random from `seed`, or the given
    one.
    """
    words = np.asarray(values).astype(np.int64).view(np.uint64)
    if first is None:
        first = np.random.default_rng(seed).integers(0, 1 << bits, words.shape, dtype=np.uint64)
    first = BACKEND.reduce(first, bits)
    return Additive(first, bits, frac), Additive(BACKEND.reduce(words - first, bits), bits, frac)


def plain(
    step: Step, *values: npt.ArrayLike, weights: Integers | None = None
) -> npt.NDArray[np.int64]:
    """The step's own definition in the clear, on integers."""
    words = [np.asarray(value).astype(np.int64).view(np.uint64) for value in values]
    return np.asarray(step.plain(Clear(BACKEND, weights or {}), *words)).view(np.int64)


# runs


def as_program(
    steps: Sequence[Step], inputs: Mapping[str, Pair], params: Params, weights: Integers
) -> Program:
    """Steps as a program, its input described by the shares."""
    values = {
        name: Value(tuple(s.words.shape), s.bits, s.frac, s.divisor)
        for name, (s, _) in inputs.items()
    }
    products = [step for step in steps if isinstance(step, PrivateProduct | PublicProduct)]
    specs = {
        p.layer: WeightSpec(
            weights[p.layer][0].shape, weights[p.layer][1].shape, p.ring_bits, 1.0, 1.0
        )
        for p in products
    }
    result = Value((), 1, 0)  # nothing reads it while a program runs
    return Program(tuple(steps), values, steps[-1].output, result, specs, params)


def static_weights(
    program: Program,
    weights: Integers,
    masks: Mapping[str, Words],
    trees: tuple[SeedTree, SeedTree],
) -> tuple[dict[str, StaticWeight], dict[str, StaticWeight]]:
    """Both servers' part of every layer, F = W - Bm already opened."""
    first, second = dict[str, StaticWeight](), dict[str, StaticWeight]()
    cipher = program.params.cipher
    for layer, spec in program.weights.items():
        w, bias = weights[layer]
        if layer not in masks:
            first[layer], second[layer] = (
                StaticWeight(w, None, bias),
                StaticWeight(w, None, bias * np.uint64(0)),
            )
            continue
        bm_0, bm_1 = (
            BACKEND.expand_words(cipher, tree.key(layer, "Bm"), spec.shape, spec.bits)
            for tree in trees
        )
        opened = BACKEND.reduce(w - masks[layer], spec.bits)
        bias_0 = BACKEND.expand_words(
            cipher, trees[0].key(layer, "bias"), spec.bias_shape, spec.bits
        )
        first[layer] = StaticWeight(BACKEND.reduce(opened + bm_0, spec.bits), opened, bias_0)
        second[layer] = StaticWeight(bm_1, opened, BACKEND.reduce(bias - bias_0, spec.bits))
    return first, second


def run_program(
    program: Program,
    inputs: Sequence[Pair],
    weights: Integers | None = None,
    *,
    seed: int = 0,
    batch_index: int = 1,
    script: Mapping[Name, Any] | None = None,
    extra_corrections: bytes = b"",
    static: Static | None = None,
    session_id: bytes = SESSION_ID,
    backends: tuple[str, str, str] = NUMPY,
    prepared: int = 0,
) -> Outcome:
    """Deal a program and run both servers; raises what the servers raise, the cause before its
    echo.

    Args:
        inputs: both shares of each input, in the program's order.
        seed, batch: which masks.
        script: draws to replace, permutations among them, by (party, step, name).
        extra_corrections: appended to what the dealer sends.
        static: weights opened before: both servers' parts, and the dealer's masks; instead of
            `weights`.
        session_id: the other half of what masks depend on, beside `batch`.
        backends: of server 0, server 1 and the dealer.
        prepared: products that the servers have prepared before.
    """
    both, cipher = roots(seed), program.params.cipher
    ends = [
        _Server(party, both[party], batch_index, script or {}, session_id, backends[party])
        for party in (0, 1)
    ]
    dealt = [NamedTree(both[party], batch_index, party, session_id) for party in (0, 1)]
    backend = SCRIPTED[backends[2]](_Union(dealt[0].names, dealt[1].names), script or {})

    def weight_trees() -> tuple[SeedTree, SeedTree]:
        return SeedTree(both[0], WEIGHT_SESSION, 0), SeedTree(both[1], WEIGHT_SESSION, 0)

    masks = dealer.weight_masks(BACKEND, cipher, weight_trees(), program.mask_shapes())
    parts, masks = static or (static_weights(program, weights or {}, masks, weight_trees()), masks)
    pieces: list[memoryview] = []
    dealing = ScriptedDealing(backend, cipher, (dealt[0], dealt[1]), masks, pieces.append)
    dealing.script = script or {}
    dealer.deal_batch(program.steps, dealing)
    corrections = b"".join(pieces) + extra_corrections
    for end, channel in zip(ends, memory_pair(patience_s=20), strict=True):
        stream = BytesCorrections(corrections) if end.party else None
        tree = NamedTree(both[end.party], batch_index, end.party, session_id)
        own = SCRIPTED[backends[end.party]](tree.names, script or {})
        draws = PartyRandomness(end.party, own, cipher, tree, parts[end.party])
        ahead = dict(itertools.islice(program.prepare(draws), prepared))
        end.prepare(channel, cipher, stream, parts[end.party], batch_index, ahead)
    threads = [
        threading.Thread(target=end.work, args=(program, [pair[end.party] for pair in inputs]))
        for end in ends
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _raise_cause([end.error for end in ends if end.error])
    sent = list(zip(*(end.channel.sent for end in ends), strict=True))
    openings = (ends[0].session.openings, ends[1].session.openings)
    drawn = ({**ends[0].backend.drawn}, {**ends[1].backend.drawn, **ends[1].session.dealt})
    cost = ends[1].session.measured()
    assert ends[0].session.measured() == dataclasses.replace(cost, dealer_bytes=0)
    return Outcome((ends[0].result, ends[1].result), cost, sent, openings, drawn, corrections)


def run_steps(
    steps: Sequence[Step],
    inputs: Mapping[str, Pair],
    weights: Integers | None = None,
    params: Params | None = None,
    **options: Any,
) -> Outcome:
    """Any list of steps on named inputs; the result is the last step's.

    Options are those of `run_program`.
    """
    program = as_program(steps, inputs, params or Params(), weights or {})
    return run_program(program, list(inputs.values()), weights, **options)


def run_step(step: Step, *inputs: Pair, weights: Integers | None = None, **options: Any) -> Outcome:
    """One step on given input shares."""
    return run_steps([step], dict(zip(step.inputs, inputs, strict=True)), weights, **options)


class _Union(dict[bytes, Name]):
    """Names of either tree."""

    def __init__(self, *parts: Mapping[bytes, Name]) -> None:
        super().__init__()
        self._parts = parts

    def __missing__(self, key: bytes) -> Name:
        return next(part[key] for part in self._parts if key in part)


class _Server:
    """One server's thread."""

    def __init__(
        self,
        party: int,
        root: bytes,
        batch_index: int,
        script: Mapping[Name, Any],
        session_id: bytes,
        backend: str,
    ) -> None:
        self.party, self.session_id = party, session_id
        self.tree = NamedTree(root, batch_index, party, session_id)
        self.script = script
        self.backend = SCRIPTED[backend](self.tree.names, script)
        self.error: BaseException | None = None
        self.result: Any = None

    def prepare(
        self,
        channel: Channel,
        cipher: Cipher,
        corrections: BytesCorrections | None,
        weights: Mapping[str, StaticWeight],
        batch_index: int,
        ahead: Mapping[str, Words],
    ) -> None:
        self.channel = RecordingChannel(channel)
        self.channel.begin(self.session_id, batch_index)
        own = PartyRandomness(self.party, self.backend, cipher, self.tree, weights)
        self.session = RecordingSession(self.script, own, self.channel, corrections, ahead)

    def work(self, program: Program, inputs: Sequence[Additive]) -> None:
        try:
            self.result = program.run(self.session, *inputs)
        except BaseException as error:  # raised again by the thread that waits
            self.error = error
            self.channel.close()


def _raise_cause(errors: Sequence[BaseException]) -> None:
    for error in sorted(errors, key=lambda error: isinstance(error, PeerLost)):
        raise error


# what a party sees


@dataclasses.dataclass(frozen=True)
class Cell:
    """Words of `bits` bits (n,), or lanes (planes, n_lanes(n)) where `bits` is 0, with where they
    come from.
    """

    label: str
    bits: int
    n: int
    values: Words

    @property
    def rows(self) -> npt.NDArray[np.uint8]:
        """(bits or planes, n) zeros and ones."""
        lanes = (
            BACKEND.to_planes(np.ascontiguousarray(self.values), self.bits)
            if self.bits
            else self.values
        )
        flat = np.ascontiguousarray(lanes).reshape(len(lanes), -1)
        return np.unpackbits(flat.view(np.uint8), axis=1, count=self.n, bitorder="little")

    @property
    def byte_lanes(self) -> list[npt.NDArray[np.uint8]]:
        """The byte planes and bit lanes of the wire, without padding bytes."""
        packed = (
            BACKEND.pack(self.values, self.bits) if self.bits else BACKEND.pack_lanes(self.values)
        )
        raw, whole = np.frombuffer(packed, np.uint8), self.bits // 8
        lanes = raw[whole * self.n :].reshape(-1, 8 * -(-self.n // 64))[:, : self.n // 8]
        return [*raw[: whole * self.n].reshape(whole, self.n), *lanes]


def opened_cells(outcome: Outcome, party: int = 0) -> list[Cell]:
    """What a party learned from openings."""
    return [
        Cell(f"{o.step} round {o.round}", o.bits, o.n, o.values) for o in outcome.openings[party]
    ]


def view_cells(outcome: Outcome, party: int, n: int) -> list[Cell]:
    """All a party sees in a run whose every value has n elements: openings, its own draws, what it
    was dealt.
    """
    cells = opened_cells(outcome, party)
    for (_, step, name), (bits, values) in outcome.drawn[party].items():
        blocks = values.reshape(-1, n) if bits else values[None]
        cells += [Cell(f"{step}.{name}", bits, n, block) for block in blocks]
    return cells


def every(*axes: Sequence[int] | npt.NDArray[Any]) -> list[npt.NDArray[np.int64]]:
    """All combinations of the axes' entries, flat: one array an axis."""
    return [
        grid.reshape(-1)
        for grid in np.meshgrid(*(np.asarray(axis, dtype=np.int64) for axis in axes), indexing="ij")
    ]


def unsigned(values: npt.ArrayLike) -> Words:
    """Signed integers as words."""
    return np.asarray(values).astype(np.int64).view(np.uint64)
