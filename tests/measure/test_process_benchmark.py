"""Three real processes with a tiny network."""

import os
import signal
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpumpc.errors import ConfigError, PeerLost, SelectionFailed
from gpumpc.local.compile import Plan, compile
from gpumpc.measure import ProcessBenchmark, network_named, relay, search_workload
from gpumpc.nn.graph import Concat, Graph, Input
from gpumpc.params import Params
from tests.processes.cluster import close, images, tiny


def test_benchmark_times_total_and_online_runs() -> None:
    compiled, x = tiny(), images(3)
    with ProcessBenchmark(compiled, [x]) as benchmark:
        runs = [benchmark.run(), benchmark.run(dealt_before=True), benchmark.run()]
        assert all(close(compiled, x, outcome.value) for outcome in runs)
        assert len({outcome.opened_digest for outcome in runs}) == 3
        assert all(outcome.seconds > 0 for outcome in runs)
        assert {*runs[0].peak_memory_bytes} == {"server0", "server1", "dealer"}
        assert all(n_bytes > 1 << 20 for n_bytes in runs[0].peak_memory_bytes.values())
        processes = [*benchmark.pids.values()]
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_link_delays_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "NETWORKS", {})
    slow = {"slow": relay.Shape(1e9, 0.1)}
    monkeypatch.setattr("gpumpc.measure.process_benchmark.NETWORKS", slow)
    compiled, x = tiny(), images(2)
    with ProcessBenchmark(compiled, [x], network="slow") as benchmark:
        benchmark.run()
        outcome = benchmark.run(dealt_before=True)
        assert close(compiled, x, outcome.value)
        # Both servers speak at once: each round waits one way.
        assert outcome.seconds >= benchmark.cost.rounds * 0.05
        assert all(min(link.passed_bytes) > 0 for link in benchmark._relays)


def test_benchmark_multiplies_two_operands() -> None:
    compiled = tiny()
    x, y = images(5)[..., 0], images(5, seed=9)[..., 0]
    with ProcessBenchmark(compiled, [x, y], operator="*") as benchmark:
        value = benchmark.run().value
    assert np.abs(value - x * y).max() < 3 * 2.0**-compiled.record.params.frac_bits


def vectors() -> tuple[Plan, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A plan whose results are vectors, two queries, and 40 rows, some of them twice."""
    graph = Graph((Input("x", (), (6,), -1.0, 1.0), Concat("y", ("x",))))
    compiled = compile((graph, {}), name="vectors", params=Params())
    numbers = np.random.default_rng(4).uniform(-1, 1, (42, 6))
    found = search_workload.quantised(compiled.record, numbers)
    found[20:25] = found[10:15]
    return compiled, found[:2], found[2:]


def test_benchmark_searches_stored_rows() -> None:
    compiled, queries, rows = vectors()
    with ProcessBenchmark(compiled, [queries, rows], operator="nearest") as benchmark:
        for dealt_before in (False, True):
            keys = benchmark.run(dealt_before).value
            assert search_workload.differences(compiled.record, queries, rows, keys) == (0.0, 0)


UNLUCKY: Any = {"operator": "nearest", "module": "tests.measure.unlucky_party"}


@pytest.mark.parametrize("dealt_before", [False, True])
def test_failed_selection_is_retried_with_the_next_batch(dealt_before: bool) -> None:
    compiled, queries, rows = vectors()
    with ProcessBenchmark(compiled, [queries, rows], **UNLUCKY) as benchmark:
        keys = benchmark.run(dealt_before).value
        assert search_workload.differences(compiled.record, queries, rows, keys) == (0.0, 0)
        assert benchmark._next_batch == 3


def test_selection_gives_up_after_its_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumpc.measure.process_benchmark.TRIES", 2)
    compiled, queries, rows = vectors()
    failed = pytest.raises(SelectionFailed, match="failed 2 times")
    with ProcessBenchmark(compiled, [queries, rows], **UNLUCKY) as benchmark, failed:
        benchmark.run()


def test_process_that_ends_is_named() -> None:
    compiled = tiny()
    with ProcessBenchmark(compiled, [images(1)]) as benchmark:
        os.kill(benchmark.pids["server0"], signal.SIGKILL)
        with pytest.raises(PeerLost, match="server0 of the benchmark has ended"):
            benchmark.run()


def test_unknown_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="no network 'moon'"):
        network_named("moon")


def test_benchmark_runs_batches_in_flight() -> None:
    """More batches than lanes; afterwards the connection serves single runs as before."""
    compiled, x = tiny(), images(3)
    with ProcessBenchmark(compiled, [x]) as benchmark:
        assert benchmark.stream(5, 2) > 0
        assert close(compiled, x, benchmark.run().value)
