"""One process of a benchmark: `python -m gpumpc.measure.benchmark_party server0|server1|dealer`.

It takes requests from its pipes. Times are of the machine's monotonic clock, which all processes
share.
"""

import contextlib
import functools
import hashlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gpumpc.engine.correction_queue import CorrectionQueue
from gpumpc.engine.dealer_engine import DealerEngine
from gpumpc.engine.evaluation import Evaluation
from gpumpc.engine.party import Party
from gpumpc.engine.pipeline import pipelined
from gpumpc.engine.session_binding import SessionBinding
from gpumpc.errors import ConfigError, SelectionFailed
from gpumpc.measure.pipes import Message, answer, messages, peak_memory_bytes
from gpumpc.measure.workload_spec import Spec
from gpumpc.offline.ledger import Ledger
from gpumpc.offline.pool import Corrections, Pool, Writer
from gpumpc.offline.secret import Secret
from gpumpc.program import weight_shares as ws
from gpumpc.ring.backend import Words
from gpumpc.ring.choose import choose_backend
from gpumpc.shares import Additive
from gpumpc.wire.channel import Buffer, Channel
from gpumpc.wire.frames import Kind
from gpumpc.wire.multiplexer import Multiplexer, SubChannel
from gpumpc.wire.zmq_channel import CurveKeys, Listener, PeerSocket, Requester

_ANYWHERE = "tcp://127.0.0.1:0"
_CONNECT_S = 30.0
_DEALT_S = 600.0
_POOL_BYTES = 8 << 30
_IDLE_S = 1.0
_DIGEST_BYTES = 1 << 16


class RecordingChannel(Channel):
    """A channel that keeps a digest of the first message of each batch."""

    first_digest = ""

    def begin(self, session_id: bytes, batch_index: int) -> None:
        """As `Channel`."""
        self.first_digest = ""
        super().begin(session_id, batch_index)

    def exchange(self, payload: Sequence[Buffer]) -> memoryview:
        """As `Channel`; the beginning of the first message is digested."""
        if not self.first_digest and payload:
            self.first_digest = hashlib.sha256(memoryview(payload[0])[:_DIGEST_BYTES]).hexdigest()
        return super().exchange(payload)


