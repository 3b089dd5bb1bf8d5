"""Both servers and the dealer in one process: any steps, run over a real in-memory channel, with
everything written down.

`run_steps` deals a program's corrections with the real dealer, runs both servers with the real
session, and returns both result shares, the measured cost, every message by round, every opened
value, and what each party drew. Given roots (the default ones are fixed) nothing is left to chance.
`script` replaces draws by name, so that a test can put every mask of a small ring in one tensor, or
every permutation of a short row.
"""

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumpc.cost import Cost
from gpumpc.engine import in_process
from gpumpc.engine.in_process import DealtCorrections, RecordingChannel, open_weights
from gpumpc.offline import deal_batch as dealer
from gpumpc.offline.seeds import SeedTree
from gpumpc.params import Params
from gpumpc.program.program import Program, Value, WeightSpec
from gpumpc.protocols.linear import PrivateProduct, PublicProduct
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring.fixed_point import signed
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import PartyRandomness, StaticWeight
from gpumpc.shares import Additive
from tests import scripted

Words = Any  # words and lanes of the NumPy backend are arrays of NumPy
Integers = dict[str, tuple[Words, Words]]
Pair = tuple[Additive, Additive]
Parts = dict[str, StaticWeight]
Static = tuple[tuple[Parts, Parts], dict[str, Words]]
BACKEND: Any = NumpyBackend()
WEIGHT_SESSION = b"a test's weights"


def roots(seed: int) -> tuple[bytes, bytes]:
    """Two 32-byte roots from a number."""
    first, second = (
        hashlib.sha256(f"root {party} of {seed}".encode()).digest() for party in (0, 1)
    )
    return first, second


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
    openings: tuple[list[scripted.Opening], list[scripted.Opening]]
    drawn: tuple[dict[scripted.Name, tuple[int, Words]], dict[scripted.Name, tuple[int, Words]]]
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
    """Additive shares of integers modulo 2^bits: the first one given, or random from `seed`."""
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
    specs = {}
    for step in products:
        weight, bias = weights[step.layer]
        specs[step.layer] = WeightSpec(weight.shape, bias.shape, step.ring_bits, 1.0, 1.0)
    result = Value((), 1, 0)  # nothing reads it while a program runs
    return Program(tuple(steps), values, steps[-1].output, result, specs, params)


@dataclasses.dataclass(frozen=True)
class Options:
    """How a batch is run.

    Attributes:
        seed, batch_index, session_id: what masks depend on.
        script: draws to replace, permutations among them, by (party, step, name).
        extra_corrections: appended to what the dealer sends.
        static: weights opened before: both servers' parts, and the dealer's masks; instead of
            weights in the clear.
        backends: of server 0, server 1 and the dealer.
        prepared: products that the servers have prepared before.
    """

    seed: int = 0
    batch_index: int = 1
    session_id: bytes = scripted.SESSION_ID
    script: Mapping[scripted.Name, Any] | None = None
    extra_corrections: bytes = b""
    static: Static | None = None
    backends: tuple[str, str, str] = scripted.NUMPY
    prepared: int = 0

    def trees(self) -> tuple[scripted.NamedTree, scripted.NamedTree]:
        """Both parties' trees, to be used by one role."""
        first, second = (
            scripted.NamedTree(root, self.batch_index, party, self.session_id)
            for party, root in enumerate(roots(self.seed))
        )
        return first, second

    def backend(self, role: int, names: Mapping[bytes, scripted.Name]) -> Any:
        """Of a server, or of the dealer (2)."""
        return scripted.SCRIPTED[self.backends[role]](names, self.script or {})


def run_program(
    program: Program, inputs: Sequence[Pair], weights: Integers | None = None, **options: Any
) -> Outcome:
    """Deal a program and run both servers; raises the cause of what the servers raise.

    Args:
        inputs: both shares of each input, in the program's order.
        options: fields of `Options`.
    """
    chosen = Options(**options)
    parts, masks = chosen.static or opened_weights(program, weights or {}, chosen.seed)
    corrections = _dealt(program, masks, chosen) + chosen.extra_corrections
    channels = in_process.recording_pair(20)
    sessions = [_session(program, channels[p], parts[p], corrections, chosen) for p in (0, 1)]
    shares = in_process.run_both(
        lambda party: program.run(sessions[party], *(pair[party] for pair in inputs)), channels
    )
    sent = list(zip(*(channel.sent for channel in channels), strict=True))
    openings = (sessions[0].openings, sessions[1].openings)
    cost = sessions[1].measured()
    assert sessions[0].measured() == dataclasses.replace(cost, dealer_bytes=0)
    drawn = (sessions[0].known, sessions[1].known)
    return Outcome(shares, cost, sent, openings, drawn, corrections)


