"""Three real processes with a tiny network."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from gpumpc.errors import ConfigError, PeerLost
from gpumpc.roles.trial import Trial, network_named
from gpumpc.wire import relay
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
    monkeypatch.setattr("gpumpc.roles.trial.trial.NETWORKS", {"slow": relay.Shape(1e9, 0.1)})
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


def test_process_that_ends_is_named() -> None:
    compiled = tiny()
    with Trial(compiled.plan, compiled.weights, [images(1)]) as trial:
        os.kill(trial.pids["server0"], signal.SIGKILL)
        with pytest.raises(PeerLost, match="server0 of the trial has ended"):
            trial.run()


def test_unknown_network() -> None:
    with pytest.raises(ConfigError, match="no network 'moon'"):
        network_named("moon")
