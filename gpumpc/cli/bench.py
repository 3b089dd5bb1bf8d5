"""`gpumpc bench WORKLOAD`: time and bytes of one workload, dealer included."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli.console import exit_on_error, output
from gpumpc.errors import ConfigError
from gpumpc.measure.over_a_link import measure_processes
from gpumpc.measure.workloads import N_ROWS, WORKLOADS, Case, N, case_of, open_workload, row_of
from gpumpc.params import Params


def bench(
    workload: Annotated[str, typer.Argument(help=" | ".join(WORKLOADS))],
    n: Annotated[int, typer.Option(min=0, help=f"Elements ({N:,}) or rows ({N_ROWS:,}).")] = 0,
    batch_size: Annotated[int, typer.Option(min=0, help="Items a batch; 0: the usual count.")] = 0,
    ring_bits: Annotated[int, typer.Option(help="Ring bits of a product.")] = 40,
    frac_bits: Annotated[int, typer.Option(help="Fraction bits.")] = 13,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs; medians are shown.")] = 3,
    backend: Annotated[str, typer.Option(help="numpy or numba; the fastest unless given.")] = "",
    net: Annotated[str, typer.Option(help="lan, wan or loopback: processes, not threads.")] = "",
    in_flight: Annotated[
        int, typer.Option(min=0, help="With --net: also time batches, so many at a time.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a workload with fresh randomness, in threads of this process or in processes."""
    with exit_on_error():
        chosen = backend or None
        if in_flight and not net:
            raise ConfigError(
                "--in-flight is for three processes", "threads share no connection", "give --net"
            )
        case = case_of(workload, n, batch_size, Params(ring_bits=ring_bits, frac_bits=frac_bits))
        if net:
            row = measure_processes(case, runs, chosen, net, in_flight)
        else:
            row = measure(case, runs, chosen)
    output(row, as_json, _show)


def measure(case: Case, runs: int, backend: str | None) -> dict[str, Any]:
    """One row of figures. Raises ConfigError for an unknown backend.

    One run before the timed ones is not counted: it makes plans and masks that every later batch
    uses again.
    """
    measured = open_workload(case, backend)
    with measured.session as session:
        measured.runner.total()
        # In turn, so that what else the machine does meets both alike.
        seconds = [(measured.runner.total(), measured.runner.online()) for _ in range(runs)]
        n_threads = int(os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count() or 1))
        row = row_of(case, measured.cost, seconds, measured.runner.result.reveal())
        return row | {"backend": session.backend.name, "n_threads": n_threads}


def _show(row: dict[str, Any]) -> None:
    table = Table("figure", "measured")
    for key, value in row.items():
        spec = "," if isinstance(value, int) else ".4g" if isinstance(value, float) else ""
        table.add_row(key, format(value, spec))
    Console().print(table)
