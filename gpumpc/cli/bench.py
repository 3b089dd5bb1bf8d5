"""`gpumpc bench WORKLOAD`: time and bytes of one workload, dealer included, as a table or one JSON object."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli import models
from gpumpc.cli.bench_runs import Runs, by_processes
from gpumpc.cli.told import told
from gpumpc.nn.graph import Clamp, ReLU
from gpumpc.nn.plan import make_plan
from gpumpc.params import Params
from gpumpc.roles.compiled import CompiledPlan

WORKLOADS = ("relu", "relu6", "lenet", "vgg", "lite0")
BATCH = {"relu": 1, "relu6": 1, "lenet": 32, "vgg": 8, "lite0": 8}


def bench(
    workload: Annotated[str, typer.Argument(help=" | ".join(WORKLOADS))],
    n: Annotated[int, typer.Option(min=1, help="Elements (relu, relu6).")] = 1_000_000,
    batch: Annotated[int, typer.Option(min=0, help="Images a batch; 0: the usual one.")] = 0,
    k: Annotated[int, typer.Option(help="Ring bits of a product.")] = 40,
    f: Annotated[int, typer.Option(help="Fraction bits.")] = 13,
    net: Annotated[str, typer.Option(help="loopback, lan or wan: three real processes; without it three threads.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a workload with fresh randomness: dealer and both servers, as threads of this process or as processes."""
    with told():
        row = measure(workload, n, batch, k, f, net)
    if as_json:
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        _show(row)


def measure(workload: str, n: int, batch: int, k: int, f: int, net: str = "") -> dict[str, Any]:
    """One row of figures. Raises ConfigError for an unknown workload or network."""
    compiled = _compiled(models.one_of(workload, *WORKLOADS), n, k, f)
    batch = batch or BATCH[workload]
    source = compiled.plan.graph.input
    x = models.sample_inputs((batch, *source.shape), source.low, source.high)
    runs = by_processes(compiled, x, net) if net else _by_threads(compiled, x)
    error = np.abs(runs.value - compiled(x, "float"))
    cost = runs.cost
    return {
        "workload": workload,
        "batch": batch,
        "seconds_total": runs.seconds_total,
        "seconds_online": runs.seconds_online,
        "online_bytes": cost.online_bytes,
        "offline_bytes": cost.dealer_bytes,
        "rounds": cost.rounds,
        "backend": runs.backend,
        "k": k,
        "f": f,
        "n_threads": runs.n_threads,
        "online_bytes_per_image": cost.online_bytes // batch,
        "offline_bytes_per_image": cost.dealer_bytes // batch,
        "items_per_second": batch * (n if workload in ("relu", "relu6") else 1) / runs.seconds_total,
        "bounds": compiled.plan.bounds,
        "max_error": float(error.max()),
        **runs.extra,
    }


def _by_threads(compiled: CompiledPlan, x: npt.NDArray[np.float64]) -> Runs:
    with compiled.session(len(x)) as session:
        shared = session.share(x)
        # From the first dealt byte with an empty pool to output shares.
        seconds_total = _timed(lambda: session.run(shared))
        session.deal_ahead(1)
        result: list[Any] = []
        seconds_online = _timed(lambda: result.append(session.run(shared)))
        n_threads = int(os.environ.get("OPENBLAS_NUM_THREADS", os.cpu_count() or 1))
        value, backend = result[0].reveal(), session.backend.name
        return Runs(seconds_total, seconds_online, value, session.program.cost, backend, n_threads)


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _compiled(workload: str, n: int, k: int, f: int) -> CompiledPlan:
    if workload in ("lite0", "lenet", "vgg"):
        return models.compile_named(workload, k=k, f=f)
    layer = ReLU("y", ("x",)) if workload == "relu" else Clamp("y", ("x",), 6.0)
    # Inputs over half the range a truncated product may span.
    graph, weights = models.elementwise(layer, n, 2.0 ** (k - 2 * f - 2))
    # No output_bits: the result is lifted to k, as inside a network.
    return CompiledPlan(*make_plan(workload, graph, weights, Params(k=k, f=f)))


def _show(row: dict[str, Any]) -> None:
    table = Table("figure", "measured")
    for key, value in row.items():
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(key, text)
    Console().print(table)
