"""Both servers and the dealer in one process, each with a backend of its own, timed and recorded.

They may share one GPU. Weights and inputs are random ring elements: the cost of a protocol does not
depend on values.
"""

import dataclasses
import hashlib
import time

import numpy as np
import numpy.typing as npt

from gpumpc.cost import Cost
from gpumpc.engine import in_process
from gpumpc.offline import deal_batch as dealer
from gpumpc.offline.seeds import SeedTree
from gpumpc.program.program import Program
from gpumpc.ring.backend import Backend
from gpumpc.session import PartyRandomness, Session
from gpumpc.shares import Additive

Words = npt.NDArray[np.uint64]
SESSION = b"bench.gpu engine"
WEIGHT_SESSION = b"bench.gpu masks!"


@dataclasses.dataclass(frozen=True)
class Parties:
    """A backend each."""

    dealer: Backend
    servers: tuple[Backend, Backend]


@dataclasses.dataclass(frozen=True)
class Run:
    """One batch: both shares on the host, messages by round, corrections, cost, time."""

    shares: tuple[Words, Words]
    messages: list[tuple[bytes, bytes]]
    corrections: bytes
    cost: Cost
    seconds_dealing: float
    seconds_online: float


def roots(seed: int) -> tuple[bytes, bytes]:
    """Both parties' 32 bytes."""
    texts = (f"bench root {party} of {seed}" for party in (0, 1))
    first, second = (hashlib.sha256(text.encode()).digest() for text in texts)
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

    def __init__(
        self, program: Program, weights: in_process.ClearWeights, parties: Parties, seed: int = 0
    ) -> None:
        self.program, self.parties, self.seed = program, parties, seed
        self._roots, self._batch = roots(seed), 0
        cipher, shapes = program.params.cipher, program.mask_shapes()
        trees = self._trees(WEIGHT_SESSION, 0)
        self._masks = dealer.weight_masks(parties.dealer, cipher, trees, shapes)
        trees = self._trees(WEIGHT_SESSION, 0)
        self._static = in_process.open_weights(program, weights, parties.servers, trees)

    def _trees(self, session: bytes, batch_index: int) -> tuple[SeedTree, SeedTree]:
        first, second = (SeedTree(root, session, batch_index) for root in self._roots)
        return first, second

    def deal(self) -> bytes:
        """The corrections of the next batch."""
        pieces: list[memoryview] = []
        trees = self._trees(SESSION, self._batch)
        dealing = dealer.Dealing(
            self.parties.dealer, self.program.params.cipher, trees, self._masks, pieces.append
        )
        dealer.deal_batch(self.program.steps, dealing)
        return b"".join(pieces)

    def run(self, shares: tuple[Words, Words]) -> Run:
        """Deal and evaluate one batch of input shares."""
        start = time.perf_counter()
        corrections = self.deal()
        dealt = time.perf_counter()
        channels = in_process.recording_pair(patience_s=500)

        def serve(party: int) -> tuple[Words, Cost]:
            backend, channel = self.parties.servers[party], channels[party]
            channel.begin(SESSION, self._batch)
            stream = in_process.DealtCorrections(corrections) if party else None
            tree, cipher = self._trees(SESSION, self._batch)[party], self.program.params.cipher
            own = PartyRandomness(party, backend, cipher, tree, self._static[party])
            session = Session(own, channel, stream)
            value = self.program.input
            share = Additive(backend.upload(shares[party]), value.bits, value.frac)
            result = self.program.run(session, share)
            return backend.download(result.words), session.measured()

        (first, _), (second, cost) = in_process.run_both(serve, channels)
        end = time.perf_counter()
        self._batch += 1
        messages = list(zip(channels[0].sent, channels[1].sent, strict=True))
        return Run((first, second), messages, corrections, cost, dealt - start, end - dealt)


def random_shares(program: Program, seed: int) -> tuple[Words, Words]:
    """Shares of an input: two random words an element are as good as any."""
    value, rng = program.input, np.random.default_rng(seed)
    first, second = (rng.integers(0, 1 << value.bits, value.shape, np.uint64) for _ in range(2))
    return first, second
