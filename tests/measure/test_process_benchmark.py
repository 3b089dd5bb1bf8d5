"""Three real processes with a tiny network."""

from __future__ import annotations

import os
import signal

import numpy as np
import numpy.typing as npt
import pytest

from gpumpc.errors import ConfigError, PeerLost, SelectionFailed
from gpumpc.local.compile import CompiledPlan, compile
from gpumpc.measure import Trial, network_named, relay
from gpumpc.measure import search_workload as nearest
from gpumpc.nn.graph import Concat, Graph, Input
from gpumpc.params import Params
from tests.processes.cluster import close, images, tiny


def test_loopback_total_and_online() -> None:
    compiled, x = tiny(), images(3)
    with Trial(compiled.plan, compiled.weights, [x]) as trial:
        runs = [trial.run(), trial.run(dealt_before=True), trial.run()]
        assert all(close(compiled, x, outcome.value) for outcome in runs)
        assert len({outcome.opened_digest for outcome in runs}) == 3
        assert all(outcome.seconds > 0 for outcome in runs)
        assert {*runs[0].peak_memory_bytes} == {"server0", "server1", "dealer"}
        assert all(n_bytes > 1 << 20 for n_bytes in runs[0].peak_memory_bytes.values())
        processes = [*trial.pids.values()]
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_link_delays_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "NETWORKS", {})
    monkeypatch.setattr(
        "gpumpc.measure.process_benchmark.NETWORKS", {"slow": relay.Shape(1e9, 0.1)}
    )
    compiled, x = tiny(), images(2)
    with Trial(compiled.plan, compiled.weights, [x], network="slow") as trial:
        trial.run()
        outcome = trial.run(dealt_before=True)
        assert close(compiled, x, outcome.value)
        # Both servers speak at once: each round waits one way.
        assert outcome.seconds >= trial.cost.rounds * 0.05
        assert all(min(link.passed_bytes) > 0 for link in trial._relays)


def test_product_of_two_operands() -> None:
    compiled = tiny()
    x, y = images(5)[..., 0], images(5, seed=9)[..., 0]
    with Trial(compiled.plan, compiled.weights, [x, y], operator="*") as trial:
        value = trial.run().value
    assert np.abs(value - x * y).max() < 3 * 2.0**-compiled.plan.params.f


def vectors() -> tuple[CompiledPlan, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A plan whose results are vectors, two queries, and 40 rows, some of them twice."""
    graph = Graph((Input("x", (), (6,), -1.0, 1.0), Concat("y", ("x",))))
    compiled = compile((graph, {}), name="vectors", params=Params())
    found = nearest.quantised(compiled.plan, np.random.default_rng(4).uniform(-1, 1, (42, 6)))
    found[20:25] = found[10:15]
    return compiled, found[:2], found[2:]


def test_search_of_rows_at_rest() -> None:
    compiled, queries, rows = vectors()
    with Trial(compiled.plan, compiled.weights, [queries, rows], operator="nearest") as trial:
        for dealt_before in (False, True):
            keys = trial.run(dealt_before).value
            assert nearest.differences(compiled.plan, queries, rows, keys) == (0.0, 0)


@pytest.mark.parametrize("dealt_before", [False, True])
def test_selection_that_fails_is_repeated_under_the_next_batch(dealt_before: bool) -> None:
    compiled, queries, rows = vectors()
    unlucky = "tests.measure.unlucky_party"
    with Trial(
        compiled.plan, compiled.weights, [queries, rows], operator="nearest", module=unlucky
    ) as trial:
        outcome = trial.run(dealt_before)
        assert nearest.differences(compiled.plan, queries, rows, outcome.value) == (0.0, 0)
        assert trial._next_batch == 3


def test_selection_that_never_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumpc.measure.process_benchmark.TRIES", 2)
    compiled, queries, rows = vectors()
    unlucky = "tests.measure.unlucky_party"
    with (
        Trial(
            compiled.plan, compiled.weights, [queries, rows], operator="nearest", module=unlucky
        ) as trial,
        pytest.raises(SelectionFailed, match="failed 2 times"),
    ):
        trial.run()


def test_process_that_ends_is_named() -> None:
    compiled = tiny()
    with Trial(compiled.plan, compiled.weights, [images(1)]) as trial:
        os.kill(trial.pids["server0"], signal.SIGKILL)
        with pytest.raises(PeerLost, match="server0 of the trial has ended"):
            trial.run()


def test_unknown_network() -> None:
    with pytest.raises(ConfigError, match="no network 'moon'"):
        network_named("moon")


def test_a_stream_of_batches_in_flight() -> None:
    """More batches than lanes; afterwards the connection serves single runs as before."""
    compiled, x = tiny(), images(3)
    with Trial(compiled.plan, compiled.weights, [x]) as trial:
        assert trial.stream(5, 2) > 0
        assert close(compiled, x, trial.run().value)
