"""A workload for `gpumpc bench --net`: three processes, over loopback or a link with a rate and a delay."""

from __future__ import annotations

import statistics
from typing import Any

from gpumpc.cli.workloads import BATCH, case_of
from gpumpc.params import Params
from gpumpc.roles.trial import Trial, network_named

# Enough that beginning and end do not count for much.
_STREAM_BATCHES = 8


def measure_processes(
    workload: str, n: int, batch: int, params: Params, runs: int, backend: str | None, network: str, in_flight: int = 0
) -> dict[str, Any]:
    """One row of figures: dealer, server 0 and server 1 as processes with one compute thread each.

    With `in_flight`, a stream of batches is timed as well, so many of them at a time.
    The links between the servers and from the dealer are the network's. One run before the timed ones is not counted.

    Raises ConfigError for an unknown workload, network or backend, PeerLost with its last words if a process ends.
    """
    link = network_named(network)
    case = case_of(workload, n, batch, params)
    plan, weights = case.compiled.plan, case.compiled.weights
    with Trial(plan, weights, case.inputs, operator=case.operator, network=network, backend=backend) as trial:
        trial.run()
        pairs = [(trial.run(), trial.run(dealt_before=True)) for _ in range(runs)]
        cost, n_batch = trial.cost, batch or BATCH[workload]
        total, online = (statistics.median(one.seconds for one in column) for column in zip(*pairs, strict=True))
        stream_s = trial.stream(_STREAM_BATCHES, in_flight) / _STREAM_BATCHES if in_flight else 0.0
        peaks = {name: max(one.peak_memory_bytes[name] for one, _ in pairs) for name in pairs[0][0].peak_memory_bytes}
        return {
            "workload": workload,
            "batch": n_batch,
            "seconds_total": total,
            "seconds_online": online,
            "online_bytes": cost.online_bytes,
            "offline_bytes": cost.dealer_bytes,
            "rounds": cost.rounds,
            "backend": trial.backend.name,
            "k": params.k,
            "f": params.f,
            "n_threads": 1,
            "n_runs": runs,
            "seconds_total_fastest": min(one.seconds for one, _ in pairs),
            "seconds_online_fastest": min(one.seconds for _, one in pairs),
            "online_bytes_per_image": cost.online_bytes // n_batch,
            "offline_bytes_per_image": cost.dealer_bytes // n_batch,
            "items_per_second": case.n_items / total,
            "bounds": case.bounds,
            **case.errors(pairs[-1][0].value),
            **({"in_flight": in_flight, "items_per_second_stream": case.n_items / stream_s} if in_flight else {}),
            "net": network,
            "net_bits_per_second": link.bits_per_second if link else None,
            "net_round_trip_seconds": link.round_trip_s if link else None,
            "opened_digests": [one.opened_digest for pair in pairs for one in pair],
            "peak_memory": {f"{name}_bytes": n_bytes for name, n_bytes in peaks.items()},
        }
