"""Where does the time of a network go? `python -m bench.explain --workload vgg --json`.

Prints the floor and the measured time of each layer. The floor is the time of the layer's work at
rates measured in the same run with one thread: ring multiply-adds at the rate of a large product,
uniform bytes at the rate of the generator, bytes packed, sent and read at the rate of a copy, and
rounds at the time of an empty exchange between two threads. Time above the floor goes to passes
over memory, to small shapes, and to one server waiting for the other.
"""

import dataclasses
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.command import command_line, show
from bench.schema import row
from gpumpc.local import named_networks as models
from gpumpc.local.compile import Plan
from gpumpc.local.simulation import LocalSession
from gpumpc.measure.workloads import BATCH
from gpumpc.offline import deal_batch as dealer
from gpumpc.offline import seeds
from gpumpc.program.compiler import program_of
from gpumpc.program.program import Program
from gpumpc.protocols import linear
from gpumpc.protocols.step import Step
from gpumpc.ring.backend import Backend, n_lanes
from gpumpc.ring.prg import word_bytes
from gpumpc.wire.channel import memory_pair

RUNS = 3
_RATE_SIDE = 768
_RATE_BYTES = 1 << 25


@dataclasses.dataclass
class Layer:
    """Work of one layer and its time: one server's, and the dealer's."""

    madds: float = 0.0
    dealer_madds: float = 0.0
    uniform: float = 0.0
    dealer_uniform: float = 0.0
    online_bytes: int = 0
    dealer_bytes: int = 0
    rounds: int = 0
    seconds: float = 0.0
    dealer_seconds: float = 0.0
    floor: float = 0.0
    dealer_floor: float = 0.0


@dataclasses.dataclass(frozen=True)
class Rates:
    """Per second, one thread; seconds of an empty exchange."""

    madds: float
    uniform: float
    copied: float
    exchange: float


# Operations that draw a mask for the words they are given: (words, cipher, key, bits, ..).
_MASKING = ("add_uniform", "pack_masked", "mask_and_pack", "draw_and_pack")


class _Counting:
    """A backend that adds up the uniform bytes it is asked for."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self.uniform = backend, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)
        if name in ("expand_words", "expand_lanes", "xor_uniform", *_MASKING):
            return lambda *arguments: self._counted(name, method, arguments)
        return method

    def _counted(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        match name:
            case "expand_words":
                self.uniform += math.prod(arguments[2]) * word_bytes(arguments[3])
            case "expand_lanes":
                self.uniform += 8 * arguments[2] * n_lanes(arguments[3])
            case "xor_uniform":
                self.uniform += 8 * arguments[0].size
            case _:
                self.uniform += arguments[0].size * word_bytes(arguments[3])
        return method(*arguments)


@dataclasses.dataclass(frozen=True)
class _Timed(Program):
    """A program that notes how long each step of a run took, and the uniform bytes that it drew."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    uniform: dict[str, int] = dataclasses.field(default_factory=dict)
    counting: Any = None

    def _walk(self, values: dict[str, Any]) -> Iterator[Step]:
        for step in super()._walk(values):
            start, before = time.perf_counter(), self.counting.uniform if self.counting else 0
            yield step
            self.seconds[step.name] = time.perf_counter() - start
            if self.counting:
                self.uniform[step.name] = self.counting.uniform - before


