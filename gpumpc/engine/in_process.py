"""Both servers and the dealer in one process: the local session, tests and the GPU benchmark.

Each runs in a thread, over a channel in memory; tests and benchmarks deal first and record.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gpumpc.errors import CorrelationsMissing, LeftoverCorrelations, PeerLost
from gpumpc.offline.memory_pool import NotDealt
from gpumpc.offline.seeds import SeedTree
from gpumpc.program.program import Program
from gpumpc.program.weight_shares import open_static
from gpumpc.ring.backend import Backend
from gpumpc.session import PartyRandomness, Session, StaticWeight
from gpumpc.wire.channel import Buffer, Channel, memory_pair

T = TypeVar("T")
ClearWeights = Mapping[str, tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]


class DealtCorrections:
    """Server 1's corrections of one batch, all dealt before it runs."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def read(self, n_bytes: int) -> memoryview:
        """The next bytes. Raises CorrelationsMissing past the end."""
        if n_bytes > len(self._left):
            raise CorrelationsMissing(f"{n_bytes} bytes asked, {len(self._left)} left")
        piece, self._left = self._left[:n_bytes], self._left[n_bytes:]
        return piece

    def finish(self) -> None:
        """Raises LeftoverCorrelations if bytes are unread."""
        if len(self._left):
            raise LeftoverCorrelations(f"{len(self._left)} bytes were not read")


class RecordingChannel(Channel):
    """A channel that keeps what its end sends in `sent`: one entry a round, empty if none."""

    def __init__(self, inner: Channel) -> None:
        super().__init__(inner.transport, inner.party, inner.patience_s)
        self.sent: list[bytes] = []

    def exchange(self, payload: Sequence[Buffer]) -> memoryview:
        """As `Channel`."""
        self.sent.append(b"".join(payload))
        return super().exchange([self.sent[-1]])

    def send(self, payload: Sequence[Buffer]) -> None:
        """As `Channel`."""
        self.sent.append(b"".join(payload))
        super().send([self.sent[-1]])

    def receive(self) -> memoryview:
        """As `Channel`."""
        self.sent.append(b"")
        return super().receive()


def recording_pair(patience_s: float) -> tuple[RecordingChannel, RecordingChannel]:
    """Two connected ends, as `memory_pair` makes them."""
    first, second = memory_pair(patience_s)
    return RecordingChannel(first), RecordingChannel(second)


def run_both(
    work: Callable[[int], T],
    channels: Sequence[Channel],
    deal: Callable[[], None] = lambda: None,
    threads: Executor | None = None,
) -> tuple[T, T]:
    """Run `work(party)` of both servers and `deal`, each in a thread; both servers' results.

    A server that fails closes its channel, so that the other does not wait for it. Raises the
    cause: a server whose peer or dealer stopped knows no more than that.
    """
    if threads is None:
        with ThreadPoolExecutor(3) as own:
            return run_both(work, channels, deal, own)

    def guarded(party: int) -> T:
        try:
            return work(party)
        except BaseException:
            channels[party].close()
            raise

    first, second = (threads.submit(guarded, party) for party in (0, 1))
    dealt = threads.submit(deal)
    ended = (first.exception(), second.exception(), dealt.exception())
    if errors := [error for error in ended if error]:
        raise min(errors, key=lambda error: isinstance(error, PeerLost | NotDealt))
    return first.result(), second.result()


def open_weights(
    program: Program,
    weights: ClearWeights,
    backends: tuple[Backend, Backend],
    trees: tuple[SeedTree, SeedTree],
) -> tuple[dict[str, StaticWeight], dict[str, StaticWeight]]:
    """Both servers' part of weights in the clear, opened as the servers open shared ones.

    Private weights are shared as themselves (server 0) and zero (server 1).
    """
    channels = memory_pair()
    private = program.params.weights == "private"

    def open_at(party: int) -> dict[str, StaticWeight]:
        backend, factor = backends[party], np.uint64(not (private and party == 1))
        raw = {
            layer: (backend.upload(weight * factor), backend.upload(bias * factor))
            for layer, (weight, bias) in weights.items()
        }
        cipher = program.params.cipher
        own = PartyRandomness(party, backend, cipher, trees[party], {})
        return open_static(Session(own, channels[party], None), program, raw)

    return run_both(open_at, channels)