def opened_weights(program: Program, weights: Integers, seed: int) -> Static:
    """Weights in the clear, as the servers and the dealer hold them for batches."""
    if not weights:
        return ({}, {}), {}

    def trees() -> tuple[SeedTree, SeedTree]:
        first, second = (SeedTree(root, WEIGHT_SESSION, 0) for root in roots(seed))
        return first, second

    masks = dealer.weight_masks(BACKEND, program.params.cipher, trees(), program.mask_shapes())
    return open_weights(program, weights, (BACKEND, BACKEND), trees()), masks


def _dealt(program: Program, masks: dict[str, Words], options: Options) -> bytes:
    """The corrections of a batch."""
    pieces: list[memoryview] = []
    trees = options.trees()
    backend = options.backend(2, collections.ChainMap(trees[0].names, trees[1].names))
    dealing = scripted.ScriptedDealing(backend, program.params.cipher, trees, masks, pieces.append)
    dealing.script = options.script or {}
    dealer.deal_batch(program.steps, dealing)
    return b"".join(pieces)


def _session(
    program: Program, channel: RecordingChannel, parts: Parts, corrections: bytes, options: Options
) -> scripted.RecordingSession:
    """What one server runs a batch in."""
    party, cipher = channel.party, program.params.cipher
    channel.begin(options.session_id, options.batch_index)
    ahead_tree, tree = options.trees()[party], options.trees()[party]
    draws = PartyRandomness(
        party, options.backend(party, ahead_tree.names), cipher, ahead_tree, parts
    )
    ahead = dict(itertools.islice(program.prepare(draws), options.prepared))
    stream = DealtCorrections(corrections) if party else None
    own = PartyRandomness(party, options.backend(party, tree.names), cipher, tree, parts)
    return scripted.RecordingSession(options.script or {}, own, channel, stream, ahead)


def run_steps(
    steps: Sequence[Step],
    inputs: Mapping[str, Pair],
    weights: Integers | None = None,
    params: Params | None = None,
    **options: Any,
) -> Outcome:
    """Any list of steps on named inputs; the result is the last step's.

    Options are fields of `Options`.
    """
    program = as_program(steps, inputs, params or Params(), weights or {})
    return run_program(program, list(inputs.values()), weights, **options)


def run_step(step: Step, *inputs: Pair, weights: Integers | None = None, **options: Any) -> Outcome:
    """One step on given input shares."""
    return run_steps([step], dict(zip(step.inputs, inputs, strict=True)), weights, **options)


# what a party sees


@dataclasses.dataclass(frozen=True)
class Cell:
    """Words (n,) of `bits` bits, or lanes (planes, n_lanes(n)) where `bits` is 0; labelled."""

    label: str
    bits: int
    n: int
    values: Words

    @property
    def rows(self) -> npt.NDArray[np.uint8]:
        """(bits or planes, n) zeros and ones."""
        lanes = np.ascontiguousarray(self.values)
        lanes = BACKEND.to_planes(lanes, self.bits) if self.bits else lanes
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
    """All a party sees: openings, its draws, what it was dealt; n elements a value."""
    cells = opened_cells(outcome, party)
    for (_, step, name), (bits, values) in outcome.drawn[party].items():
        blocks = values.reshape(-1, n) if bits else values[None]
        cells += [Cell(f"{step}.{name}", bits, n, block) for block in blocks]
    return cells


def every(*axes: Sequence[int] | npt.NDArray[Any]) -> list[npt.NDArray[np.int64]]:
    """All combinations of the axes' entries, flat: one array an axis."""
    integers = (np.asarray(axis, dtype=np.int64) for axis in axes)
    return [grid.reshape(-1) for grid in np.meshgrid(*integers, indexing="ij")]


def unsigned(values: npt.ArrayLike) -> Words:
    """Signed integers as words."""
    return np.asarray(values).astype(np.int64).view(np.uint64)
