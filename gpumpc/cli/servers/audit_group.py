"""`gpumpc audit`: the log in which a server keeps what both servers signed of every job."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpumpc.cli.console import exit_on_error
from gpumpc.errors import WrongStatement

if TYPE_CHECKING:
    from gpumpc.messages import Entry

app = typer.Typer(name="audit", help="What both servers signed of jobs.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """What both servers signed of jobs, for a server's operator or whom it gives a copy."""


@app.command("log")
def log_(
    state: Annotated[Path, typer.Argument(help="A server's state folder, or a copy.")],
    card: Annotated[list[Path], typer.Option(help="A server's card.toml; once for each server.")],
    last: Annotated[int, typer.Option(min=0, help="How many records are shown.")] = 20,
) -> None:
    """Show the last records, and check all: signatures, the chain, what arrived as it was sent."""
    from gpumpc.deploy.keys import load_card
    from gpumpc.server.audit.check import LogCheck

    with exit_on_error():
        check = LogCheck(state / "audit", [load_card(path) for path in card])
        shown: collections.deque[Entry] = collections.deque(maxlen=last)
        n_records = 0
        for n_records, entry in enumerate(check.entries(), 1):  # noqa: B007  read after the loop
            shown.append(entry)
        for entry in shown:
            typer.echo(_row(entry))
        for finding in check.findings:
            typer.echo(finding)
        if check.findings:
            raise WrongStatement(
                f"{len(check.findings)} of the checks of {n_records} records failed",
                check.findings[0],
                "compare with the other server's log, and check this server's disk",
            )
        typer.echo(
            f"{n_records} records: both servers signed each, and all that was sent arrived so"
        )


def _row(entry: Entry) -> str:
    record = entry.own.record
    batches = ", ".join(
        f"{run.session[:8]} {run.first}..{run.first + run.n - 1}" for run in record.batches
    )
    ways = ", ".join(
        f"{way} {traffic.n_messages} messages of {traffic.n_bytes} bytes"
        for way, traffic in (("sent", record.sent), ("received", record.received))
    )
    # The digest of the items stays in the file.
    request = " ".join(word for word in record.request.split() if len(word) < 64)
    return (
        f"{record.number} {record.time} {request}, plan {record.plan[:8]}, "
        f"batches {batches or 'none'}, {ways}"
    )
