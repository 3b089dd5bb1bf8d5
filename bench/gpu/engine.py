"""Both servers and the dealer in one process, each with a backend of its own: the real protocol,
timed and written down.

Three threads would be three processes on a network; here they may share one GPU. Weights and inputs
are random ring
elements: what a protocol computes, sends and costs does not depend on values.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumpc.cost import Cost
from gpumpc.errors import PeerLost
from gpumpc.offline import deal_batch as dealer
from gpumpc.offline.seeds import SeedTree
from gpumpc.program.program import Program
from gpumpc.ring.backend import Backend
from gpumpc.session import PartyRandomness, Session, StaticWeight
from gpumpc.shares import Additive
from gpumpc.wire.channel import Buffer, Channel, memory_pair

Words = npt.NDArray[np.uint64]
Weights = Mapping[str, tuple[Words, Words]]
SESSION = b"bench.gpu engine"
WEIGHT_SESSION = b"bench.gpu masks!"


@dataclasses.dataclass(frozen=True)
class Parties:
    """A backend each."""

    dealer: Backend
    servers: tuple[Backend, Backend]


@dataclasses.dataclass(frozen=True)
class Run:
    """What a batch left: both shares on the host, every message by round, the corrections, the
    cost, the seconds.
    """

    shares: tuple[Words, Words]
    messages: list[tuple[bytes, bytes]]
    corrections: bytes
    cost: Cost
    seconds_dealing: float
    seconds_online: float


class _Recorder(Channel):
    """A channel that keeps what its end sends, if asked to."""

    def __init__(self, inner: Channel, keep: bool) -> None:
        super().__init__(inner.transport, inner.party, inner.patience_s)
        self._keep, self.sent = keep, list[bytes]()

    def exchange(self, payload: Sequence[Buffer]) -> memoryview:
        message = b"".join(payload)
        if self._keep:
            self.sent.append(message)
        return super().exchange([message])


class _Corrections:
    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def read(self, n_bytes: int) -> memoryview:
        piece, self._left = self._left[:n_bytes], self._left[n_bytes:]
        return piece

    def finish(self) -> None:
        if len(self._left):
            raise ValueError(f"{len(self._left)} correction bytes were not read")


def roots(seed: int) -> tuple[bytes, bytes]:
    """Both parties' 32 bytes."""
    first, second = (
        hashlib.sha256(f"bench root {party} of {seed}".encode()).digest() for party in (0, 1)
    )
    return first, second


def random_weights(program: Program, seed: int) -> dict[str, tuple[Words, Words]]:
    """Ring elements of every layer's shape."""
    rng = np.random.default_rng(seed)
    return {
        layer: (
            rng.integers(0, 1 << spec.bits, spec.shape, np.uint64),
            rng.integers(0, 1 << spec.bits, spec.bias_shape, np.uint64),
        )
        for layer, spec in program.weights.items()
    }


class Engine:
    """A program with its weights opened once: `run` is one batch."""

    def __init__(self, program: Program, weights: Weights, parties: Parties, seed: int = 0) -> None:
        self.program, self.parties, self.seed = program, parties, seed
        self._roots, self._batch = roots(seed), 0
        self._masks = dealer.weight_masks(
            parties.dealer,
            program.params.cipher,
            self._trees(WEIGHT_SESSION, 0),
            program.mask_shapes(),
        )
        self._static = [self._share_weights(party, weights) for party in (0, 1)]

    def _trees(self, session: bytes, batch_index: int) -> tuple[SeedTree, SeedTree]:
        return SeedTree(self._roots[0], session, batch_index), SeedTree(
            self._roots[1], session, batch_index
        )

    def _share_weights(self, party: int, weights: Weights) -> dict[str, StaticWeight]:
        """W_0 = F + Bm_0, W_1 = Bm_1, F = W - Bm; the bias at server 0."""
        backend, found = self.parties.servers[party], dict[str, StaticWeight]()
        tree = self._trees(WEIGHT_SESSION, 0)[party]
        for layer, spec in self.program.weights.items():
            own = backend.expand_words(
                self.program.params.cipher, tree.key(layer, "Bm"), spec.shape, spec.bits
            )
            mask = backend.upload(self.parties.dealer.download(self._masks[layer]))
            weight, bias = (backend.upload(array) for array in weights[layer])
            opened = backend.reduce(weight - mask, spec.bits)
            share = backend.reduce(opened + own, spec.bits) if party == 0 else own
            operands = backend.operand(share, spec.bits), backend.operand(opened, spec.bits)
            found[layer] = StaticWeight(
                *operands, bias if party == 0 else backend.zeros(spec.bias_shape)
            )
        return found

    def deal(self) -> bytes:
        """The corrections of the next batch."""
        pieces: list[memoryview] = []
        trees = self._trees(SESSION, self._batch)
        dealing = dealer.Dealing(
            self.parties.dealer, self.program.params.cipher, trees, self._masks, pieces.append
        )
        dealer.deal_batch(self.program.steps, dealing)
        return b"".join(pieces)

    def run(self, shares: tuple[Words, Words], keep: bool = False) -> Run:
        """Deal and evaluate one batch of input shares; `keep` keeps the messages."""
        start = time.perf_counter()
        corrections = self.deal()
        dealt = time.perf_counter()
        channels = [_Recorder(end, keep) for end in memory_pair(patience_s=500)]
        results: list[Any] = [None, None]
        costs: list[Cost] = [Cost(), Cost()]

        def serve(party: int) -> None:
            backend, channel = self.parties.servers[party], channels[party]
            channel.begin(SESSION, self._batch)
            stream = _Corrections(corrections) if party else None
            tree = self._trees(SESSION, self._batch)[party]
            cipher = self.program.params.cipher
            own = PartyRandomness(party, backend, cipher, tree, self._static[party])
            session = Session(own, channel, stream)
            value = self.program.input
            result = self.program.run(
                session, Additive(backend.upload(shares[party]), value.bits, value.frac)
            )
            results[party], costs[party] = backend.download(result.words), session.measured()

        both([functools.partial(serve, party) for party in (0, 1)], channels)
        end = time.perf_counter()
        self._batch += 1
        messages = list(zip(channels[0].sent, channels[1].sent, strict=True))
        return Run(
            (results[0], results[1]), messages, corrections, costs[1], dealt - start, end - dealt
        )


def both(work: Sequence[Callable[[], None]], channels: Sequence[Any]) -> None:
    """Each in a thread; the first cause is raised, not its echo at the other end."""
    errors: list[BaseException] = []

    def guarded(call: Callable[[], None], channel: Any) -> None:
        try:
            call()
        except BaseException as error:  # raised again by the thread that waits
            errors.append(error)
            channel.close()

    pairs = zip(work, channels, strict=True)
    threads = [threading.Thread(target=guarded, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in sorted(errors, key=lambda error: isinstance(error, PeerLost)):
        raise error


def random_shares(program: Program, seed: int) -> tuple[Words, Words]:
    """Shares of an input: two random words an element are as good as any."""
    value, rng = program.input, np.random.default_rng(seed)
    first, second = (rng.integers(0, 1 << value.bits, value.shape, np.uint64) for _ in range(2))
    return first, second
