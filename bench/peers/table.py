"""From runs to rows and ratios, and the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from bench.peers.engines import Measured
from bench.peers.peer_workloads import Array, Workload
from bench.schema import row

OURS = "gpumpc"
NUMBERS = ("seconds total", "online", "times", "MB a party", "dealer MB", "rounds", "max error")
Row = dict[str, Any]


def row_of(
    work: Workload,
    engine: str,
    runs: Sequence[Measured],
    rounds: int | None,
    exact: Array,
    params: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> Row:
    """Medians of one engine's runs, in the schema.

    Raises ValueError if two runs opened the same first message.
    """
    digests = [run.opened_digest for run in runs]
    if len({*digests}) < len(digests):
        raise ValueError(f"{engine} used the same randomness in two runs of {work.name}")
    online = [run.seconds_online for run in runs if run.seconds_online is not None]
    offline, dealt = runs[0].offline_bytes, [run.offline_bytes or 0 for run in runs]
    return row(
        workload=work.name,
        engine=engine,
        batch_size=work.shape[0] if work.is_network else None,
        seconds_total=statistics.median(run.seconds_total for run in runs),
        seconds_total_runs=[run.seconds_total for run in runs],
        seconds_online=statistics.median(online) if online else None,
        online_bytes=int(statistics.median(run.online_bytes for run in runs)),
        offline_bytes=None if offline is None else int(statistics.median(dealt)),
        rounds=rounds,
        max_error=max(float(np.abs(run.output - exact).max()) for run in runs),
        items_per_second=work.items / statistics.median(run.seconds_total for run in runs),
        opened_digests=digests,
        opened_digest_note=runs[0].why_no_message or None,
        peak_memory=merged_peaks(run.peak_memory_bytes for run in runs),
        n_threads=1,
        **params,
        **extra,
    )


def merged_peaks(peaks: Any) -> dict[str, int]:
    """The largest of each process, as `<process>_bytes`."""
    merged: dict[str, int] = {}
    for one in peaks:
        for name, n_bytes in one.items():
            merged[f"{name}_bytes"] = max(n_bytes, merged.get(f"{name}_bytes", 0))
    return merged


def failed_row(work: Workload, engine: str, why: str) -> Row:
    """An engine that did not run, and why."""
    return row(workload=work.name, engine=engine, fault=why)


def add_ratios(rows: Sequence[Row]) -> None:
    """How many times faster our headline is than each peer, and each of ours than the best."""
    for work in {entry["workload"] for entry in rows}:
        ran = [entry for entry in rows if entry["workload"] == work and not entry.get("fault")]
        ours = [entry for entry in ran if entry["engine"] == OURS]
        peers = [entry for entry in ran if entry["engine"] != OURS]
        for peer in peers if ours else ():
            peer["gpumpc_is_faster"] = peer["seconds_total"] / ours[0]["seconds_total"]
        for entry in ours if peers else ():
            better = min(peers, key=lambda peer: peer["seconds_total"])
            entry["better_peer"] = better["engine"]
            entry["times_better_peer"] = better["seconds_total"] / entry["seconds_total"]


def report_of(rows: Sequence[Row], about: Mapping[str, Any]) -> Row:
    """All rows in one object of the schema, with the headline's ratios by workload, for figures."""
    ran = [entry for entry in rows if not entry.get("fault")]
    ours = {entry["workload"]: entry for entry in reversed(ran) if entry["engine"] == OURS}
    crypten = {entry["workload"]: entry for entry in ran if entry["engine"] == "crypten"}
    both = [(name, ours[name], crypten[name]) for name in ours if name in crypten]
    key = "times_better_peer"
    return row(
        **about,
        times={name: our[key] for name, our in ours.items() if key in our},
        times_crypten={n: their["seconds_total"] / our["seconds_total"] for n, our, their in both},
        times_crypten_online={
            name: their["seconds_total"] / our["seconds_online"] for name, our, their in both
        },
        error_over_crypten={
            name: our["max_error"] / their["max_error"]
            for name, our, their in both
            if their["max_error"]
        },
        rows=list(rows),
    )


def table_of(rows: Sequence[Row], title: str) -> Table:
    """All rows, ours with the ratio to the better peer, each peer's with the ratio to ours."""
    table = Table(title=title)
    table.add_column("workload")
    table.add_column("engine", overflow="fold")
    for name in NUMBERS:
        table.add_column(name, justify="right")
    before = ""
    for entry in rows:
        if before and entry["workload"] != before:
            table.add_section()
        table.add_row(entry["workload"] if entry["workload"] != before else "", *_cells(entry))
        before = entry["workload"]
    return table


def _cells(entry: Row) -> list[str]:
    if entry.get("fault"):
        return [f"{entry['engine']}: did not run: {entry['fault']}"]
    times = entry.get("times_better_peer") or entry.get("gpumpc_is_faster")
    ring = "" if entry["k"] is None else f" k={entry['k']}"
    computed = " (computed)" if entry.get("computed") else ""
    return [
        f"{entry['engine']}{ring} f={entry['f']}{computed}",
        _number(entry["seconds_total"], ".3f"),
        _number(entry["seconds_online"], ".3f"),
        "" if times is None else f"{times:.1f}",
        _number(entry["online_bytes"], ".1f", 1e6),
        _number(entry["offline_bytes"], ".1f", 1e6),
        _number(entry["rounds"], "d"),
        _number(entry.get("max_error"), ".2g"),
    ]


def _number(value: float | None, form: str, unit: float = 1) -> str:
    """A dash where there is none."""
    return "-" if value is None else format(value if form == "d" else value / unit, form)