class Source:
    """Server 1's pool, filled by a thread that listens for the dealer."""

    def __init__(self, folder: Path, keys: CurveKeys, dealer_key: bytes, n_bytes: int) -> None:
        self._pool, self._n_bytes = Pool(folder / "pool", _POOL_BYTES), n_bytes
        self._listener = Listener(_ANYWHERE, keys, {dealer_key: "dealer"}, stream_peers=["dealer"])
        self.endpoint = self._listener.endpoint
        self.stream_endpoint = self._listener.stream_endpoint
        self._writing: tuple[Writer, int] | None = None
        threading.Thread(target=self._listen, name="dealer listener", daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                arrival = self._listener.poll(1.0)
                if arrival is not None and arrival.frame.kind is Kind.CORRECTION:
                    frame = arrival.frame
                    self._store(frame.session, frame.batch_index, frame.payload)
        except BaseException:
            # The benchmark sees that this process ends, and shows the last line of its log.
            traceback.print_exc()
            os._exit(1)

    def _store(self, session_id: bytes, batch_index: int, piece: memoryview) -> None:
        if self._writing is None:
            self._writing = self._pool.writer(session_id, batch_index, self._n_bytes), self._n_bytes
        writer, left = self._writing
        writer.append(piece)
        self._writing = (writer, left - len(piece)) if left > len(piece) else None
        if self._writing is None:
            writer.commit()

    def take(self, binding: SessionBinding, batch_index: int, timeout_s: float) -> Corrections:
        """A batch's corrections. Raises CorrelationsMissing."""
        return self._pool.take(binding.session_id, batch_index, timeout_s)

    def discard_before(self, session_id: bytes, batch_index: int) -> None:
        """Forget batches that can never be used."""
        self._pool.discard_before(session_id, batch_index)

    def is_stored(self, session_id: bytes, batch_index: int) -> bool:
        """Whether a batch is here, whole."""
        return self._pool.ahead(session_id, batch_index) > 0


class ServerParty:
    """One server of the benchmark: an evaluation, its channel, and its shares of the operands."""

    def __init__(self, setup: Message) -> None:
        self.party: int = setup["party"]
        self._folder = Path(setup["folder"])
        self._keys = CurveKeys(setup["public"].encode(), setup["secret"].encode())
        self._peer_key = setup["peer_key"].encode()
        plan, program = Spec.of(setup["spec"]).load()
        self.backend = choose_backend(setup["backend"])
        self.source: Source | None = None
        self._channel: RecordingChannel | None = None
        if self.party == 0:
            self._meet(PeerSocket.bind(_ANYWHERE, self._keys, self._peer_key))
        else:
            dealer_key, n_bytes = setup["dealer_key"].encode(), program.cost.dealer_bytes
            self.source = Source(self._folder, self._keys, dealer_key, n_bytes)
        root, pair = (Secret(bytes.fromhex(setup[name])) for name in ("root", "pair"))
        ledger = Ledger(self._folder / "ledger.sqlite")
        party = Party(self.party, root, pair, ledger, self.backend, self.source, _DEALT_S)
        self._evaluation = Evaluation(party, plan, program)
        self.program = program
        self._operands: list[Additive] = []

    def _meet(self, socket: PeerSocket) -> None:
        self._socket = socket
        self._channel = RecordingChannel(socket, self.party, _DEALT_S)

    @property
    def channel(self) -> RecordingChannel:
        """The connection to the other server."""
        if self._channel is None:
            raise ConfigError("a server of the benchmark was asked to run before it was connected")
        return self._channel

    @property
    def endpoint(self) -> str:
        """Where the other server (server 0) or the dealer (server 1) finds this one."""
        return self.source.endpoint if self.source else self._socket.endpoint

    @property
    def stream_endpoint(self) -> str:
        """Where it takes streams."""
        return self.source.stream_endpoint if self.source else self._socket.stream_endpoint

    def connect(self, endpoint: str, stream: str) -> Message:
        """Server 1: to server 0."""
        socket = PeerSocket.connect(endpoint, self._keys, self._peer_key, stream_endpoint=stream)
        self._meet(socket)
        return {}

    def open(self, weight_sharing_id: str, pids: dict[str, int]) -> Message:
        """Load operands and weights, agree on a session."""
        self.channel.wait_peer(_CONNECT_S)
        for name, value in self.program.inputs.items():
            words = self.backend.upload(np.load(self._folder / f"{name}.npy"))
            self._operands.append(Additive(words, value.bits, value.frac, value.divisor))
        if self.program.weights:
            self._open_weights(weight_sharing_id)
        self._evaluation.open_session(self.channel, weight_sharing_id)
        return {"nonces": [nonce.hex() for nonce in self._evaluation.binding.nonces]}

    def _open_weights(self, weight_sharing_id: str) -> None:
        sent = memoryview((self._folder / "weights").read_bytes())
        raw = ws.receive_weights(self.program, self.party, sent, self.backend)
        weights = self._evaluation.open_weights(self.channel, weight_sharing_id, raw)
        self._evaluation.weights = weights

    def wait_dealt(self, batch_index: int) -> Message:
        """Wait until a batch is in the pool (server 1)."""
        source = self.source
        while source is not None and not source.is_stored(self._evaluation.session_id, batch_index):
            time.sleep(0.005)
        return {}

    def prepare(self, batch_index: int) -> Message:
        """Compute the part of a batch that does not depend on the input."""
        self._evaluation.prepare(batch_index)
        return {}

    def stream(self, first: int, n: int, at_a_time: int) -> Message:
        """`n` batches on the same operands, some at a time; their results are dropped."""
        multiplexer = Multiplexer(self.channel)
        start = time.monotonic()
        for _ in pipelined(multiplexer.first, at_a_time, map(self._batch, range(first, first + n))):
            pass
        return {"start": start, "ended": time.monotonic()}

    def _batch(self, batch_index: int) -> Callable[[SubChannel], None]:
        reserved = self._evaluation.begin(batch_index)

        def evaluate(sub_channel: SubChannel) -> None:
            self._evaluation.carry_out(sub_channel, reserved, *self._operands)

        return evaluate

    def run(self, batch_index: int) -> Message:
        """Evaluate one batch and save its result share; `found` is false if a selection failed."""
        start = time.monotonic()
        result: Words | None = None
        # Both servers see the failure at once, and the benchmark repeats with another batch.
        with contextlib.suppress(SelectionFailed):
            result = self.evaluate(batch_index)
        ended = time.monotonic()
        if result is not None:
            np.save(self._folder / "result.npy", self.backend.download(result))
        return {
            "found": result is not None,
            "start": start,
            "ended": ended,
            "opened_digest": self.channel.first_digest,
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def evaluate(self, batch_index: int) -> Words:
        """The words of the re-randomised result share."""
        reserved = self._evaluation.begin(batch_index)
        result = self._evaluation.carry_out(self.channel, reserved, *self._operands)
        return self._evaluation.release(result, batch_index).words


class DealerParty:
    """The dealer of the benchmark: deals a batch on request."""

    def __init__(self, setup: Message) -> None:
        plan, program = Spec.of(setup["spec"]).load()
        first, second = (Secret(bytes.fromhex(root)) for root in setup["roots"])
        backend = choose_backend(setup["backend"])
        self._engine = DealerEngine(plan, program, (first, second), backend)
        self._keys = CurveKeys(setup["public"].encode(), setup["secret"].encode())
        self._server_key = setup["server_key"].encode()
        self._server: Requester | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="dealing")
        self._binding: tuple[str, tuple[bytes, bytes], bytes] = ("", (b"", b""), b"")

    def connect(self, endpoint: str, stream: str) -> Message:
        """To server 1."""
        self._server = Requester(endpoint, self._keys, self._server_key, peer="server1")
        self._server.wait_peer(_CONNECT_S)
        self._server.open_stream(stream)
        return {}

    def open(self, weight_sharing_id: str, nonces: Sequence[str]) -> Message:
        """The session that the servers have agreed on."""
        first, second = map(bytes.fromhex, nonces)
        plan, program = self._engine.plan, self._engine.program
        binding = SessionBinding.of(plan, program, weight_sharing_id, (first, second))
        self._binding = (weight_sharing_id, (first, second), binding.session_id)
        return {}

    def deal(self, batch_index: int) -> Message:
        """Deal one batch and send it, in frames as the product's dealer does."""
        weight_sharing_id, nonces, session_id = self._binding
        if self._server is None:
            raise ConfigError("the dealer of the benchmark was asked to deal before it connected")
        start = time.monotonic()
        deal = functools.partial(self._engine.deal, weight_sharing_id, nonces, batch_index)
        for frame in CorrectionQueue().frames(self._executor, deal, _IDLE_S):
            if frame:
                self._server.send(
                    Kind.CORRECTION, *frame, session=session_id, batch_index=batch_index
                )
        return {"start": start, "ended": time.monotonic(), "peak_memory_bytes": peak_memory_bytes()}


def serve(make_server: Callable[[Message], ServerParty] = ServerParty) -> None:
    """Run the party that the command line names, until its pipe is closed."""
    requests = messages()
    party: ServerParty | DealerParty
    if sys.argv[1] == "dealer":
        party = DealerParty(next(requests))
        answer({"pid": os.getpid()})
    else:
        party = make_server(next(requests))
        # Server 1 connects to server 0, and the dealer to server 1.
        answer({"endpoint": party.endpoint, "stream": party.stream_endpoint})
    for message in requests:
        verb = message.pop("verb")
        answer(getattr(party, verb)(**message))
    os._exit(0)  # without waiting for threads and sockets


if __name__ == "__main__":
    serve()
