"""Part `networks`: whole networks as graph records, both servers and the dealer on the one device,
images a second.

Batches double until the memory or a minute is full. Weights and inputs are random ring elements.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.gpu.graphs import NETWORKS
from bench.gpu.parties import Engine, Parties, random_shares, random_weights
from bench.gpu.results import Results
from gpumpc.nn.graph import Graph
from gpumpc.params import Params
from gpumpc.program.lowering import compile_program
from gpumpc.ring.backend import as_backend
from gpumpc.ring.cupy_backend import CupyBackend

PARAMS = Params(ring_bits=40, frac_bits=13, cipher="chacha20")
LARGEST_BATCH = 256
Make = Callable[[], CupyBackend]


class Busy:
    """The share of time in which the device was busy, by nvidia-smi; None without it."""

    def __init__(self) -> None:
        self.share: float | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Sample while the body runs."""
        if shutil.which("nvidia-smi") is None:
            yield
            return
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "-lms", "100"]
        command.append("--format=csv,noheader,nounits")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield
            finally:
                process.terminate()
                samples = [int(line) for line in (process.stdout or "") if line.strip().isdigit()]
                self.share = sum(samples) / len(samples) / 100 if samples else None


def run(
    make: Make,
    results: Results,
    seconds_each: float = 60.0,
    graphs: dict[str, Callable[[], Graph]] | None = None,
) -> None:
    """Every network; `make` gives a backend of its own to each party."""
    for name, graph in (graphs or NETWORKS).items():
        batch_size, started, last = 1, time.monotonic(), 0.0
        # The next batch takes about twice as long as the last one.
        while batch_size <= LARGEST_BATCH and time.monotonic() - started + 2 * last < seconds_each:
            began = time.monotonic()
            try:
                _one(make, results, name, graph(), batch_size)
            except MemoryError as error:  # CuPy's error of a full device is one
                results.skip(f"{name} batch {batch_size}", f"does not fit: {type(error).__name__}")
                break
            batch_size, last = 2 * batch_size, time.monotonic() - began


def _one(make: Make, results: Results, name: str, graph: Graph, batch_size: int) -> None:
    program = compile_program(graph, PARAMS, batch_size)
    dealer, server_0, server_1 = (as_backend(make()) for _ in range(3))
    parties = Parties(dealer, (server_0, server_1))
    engine = Engine(program, random_weights(program, 1), parties)
    shares = random_shares(program, 2)
    engine.run(shares)  # compiles and loads the kernels
    busy = Busy()
    with busy.watched():
        done = engine.run(shares)
    total = done.seconds_dealing + done.seconds_online
    results.add(
        f"{name} batch {batch_size}",
        network=name,
        batch_size=batch_size,
        images_per_second=batch_size / done.seconds_online,
        images_per_second_with_dealing=batch_size / total,
        seconds_online=done.seconds_online,
        seconds_dealing=done.seconds_dealing,
        seconds_total=total,
        rounds=done.cost.rounds,
        online_bytes=max(done.cost.s0_bytes, done.cost.s1_bytes),
        offline_bytes=done.cost.dealer_bytes,
        k=PARAMS.ring_bits,
        f=PARAMS.frac_bits,
        gpu_busy_share=busy.share,
    )
