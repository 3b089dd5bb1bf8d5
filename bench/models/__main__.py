"""Which operators and networks run: `python -m bench.models --operators` or `--networks`.

Each model is checked in a process of its own, with limits of memory and time. Rows go to a file as
they come, and a run that is started again keeps those of the same revision. The networks come from
libraries in a folder that the project does not need otherwise:

    pip install --no-deps --target out/networks torchvision timm monai pyyaml huggingface_hub
    python -m bench.models --networks --libraries out/networks
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.machine import revision
from bench.models.library_networks import networks
from bench.models.model_check import check
from bench.models.operators import OPERATORS, Case
from gpumpc.params import Params

ROOT = Path(__file__).resolve().parent.parent.parent
COLUMNS = "outcome|compile s|MB|fixed error|shares error|shares s|rounds|MB online"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the chosen models; 1 if a result is wrong."""
    options = _options(arguments)
    sys.path += [str(folder.absolute()) for folder in options.libraries]
    kind = "networks" if options.networks else "operators"
    journal = options.out or ROOT / "out" / "models" / f"{kind}.jsonl"
    rows = _known(journal)
    for name in _cases(kind, options.size):
        chosen = not options.only or name in options.only
        if chosen and (name not in rows or options.again):
            rows[name] = _in_a_process(name, kind, options)
            _keep(journal, rows[name])
            print(f"{name}: {rows[name]['outcome']}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"revision": revision(), "rows": list(rows.values())}))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table_of(rows, kind))
    return int(any(row["outcome"] == "wrong" for row in rows.values()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description="Does it run?")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--operators", action="store_true", help="modules of one operator each")
    kinds.add_argument("--networks", action="store_true", help="networks by name")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these rows alone")
    parser.add_argument("--again", action="store_true", help="also those that have a row")
    parser.add_argument("--libraries", nargs="*", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--size", type=int, default=64, help="height and width of images")
    parser.add_argument("--seconds", type=float, default=300, help="limit of one model")
    parser.add_argument("--gigabytes", type=float, default=12, help="limit of one model")
    parser.add_argument("--out", type=Path, help="the file of rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


def _cases(kind: str, size: int) -> dict[str, Case]:
    return networks(size) if kind == "networks" else OPERATORS


def _check(name: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Check one model within the limits of this process, which is a child."""
    warnings.simplefilter("ignore")  # the libraries' own
    n_bytes = int(options.gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))
    found = _cases(kind, options.size)[name]
    if kind == "networks":
        return check(found, Params(ring_bits=62, frac_bits=18), calibrated=True)
    return check(found, Params(ring_bits=56, frac_bits=16), calibrated=False)


def _in_a_process(name: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one model, also where its process fails or is stopped."""
    # A fork has torch imported already; nothing here has started its threads.
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_answer, args=(sender, name, kind, options))
    child.start()
    sender.close()
    about = {"model": name, "revision": revision(), "size": options.size}
    try:
        if not receiver.poll(options.seconds):
            why = f"it took more than {options.seconds:g} seconds"
            return about | {"outcome": "stopped", "refusal": why}
        found: dict[str, Any] = json.loads(receiver.recv_bytes())
        return about | found
    except EOFError:
        return about | {"outcome": "stopped", "refusal": "its process ended without an answer"}
    finally:
        child.kill()
        child.join()


def _answer(sender: Connection, name: str, kind: str, options: argparse.Namespace) -> None:
    try:
        found = _check(name, kind, options)
    except Exception as error:  # any fault of a model or of a library is its row's
        reason = str(error).partition("\n")[0]
        found = {"outcome": "failed", "refusal": f"{type(error).__name__}: {reason}"}
    sender.send_bytes(json.dumps(found).encode())


def _known(journal: Path) -> dict[str, dict[str, Any]]:
    """Rows of this revision, by name; the last of each counts."""
    if not journal.exists():
        return {}
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    return {row["model"]: row for row in rows if row["revision"] == revision()}


def _keep(journal: Path, row: dict[str, Any]) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def table_of(rows: dict[str, dict[str, Any]], kind: str) -> Table:
    """Every model with what was measured, and a refusal's first line."""
    runs = sum(row["outcome"] == "runs" for row in rows.values())
    table = Table(kind, *COLUMNS.split("|"), "refusal", title=f"{runs} of {len(rows)} run")
    for name, row in rows.items():
        refusal = row.get("refusal", "").partition(" What to do: ")[0]
        table.add_row(name, *cells(row), refusal)
    return table


def cells(row: dict[str, Any]) -> list[str]:
    """One row's figures as texts; a dash where nothing was measured."""
    formats = (
        ("seconds_compile", 1, ".1f"),
        ("peak_memory_bytes", 1e6, ".0f"),
        ("error_fixed", 1, ".1e"),
        ("error_shares", 1, ".1e"),
        ("seconds_total", 1, ".2f"),
        ("rounds", 1, ".0f"),
        ("online_bytes", 1e6, ".3f"),
    )
    found = (format(row[key] / unit, form) if key in row else "-" for key, unit, form in formats)
    return [row["outcome"], *found]


if __name__ == "__main__":
    sys.exit(main())
