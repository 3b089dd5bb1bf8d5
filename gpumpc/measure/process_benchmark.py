"""Starts the three processes, gives them shares, times their runs and reveals the results."""

import dataclasses
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from gpumpc.cost import Cost
from gpumpc.engine.evaluation import TRIES
from gpumpc.errors import ConfigError, SelectionFailed
from gpumpc.local.compile import Plan
from gpumpc.measure.pipes import Child, Message
from gpumpc.measure.relay import NETWORKS, Relay, Shape
from gpumpc.measure.search_workload import NEAREST, rows_at_rest
from gpumpc.measure.workload_spec import Spec
from gpumpc.offline.secret import private_folder
from gpumpc.program.integers import decode_result, integer_weights
from gpumpc.program.weight_shares import split_weights
from gpumpc.ring.choose import choose_backend
from gpumpc.ring.fixed_point import encode
from gpumpc.shares import split
from gpumpc.wire.zmq_channel import curve_keypair

Array = npt.NDArray[np.float64]
PARTY = "gpumpc.measure.benchmark_party"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        seconds: from the first dealt byte to output shares at both servers, or only what needs the
            input.
        value: the revealed result.
        opened_digest: of the first opened message of server 0; it differs from run to run.
        peak_memory_bytes: by process, since it started.
        answers: of the two servers.
    """

    seconds: float
    value: Array
    opened_digest: str
    peak_memory_bytes: dict[str, int]
    answers: tuple[Message, Message]


class ProcessBenchmark:
    """Three processes with shared operands and weights, ready to run. Use as a context manager.

    Args:
        compiled: a network; with an operator, only its ring is used.
        inputs: the real operands, one for a network.
        operator: `*` or `@` for a product of two shared operands; `nearest` for a search, see
            `Spec`.
        network: a link of `NETWORKS`; between the servers, and from the dealer to server 1.
        module: what the servers' processes run; `PARTY` unless a test or a benchmark adds to it.

    Raises PeerLost if a process ends, with the last line of its log.
    """

    def __init__(
        self,
        compiled: Plan,
        inputs: Sequence[npt.ArrayLike],
        *,
        operator: str = "",
        network: str = "loopback",
        backend: str | None = None,
        module: str = PARTY,
    ) -> None:
        shape = network_named(network)
        arrays = [np.asarray(x, dtype=np.float64) for x in inputs]
        self._temporary = tempfile.TemporaryDirectory(prefix="gpumpc-benchmark-")
        self.folder = private_folder(Path(self._temporary.name) / "parties")
        self._module, self._next_batch = module, 0
        self._children: dict[str, Child] = {}
        self._relays: list[Relay] = []
        try:
            compiled.save(self.folder / "plan")
            shapes = tuple(x.shape for x in arrays) if operator else ()
            self._spec = Spec(str(self.folder / "plan"), len(arrays[0]), operator, shapes)
            self.backend = choose_backend(backend)
            self.plan, self.program = self._spec.load()
            if operator == NEAREST:
                self._share(arrays[:1], rows_at_rest(self.plan, arrays[1]))
            else:
                self._share(arrays, compiled.weights)
            self._start()
            self._connect(shape)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and delete everything; safe to call twice."""
        for child in self._children.values():
            child.stop()
        for relay in self._relays:
            relay.close()
        self._temporary.cleanup()

    @property
    def cost(self) -> Cost:
        """Of one run: declared, and compared with the measured one at every run."""
        return self.program.cost

    @property
    def pids(self) -> dict[str, int]:
        """The processes."""
        return {name: child.pid for name, child in self._children.items()}

    def _share(
        self, inputs: Sequence[Array], weights: Mapping[str, npt.NDArray[np.floating]]
    ) -> None:
        """Operands and weights, as their owners split them; for each server a folder."""
        folders = [private_folder(self.folder / f"server{party}") for party in (0, 1)]
        cipher = self.plan.params.cipher
        for (name, value), real in zip(self.program.inputs.items(), inputs, strict=True):
            words = self.backend.upload(encode(real, value.scale, value.bits))
            parts = split(self.backend, cipher, secrets.token_bytes(32), words, value.bits)
            for folder, part in zip(folders, parts, strict=True):
                np.save(folder / f"{name}.npy", self.backend.download(part))
        if self.program.weights:
            sent = split_weights(self.program, integer_weights(self.program, weights), self.backend)
            for folder, part_bytes in zip(folders, sent, strict=True):
                (folder / "weights").write_bytes(part_bytes)

    def _start(self) -> None:
        roots = [secrets.token_hex(32) for _ in range(2)]
        pair = secrets.token_hex(32)
        keys = {name: curve_keypair() for name in ("server0", "server1", "dealer")}
        public = {name: key.public.decode() for name, key in keys.items()}
        for name, key in keys.items():
            setup: Message = {"spec": dataclasses.asdict(self._spec), "backend": self.backend.name}
            setup |= {"public": public[name], "secret": key.secret.decode()}
            if name == "dealer":
                setup |= {"roots": roots, "server_key": public["server1"]}
            else:
                party = int(name[-1])
                setup |= {"party": party, "folder": str(self.folder / name)}
                setup |= {"root": roots[party], "pair": pair}
                setup |= {"peer_key": public[f"server{1 - party}"], "dealer_key": public["dealer"]}
            module = PARTY if name == "dealer" else self._module
            self._children[name] = Child(name, module, self.folder / f"{name}.log", setup)

    def _connect(self, shape: Shape | None) -> None:
        server0, server1, dealer = self._children.values()
        listening = [server0.receive(), server1.receive()]
        ends, streams = ([answer[key] for answer in listening] for key in ("endpoint", "stream"))
        dealer.receive()
        if shape is not None:
            self._relays = [Relay(shape), Relay(shape)]
            # The link carries both the CURVE socket and the stream.
            ends, streams = (
                [relay.endpoint_to(end) for relay, end in zip(self._relays, places, strict=True)]
                for places in (ends, streams)
            )
        server1.ask({"verb": "connect", "endpoint": ends[0], "stream": streams[0]})
        opening = {"verb": "open", "weight_sharing_id": secrets.token_hex(16)}
        [opened, _] = self._both({**opening, "pids": self.pids})
        dealer.ask({"verb": "connect", "endpoint": ends[1], "stream": streams[1]})
        dealer.ask({**opening, "nonces": opened["nonces"]})

    def _both(self, message: Message) -> tuple[Message, Message]:
        servers = self._children["server0"], self._children["server1"]
        for server in servers:
            server.send(message)
        first, second = (server.receive() for server in servers)
        return first, second

    def run(self, dealt_before: bool = False) -> Outcome:
        """One batch under fresh randomness: from empty pools, or dealt and prepared before.

        A selection that fails is repeated under the next batch, and all its tries count. Raises
        SelectionFailed if they do.
        """
        seconds = 0.0
        for _ in range(TRIES):
            tried, peaks, answers = self._try(dealt_before)
            seconds += tried
            if all(answer["found"] for answer in answers):
                return Outcome(seconds, self._reveal(), answers[0]["opened_digest"], peaks, answers)
        what, why = f"a selection has failed {TRIES} times", "that is not chance"
        raise SelectionFailed(what, why, "this is a bug: please report it")

    def _try(self, dealt_before: bool) -> tuple[float, dict[str, int], tuple[Message, Message]]:
        """Seconds, peak memory and the servers' answers for one batch."""
        batch_index, self._next_batch = self._next_batch, self._next_batch + 1
        deal: Message = {"verb": "deal", "batch_index": batch_index}
        dealer, needs_dealer = self._children["dealer"], bool(self.cost.dealer_bytes)
        peaks: dict[str, int] = {}
        starts: list[float] = []
        if needs_dealer and dealt_before:
            peaks["dealer"] = dealer.ask(deal)["peak_memory_bytes"]
            self._children["server1"].ask({"verb": "wait_dealt", "batch_index": batch_index})
            # Servers prepare a network's batches, and no search's.
            if self._spec.operator != NEAREST:
                self._both({"verb": "prepare", "batch_index": batch_index})
        elif needs_dealer:
            dealer.send(deal)
        answers = self._both({"verb": "run", "batch_index": batch_index})
        if needs_dealer and not dealt_before:
            dealt = dealer.receive()
            peaks["dealer"], starts = dealt["peak_memory_bytes"], [dealt["start"]]
        else:
            starts = [answer["start"] for answer in answers]
        for party, answer in enumerate(answers):
            peaks[f"server{party}"] = answer["peak_memory_bytes"]
        return max(answer["ended"] for answer in answers) - min(starts), peaks, answers

    def stream(self, n: int, at_a_time: int) -> float:
        """Seconds for `n` batches from empty pools, up to `at_a_time` in flight, dealt meanwhile.

        For a program that may not repeat a batch.
        """
        first, self._next_batch = self._next_batch, self._next_batch + n
        dealer = self._children["dealer"]
        dealt = range(first, first + n) if self.cost.dealer_bytes else ()
        for batch_index in dealt:
            dealer.send({"verb": "deal", "batch_index": batch_index})
        answers = self._both({"verb": "stream", "first": first, "n": n, "at_a_time": at_a_time})
        starts = [dealer.receive()["start"] for _ in dealt]
        starts = starts or [answer["start"] for answer in answers]
        return float(max(answer["ended"] for answer in answers) - min(starts))

    def _reveal(self) -> Array:
        first, second = (np.load(self.folder / f"server{party}" / "result.npy") for party in (0, 1))
        return decode_result(self.program, first + second)


def network_named(name: str) -> Shape | None:
    """The link of this name; None for loopback. Raises ConfigError."""
    if name not in NETWORKS:
        raise ConfigError(f"there is no network '{name}'", hint=f"use {', '.join(NETWORKS)}")
    return NETWORKS[name]
