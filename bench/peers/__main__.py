"""gpumpc against CrypTen and SPU: `python -m bench.peers --workloads relu --json rows.json`.

Every engine runs the same case, one run each in turn, after one run that warms it up. Operands are
shared before the clock starts, and results stay shared. The table says which peer did not run and
why; then the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from bench.machine import machine
from bench.peers import child_pipe
from bench.peers.engines import ENVIRONMENTS, Engine, EngineFailed, Measured, Peer, python_of
from bench.peers.ours import Ours, model_arrays
from bench.peers.peer_workloads import WORKLOADS, Array, Workload, draw, evaluate, save
from bench.peers.table import OURS, Row, add_ratios, failed_row, report_of, row_of, table_of
from bench.peers.wan import computed_row
from gpumpc.errors import GpumpcError
from gpumpc.measure import network_named
from gpumpc.params import Params

PEERS = ("crypten", "spu")
_SETTLE_S = 0.5


def case_arrays(work: Workload, seed: int) -> dict[str, Array]:
    """Everything a case consists of."""
    return draw(work, seed) | (model_arrays(work) if work.is_network else {})


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of running ours: ring, fraction bits, backend (empty: the fastest installed)."""

    ring_bits: int
    frac_bits: int
    backend: str = ""

    @classmethod
    def of(cls, text: str) -> Variant:
        """From `k:f` or `k:f:backend`. Raises ValueError."""
        k, f, *backend = text.split(":")
        return cls(int(k), int(f), *backend)

    def __str__(self) -> str:
        return f"{OURS} k={self.ring_bits} f={self.frac_bits} {self.backend}".rstrip()


def makers(
    work: Workload, arrays: dict[str, Array], options: argparse.Namespace, folder: Path
) -> dict[str, Callable[[], Engine]]:
    """By name, what starts each engine."""
    link = network_named(options.net)

    def peer(name: str) -> Engine:
        python = python_of(name, options.environments)
        own = folder / name
        own.mkdir()
        save(work, arrays, own / child_pipe.INPUTS)
        # CrypTen's parties exchange their addresses, so that no relay can lie between them.
        frac_bits, between = options.ours[0].frac_bits, link if name == "spu" else None
        return Peer(name, own, work.name, frac_bits, python, between)

    def ours(variant: Variant) -> Engine:
        params = Params(ring_bits=variant.ring_bits, frac_bits=variant.frac_bits)
        return Ours(work, arrays, params, options.net, variant.backend or None)

    found = {str(variant): partial(ours, variant) for variant in options.ours}
    return found | {name: partial(peer, name) for name in options.peers}


def measure(work: Workload, options: argparse.Namespace) -> list[Row]:
    """One workload on every engine that runs here."""
    arrays = case_arrays(work, options.seed)
    exact = evaluate(work, arrays)
    engines: dict[str, Engine] = {}
    faults: dict[str, str] = {}
    folders = tempfile.TemporaryDirectory(prefix="gpumpc-peers-")
    with folders as folder, contextlib.ExitStack() as ends:
        wanted = makers(work, arrays, options, Path(folder))
        for name, make in wanted.items():
            try:
                engines[name] = make()
                ends.callback(engines[name].stop)
                say(f"{work.name}: {name} warms up")
                engines[name].run()
            except (EngineFailed, GpumpcError) as error:
                faults[name] = str(error)
        runs = interleave(work, engines, faults, options.runs)
        return [
            failed_row(work, OURS if name.startswith(OURS) else name, faults[name])
            if name in faults
            else _row(work, name, engines[name], runs[name], exact, options)
            for name in wanted
        ]


def _row(
    work: Workload,
    name: str,
    engine: Engine,
    runs: Sequence[Measured],
    exact: Array,
    options: argparse.Namespace,
) -> Row:
    fields: Row = {"f": options.ours[0].frac_bits}
    if isinstance(engine, Ours):
        name, params = OURS, engine.params
        fields = {"f": params.frac_bits, "k": params.ring_bits, "backend": engine.backend}
    measured = row_of(work, name, runs, engine.rounds(), exact, fields, engine.extra)
    link = network_named(options.net)
    return computed_row(measured, link) if link and name == "crypten" else measured


def interleave(
    work: Workload, engines: dict[str, Engine], faults: dict[str, str], n: int
) -> dict[str, list[Measured]]:
    """n runs of each, in turn; an engine that fails takes no further part."""
    runs: dict[str, list[Measured]] = {name: [] for name in engines}
    for i in range(n):
        for name in [name for name in engines if name not in faults]:
            # The engine before it may still clean up, and its files may not be on the disk yet.
            os.sync()
            time.sleep(_SETTLE_S)
            try:
                runs[name].append(engines[name].run())
            except (EngineFailed, GpumpcError) as error:
                faults[name] = str(error)
                continue
            say(f"{work.name}: run {i + 1} of {n}: {name} {runs[name][-1].seconds_total:.3f} s")
    return runs


def say(line: str) -> None:
    """Show progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if an engine did not run."""
    about = "gpumpc against CrypTen (TTP) and SPU (SEMI2K)."
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=about)
    every = ",".join(WORKLOADS)
    parser.add_argument("--workloads", default=every, help=f"of {every}")
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers, separated by commas")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each engine")
    ours = "ours, k:f or k:f:backend (default 44:16); the first is compared, at the peers' f"
    parser.add_argument("--ours", type=Variant.of, action="append", metavar="K:F", help=ours)
    parser.add_argument("--net", default="loopback", help="loopback, lan or wan")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    made = "where bench.peers.setup put them"
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help=made)
    where = "write one JSON object, to stdout without FILE"
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help=where)
    options = parser.parse_args(arguments)
    options.peers = [name for name in options.peers.split(",") if name]
    options.ours = options.ours or [Variant(44, 16)]
    wanted = options.workloads.split(",")
    if unknown := sorted({*wanted} - {*WORKLOADS} | {*options.peers} - {*PEERS}):
        known = ", ".join((*WORKLOADS, *PEERS))
        parser.error(f"not known: {', '.join(unknown)}; there are {known}")
    rows: list[Row] = []
    for name in wanted:
        rows += measure(WORKLOADS[name], options)
        add_ratios(rows)
        measured_on = {**machine(), "net": options.net, "runs": options.runs}
        text = json.dumps(report_of(rows, measured_on), indent=1)
        if options.json and options.json != "-":
            # After each workload, so that an interrupted run leaves its rows.
            Path(options.json).write_text(text + "\n")
    if options.json == "-":
        print(text)
    else:
        title = f"{machine()['processor']}, one compute thread a process, {options.net}"
        title += f", medians of {options.runs}"
        Console(width=None if sys.stdout.isatty() else 140).print(table_of(rows, title))
    return int(any(entry.get("fault") for entry in rows))


if __name__ == "__main__":
    sys.exit(main())