def measured_rates(backend: Backend) -> Rates:
    """What this machine does now, with one thread."""
    side = _RATE_SIDE
    x, w = (
        backend.operand(backend.expand_words("aes128ctr", bytes([i]) * 32, (side, side), 40), 40)
        for i in (1, 2)
    )
    words: Any = backend.zeros((_RATE_BYTES // 8,))
    multiply = _fastest(lambda: backend.matmul(x, w, 40))
    shape = (_RATE_BYTES // 8,)
    expand = _fastest(lambda: backend.expand_words("aes128ctr", bytes(32), shape, 40))
    copy = _fastest(lambda: words + 0)
    uniform = shape[0] * word_bytes(40) / expand
    return Rates(side**3 / multiply, uniform, _RATE_BYTES / copy, _exchange_seconds())


def _fastest(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _exchange_seconds(n: int = 300) -> float:
    """A round between two threads over the in-memory channel, with nothing in it."""
    ends = memory_pair()

    def end(party: int) -> None:
        ends[party].begin(bytes(16), 1)
        for _ in range(n):
            ends[party].exchange([b"\0" * 8])

    other = threading.Thread(target=end, args=(1,))
    start = time.perf_counter()
    other.start()
    end(0)
    other.join()
    return (time.perf_counter() - start) / n


def layer_of(step: Step) -> str:
    """`conv/open` and `conv/product` belong to `conv`."""
    return step.name.split("/")[0]


def multiply_adds(step: Step, program: Program) -> int:
    """Of one ring product of this step; 0 for all others."""
    if not isinstance(step, linear.PrivateProduct):
        return 0
    shape = program.weights[step.layer].shape
    return math.prod(step.out_shape) * math.prod(shape[:-1])


def explain(compiled: Plan, batch_size: int, rates: Rates, runs: int = RUNS) -> dict[str, Layer]:
    """Every layer of a network, dealt first, then run, on three threads; medians of the runs."""
    source = compiled.record.graph.input
    x = models.sample_inputs((batch_size, *source.shape), source.low, source.high)
    with compiled.simulate(batch_size) as session:
        shared = session.share(x)
        session.run(shared)  # masks of weights, plans of trees: not counted
        online, dealt = [], []
        for _ in range(runs):
            dealt.append(_deal(session, session.backend)[0])
            session.deal_ahead(1)
            online.append(_run(session, shared))
        counting = _Counting(session.backend)
        uniform = _count(session, shared, counting)
        dealer_uniform = _deal(session, counting)[1]
        layers: dict[str, Layer] = {}
        for step in session.program.steps:
            layer = layers.setdefault(layer_of(step), Layer())
            madds = multiply_adds(step, session.program)
            layer.madds += 2 * madds  # E o W_p, and A_p o F before
            layer.dealer_madds += madds  # A o Bm
            layer.uniform += uniform.get(step.name, 0)
            layer.dealer_uniform += dealer_uniform.get(step.name, 0)
            layer.online_bytes += step.cost.online_bytes
            layer.dealer_bytes += step.cost.dealer_bytes
            layer.rounds += step.cost.rounds
            layer.seconds += statistics.median(times.get(step.name, 0.0) for times in online)
            layer.dealer_seconds += statistics.median(times.get(step.name, 0.0) for times in dealt)
    for layer in layers.values():
        layer.floor = layer.madds / rates.madds + layer.uniform / rates.uniform
        # Sent and received, packed and read; the dealer's bytes are read by server 1.
        layer.floor += (2 * layer.online_bytes + layer.dealer_bytes) / rates.copied
        layer.floor += layer.rounds * rates.exchange
        layer.dealer_floor = layer.dealer_madds / rates.madds + layer.dealer_uniform / rates.uniform
        layer.dealer_floor += layer.dealer_bytes / rates.copied
    return layers


def _fields(program: Program) -> dict[str, Any]:
    return {field.name: getattr(program, field.name) for field in dataclasses.fields(Program)}


def _run(session: LocalSession, shared: Any) -> dict[str, float]:
    """Seconds of each step at server 0."""
    engine, program = session._engines[0], session.program
    timed = _Timed(**_fields(program))
    engine.program = timed
    try:
        session.run(shared)
    finally:
        engine.program = program
    return dict(timed.seconds)


def _count(session: LocalSession, shared: Any, counting: _Counting) -> dict[str, int]:
    """Uniform bytes of each step at server 0, in a run of its own."""
    engine, program, backend = session._engines[0], session.program, session.backend
    timed = _Timed(**_fields(program), counting=counting)
    engine.program, engine.backend = timed, counting
    try:
        session.run(shared)
    finally:
        engine.program, engine.backend = program, backend
    return dict(timed.uniform)


def _deal(session: LocalSession, backend: Any) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and uniform bytes of each step at the dealer, under names that no run uses."""
    program, session_id = session.program, bytes(range(16))
    trees = tuple(seeds.SeedTree(root.expose(), session_id, 0) for root in session._roots)
    masks = session._dealer._weight_masks(session._engines[0].weight_sharing_id)
    dealing = dealer.Dealing(
        backend, program.params.cipher, (trees[0], trees[1]), masks, lambda correction: None
    )
    steps = [_TimedDeal(step) for step in program.steps]
    dealer.deal_batch(steps, dealing)
    return {step.name: step.seconds for step in steps}, {step.name: step.uniform for step in steps}


class _TimedDeal:
    """A step that notes what dealing it took."""

    def __init__(self, step: dealer.Dealable) -> None:
        self._step, self.seconds, self.uniform = step, 0.0, 0
        self.name, self.inputs = step.name, step.inputs
        self.output, self.dealer_bytes = step.output, step.dealer_bytes

    def deal(self, dealing: dealer.Dealing, *masks: Any) -> Any:
        """As the step's."""
        start, before = time.perf_counter(), getattr(dealing.backend, "uniform", 0)
        mask = self._step.deal(dealing, *masks)
        self.seconds = time.perf_counter() - start
        self.uniform = getattr(dealing.backend, "uniform", 0) - before
        return mask


def total(layers: dict[str, Layer]) -> Layer:
    """All layers added up."""
    summed = Layer()
    for layer in layers.values():
        for field in dataclasses.fields(Layer):
            setattr(summed, field.name, getattr(summed, field.name) + getattr(layer, field.name))
    return summed


def growth(compiled: Plan, batches: Sequence[int]) -> list[tuple[int, float]]:
    """(batch, seconds an image), the dealer beside."""
    found = []
    for batch_size in batches:
        source = compiled.record.graph.input
        x = models.sample_inputs((batch_size, *source.shape), source.low, source.high)
        with compiled.simulate(batch_size) as session:
            shared = session.share(x)
            session.run(shared)
            start = time.perf_counter()
            session.run(shared)
            found.append((batch_size, (time.perf_counter() - start) / batch_size))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one workload, with --json as one object."""
    parser = command_line("explain", "Floor and measured time.")
    parser.add_argument("--workload", choices=("lenet", "vgg", "lite0"), default="vgg")
    parser.add_argument("--batch-size", type=int, default=0)
    options = parser.parse_args(arguments)
    compiled = models.compile_named(options.workload)
    batch_size = options.batch_size or BATCH[options.workload]
    with compiled.simulate(1) as session:
        rates = measured_rates(session.backend)
        name = session.backend.name
    layers = explain(compiled, batch_size, rates)
    summed, cost = total(layers), program_of(compiled.record, batch_size).cost
    for layer, found in layers.items():
        print(f"{layer:32} {1e3 * found.floor:8.2f} {1e3 * found.seconds:8.2f} ms", file=sys.stderr)
    measured = row(
        workload=options.workload,
        batch_size=batch_size,
        seconds_total=summed.seconds + summed.dealer_seconds,
        seconds_online=summed.seconds,
        seconds_floor=summed.floor,
        seconds_dealer=summed.dealer_seconds,
        seconds_dealer_floor=summed.dealer_floor,
        online_bytes=cost.online_bytes,
        offline_bytes=cost.dealer_bytes,
        rounds=cost.rounds,
        backend=name,
        k=compiled.record.params.ring_bits,
        f=compiled.record.params.frac_bits,
        n_threads=1,
        rates=dataclasses.asdict(rates),
        layers={key: dataclasses.asdict(layer) for key, layer in layers.items()},
    )
    show(measured, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
