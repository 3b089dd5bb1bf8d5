"""Ours beside CrypTen and SPU: `python -m bench.peers --workloads relu,lenet --runs 5 --json out.json`.

Every engine runs the same case, one run each in turn, after one run that warms it up; operands are shared before the clock
and results left shared. The table says which peer did not run and why. Exit status 1 if one did not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.machine import machine
from bench.peers import talk
from bench.peers.engines import ENVIRONMENTS, Engine, EngineFailed, Measured, Peer, python_of
from bench.peers.ours import Ours, model_arrays
from bench.peers.table import OURS, Row, add_ratios, failed_row, row_of, table_of
from bench.peers.wan import computed_row
from bench.peers.workloads import WORKLOADS, Array, Workload, draw, evaluate, save
from gpumpc.errors import GpumpcError
from gpumpc.params import Params
from gpumpc.roles.trial import network_named

PEERS = ("crypten", "spu")


def case_arrays(work: Workload, seed: int) -> dict[str, Array]:
    """Everything a case consists of."""
    return draw(work, seed) | (model_arrays(work) if work.is_network else {})


def measure(work: Workload, options: argparse.Namespace) -> list[Row]:
    """One workload on every engine that runs here."""
    arrays = case_arrays(work, options.seed)
    exact = evaluate(work, arrays)
    params = Params(k=options.k, f=options.f)
    link = network_named(options.net)
    with tempfile.TemporaryDirectory(prefix="gpumpc-peers-") as folder, contextlib.ExitStack() as ends:
        engines: dict[str, Engine] = {}
        faults: dict[str, str] = {}

        def start(name: str, make: Callable[[], Engine]) -> None:
            try:
                engines[name] = make()
                ends.callback(engines[name].stop)
                say(f"{work.name}: {name} warms up")
                engines[name].run()
            except (EngineFailed, GpumpcError) as error:
                engines.pop(name, None)
                faults[name] = str(error)

        start(OURS, lambda: Ours(work, arrays, params, options.net))
        for name in options.peers:
            # CrypTen's parties tell each other where they are: no relay can stand between them.
            through = link if name == "spu" else None

            def make(name: str = name, through: Any = through) -> Engine:
                python = python_of(name, options.environments)
                own = Path(folder) / name
                own.mkdir()
                save(work, arrays, own / talk.INPUTS)
                return Peer(name, own, work.name, options.f, python, through)

            start(name, make)
        runs = interleave(work, engines, faults, options.runs)
        rows = []
        for name in (OURS, *options.peers):
            if name in faults:
                rows.append(failed_row(work, name, faults[name]))
                continue
            engine = engines[name]
            fields: Row = {"f": params.f}
            if isinstance(engine, Ours):
                fields |= {"k": engine.params.k, "backend": engine.backend}
            measured = row_of(work, name, runs[name], engine.rounds(), exact, fields, engine.extra)
            rows.append(computed_row(measured, link) if link and name == "crypten" else measured)
    return rows


def interleave(work: Workload, engines: dict[str, Engine], faults: dict[str, str], n: int) -> dict[str, list[Measured]]:
    """n runs of each, in turn; an engine that fails is out."""
    runs: dict[str, list[Measured]] = {name: [] for name in engines}
    for i in range(n):
        for name in [*engines]:
            if name in faults:
                continue
            try:
                runs[name].append(engines[name].run())
            except (EngineFailed, GpumpcError) as error:
                faults[name] = str(error)
                continue
            say(f"{work.name}: run {i + 1} of {n}: {name} {runs[name][-1].seconds_total:.3f} s")
    return runs


def say(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if an engine did not run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description="gpumpc beside CrypTen (TTP) and SPU (SEMI2K)."
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers, separated by commas")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each engine")
    parser.add_argument("--k", type=int, default=44, help="ring bits of our products")
    parser.add_argument("--f", type=int, default=16, help="fraction bits, ours and theirs")
    parser.add_argument("--net", default="loopback", help="loopback, lan or wan")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where bench.peers.setup put them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to a file")
    options = parser.parse_args(arguments)
    options.peers = [name for name in options.peers.split(",") if name]
    wanted = options.workloads.split(",")
    if unknown := sorted({*wanted} - {*WORKLOADS} | {*options.peers} - {*PEERS}):
        parser.error(f"not known: {', '.join(unknown)}; there are {', '.join((*WORKLOADS, *PEERS))}")
    rows: list[Row] = []
    for name in wanted:
        rows += measure(WORKLOADS[name], options)
        add_ratios(rows)
        if options.json:
            report = {**machine(), "net": options.net, "runs": options.runs, "rows": rows}
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    title = f"{machine()['processor']}, one compute thread a process, {options.net}, medians of {options.runs}"
    Console(width=None if sys.stdout.isatty() else 140).print(table_of(rows, title))
    return int(any(entry.get("fault") for entry in rows))


if __name__ == "__main__":
    sys.exit(main())
