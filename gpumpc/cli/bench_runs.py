"""How a workload is run for `gpumpc bench`: by three processes, over loopback or a link with a rate and a delay."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumpc.cost import Cost
from gpumpc.roles.compiled import CompiledPlan
from gpumpc.roles.trial import Trial, network_named


@dataclasses.dataclass(frozen=True)
class Runs:
    """What came of a workload's runs; `extra` is what only some ways of running it can tell."""

    seconds_total: float
    seconds_online: float
    value: npt.NDArray[np.float64]
    cost: Cost
    backend: str
    n_threads: int
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def by_processes(compiled: CompiledPlan, x: npt.NDArray[np.float64], network: str, runs: int = 1) -> Runs:
    """Dealer, server 0 and server 1 as processes with one compute thread each; after one run that warms them up.

    The links between the servers and from the dealer are the network's; medians where there are several runs.

    Raises ConfigError for an unknown network, PeerLost with its last words if a process ends.
    """
    link = network_named(network)
    with Trial(compiled.plan, compiled.weights, [x], network=network) as trial:
        trial.run()
        total = [trial.run() for _ in range(runs)]
        online = [trial.run(dealt_before=True) for _ in range(runs)]
        peaks = {name: max(o.peak_memory_bytes.get(name, 0) for o in total) for name in trial.pids}
        extra: dict[str, Any] = {
            "net": network,
            "net_bits_per_second": link.bits_per_second if link else None,
            "net_round_trip_seconds": link.round_trip_s if link else None,
            "opened_digests": [outcome.opened_digest for outcome in (*total, *online)],
            "peak_memory": {f"{name}_bytes": n_bytes for name, n_bytes in peaks.items()},
        }
        return Runs(
            statistics.median(outcome.seconds for outcome in total),
            statistics.median(outcome.seconds for outcome in online),
            total[-1].value,
            trial.cost,
            trial.backend.name,
            1,
            extra,
        )
