"""A network over a simulated link: `python -m bench.networks --net wan --workload lenet
--batch-size 32 --json`.

Three real processes; what the servers say to each other and what the dealer sends passes a relay
that keeps the link's rate and delay. Prints seconds with the dealer on the same link and without,
rounds, bytes, and the peak memory of each process.
"""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.command import command_line, show
from bench.machine import machine
from bench.schema import row
from gpumpc.errors import GpumpcError
from gpumpc.measure.over_a_link import measure_processes
from gpumpc.measure.relay import NETWORKS
from gpumpc.measure.workloads import case_of
from gpumpc.params import Params

BATCH = {"lenet": 32, "vgg": 8, "lite0": 16, "resnet18": 4, "retrieval": 1}


def measure(workload: str, batch_size: int, net: str, params: Params, runs: int) -> dict[str, Any]:
    """One row. Raises GpumpcError."""
    measured = measure_processes(case_of(workload, 0, batch_size, params), runs, None, net)
    link = floor(measured["rounds"], measured["online_bytes"], measured["offline_bytes"], net)
    return row(**measured, **link, machine=machine())


def floor(rounds: int, online_bytes: int, dealer_bytes: int, net: str) -> dict[str, float | None]:
    """Seconds of the link alone: each round waits one way; bytes pass at the link's rate."""
    link = NETWORKS[net]
    if link is None:
        return {"link_seconds_online": None, "link_seconds_dealer": None}
    rate = link.bits_per_second / 8
    return {
        "link_seconds_online": rounds * link.round_trip_s / 2 + online_bytes / rate,
        "link_seconds_dealer": link.round_trip_s / 2 + dealer_bytes / rate,
    }


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Seconds and rounds, beside what the link alone takes."""
    titles = "workload|batch_size|net|total|online|link, online|link, dealer|rounds|MB|dealer MB"
    peak = "peak MB: dealer, S0, S1"
    table = Table(*titles.split("|"), peak, title="Seconds over simulated links")
    for entry in rows:
        parties = ("dealer", "server0", "server1")
        peaks = (f"{entry['peak_memory'][f'{name}_bytes'] / 1e6:.0f}" for name in parties)
        seconds = ("seconds_total", "seconds_online", "link_seconds_online", "link_seconds_dealer")
        table.add_row(
            entry["workload"],
            str(entry["batch_size"]),
            entry["net"],
            *("-" if entry[name] is None else f"{entry[name]:.3f}" for name in seconds),
            str(entry["rounds"]),
            f"{entry['online_bytes'] / 1e6:.1f}",
            f"{entry['offline_bytes'] / 1e6:.1f}",
            ", ".join(peaks),
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 with the reason if it cannot be."""
    parser = command_line("networks", "Networks over simulated links.")
    parser.add_argument("--net", default="wan", choices=[*NETWORKS], help="the link")
    parser.add_argument("--workload", default="lenet", choices=[*BATCH])
    parser.add_argument("--batch-size", type=int, default=0, help="images; 0: the usual number")
    parser.add_argument("--ring-bits", type=int, default=40, help="ring bits of a product")
    parser.add_argument("--frac-bits", type=int, default=13, help="fraction bits")
    parser.add_argument("--runs", type=int, default=3, help="timed runs; the median counts")
    options = parser.parse_args(arguments)
    workload, params = options.workload, Params(options.ring_bits, options.frac_bits)
    batch_size = options.batch_size or BATCH[workload]
    try:
        measured = measure(workload, batch_size, options.net, params, options.runs)
    except GpumpcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json:
        show(measured, True)
    else:
        Console(width=None if sys.stdout.isatty() else 140).print(table_of([measured]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
