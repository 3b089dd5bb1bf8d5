"""`gpumpc bench WORKLOAD`: time and bytes of one workload, dealer included, as a table or one JSON
object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli.console import exit_on_error
from gpumpc.errors import ConfigError
from gpumpc.measure.over_a_link import measure_processes
from gpumpc.measure.workloads import N_ROWS, WORKLOADS, Case, N, case_of, open_workload, row_of
from gpumpc.params import Params


def bench(
    workload: Annotated[str, typer.Argument(help=" | ".join(WORKLOADS))],
    n: Annotated[
        int,
        typer.Option(
            min=0, help=f"Elements (relu, relu6, mul): {N:,}. Rows (retrieval): {N_ROWS:,}."
        ),
    ] = 0,
    batch_size: Annotated[
        int, typer.Option(min=0, help="Images, rows or queries a batch; 0: the usual number.")
    ] = 0,
    ring_bits: Annotated[int, typer.Option(help="Ring bits of a product.")] = 40,
    frac_bits: Annotated[int, typer.Option(help="Fraction bits.")] = 13,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs; medians are shown.")] = 3,
    backend: Annotated[
        str, typer.Option(help="numpy or numba; default: the fastest that is installed.")
    ] = "",
    net: Annotated[
        str,
        typer.Option(help="loopback, lan or wan: three real processes; without it three threads."),
    ] = "",
    in_flight: Annotated[
        int,
        typer.Option(min=0, help="With --net: time a stream of batches too, so many at a time."),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a workload with fresh randomness: dealer and both servers, as threads of this process
    or as processes.
    """
    with exit_on_error():
        chosen = backend or None
        if in_flight and not net:
            raise ConfigError(
                "--in-flight is for three processes",
                "there is no connection to share",
                "give --net as well",
            )
        case = case_of(workload, n, batch_size, Params(ring_bits=ring_bits, frac_bits=frac_bits))
        if net:
            row = measure_processes(case, runs, chosen, net, in_flight)
        else:
            row = measure(case, runs, chosen)
    if as_json:
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        _show(row)


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
        text = (
            f"{value:,}"
            if isinstance(value, int)
            else f"{value:.4g}"
            if isinstance(value, float)
            else str(value)
        )
        table.add_row(key, text)
    Console().print(table)
