"""A workload for `gpumpc bench --net`: three processes, over loopback or a simulated link."""

from typing import Any

from gpumpc.errors import ConfigError
from gpumpc.measure import ProcessBenchmark, network_named
from gpumpc.measure.workloads import Case, row_of

# Enough that beginning and end do not count for much.
_STREAM_BATCHES = 8


def measure_processes(
    case: Case, runs: int, backend: str | None, network: str, in_flight: int = 0
) -> dict[str, Any]:
    """One row of figures: dealer, server 0 and server 1 as processes with one compute thread each.

    With `in_flight`, a stream of batches is timed as well, so many of them at a time.
    The links between the servers and from the dealer are the network's. One run before the timed
    ones is not counted.

    Raises ConfigError for an unknown network or backend, PeerLost with the last line of its log if
    a process ends.
    """
    link = network_named(network)
    with ProcessBenchmark(
        case.compiled, case.inputs, operator=case.operator, network=network, backend=backend
    ) as benchmark:
        if in_flight and benchmark.program.may_repeat:
            what = f"batches of '{case.workload}' run one at a time"
            why = "a batch whose selection fails is run again under the next number"
            raise ConfigError(what, why, "leave --in-flight away")
        benchmark.run()
        pairs = [(benchmark.run(), benchmark.run(dealt_before=True)) for _ in range(runs)]
        seconds = [(total.seconds, online.seconds) for total, online in pairs]
        peaks = {
            name: max(one.peak_memory_bytes[name] for one, _ in pairs)
            for name in pairs[0][0].peak_memory_bytes
        }
        row = row_of(case, benchmark.cost, seconds, pairs[-1][0].value)
        if in_flight:
            a_batch_s = benchmark.stream(_STREAM_BATCHES, in_flight) / _STREAM_BATCHES
            row |= {"in_flight": in_flight, "items_per_second_stream": case.n_items / a_batch_s}
        return row | {
            "backend": benchmark.backend.name,
            "n_threads": 1,
            "net": network,
            "net_bits_per_second": link.bits_per_second if link else None,
            "net_round_trip_seconds": link.round_trip_s if link else None,
            "opened_digests": [one.opened_digest for pair in pairs for one in pair],
            "peak_memory": {f"{name}_bytes": n_bytes for name, n_bytes in peaks.items()},
        }
