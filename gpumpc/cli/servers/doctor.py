"""`gpumpc doctor`: installed packages, the backend, limits, and the servers' status."""

import datetime
import hashlib
import importlib.util
import os
import platform
import resource
import ssl
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gpumpc import messages as m
from gpumpc.deploy.config import ClientConfig, load_client
from gpumpc.errors import GpumpcError
from gpumpc.media.read import reader_protection
from gpumpc.ring.choose import choose_backend
from gpumpc.version import VERSION
from gpumpc.wire.resources import FEW_FILES, limit_text

EXTRAS = {
    "torch": "compile torch modules",
    "PIL": "read PNG and JPEG",
    "nibabel": "read NIfTI",
    "numba": "compiled CPU loops",
    "cupy": "compute on a GPU",
}


def report(config: Path | None) -> bool:
    """Print a table; True if something needed does not work."""
    settings = None if config is None else load_client(config)
    table = Table("what", "how it is", title=f"gpumpc {VERSION}")
    python = f"{platform.python_version()}, {os.cpu_count()} cores, {ssl.OPENSSL_VERSION}"
    table.add_row("python", python)
    table.add_row("backend", choose_backend().name)
    table.add_row("open files", _open_files())
    for name, state in _reader():
        table.add_row(name, state)
    for module, use in EXTRAS.items():
        state = "installed" if importlib.util.find_spec(module) else f"absent ({use})"
        table.add_row(f"extra {module}", state)
    failed = False
    if settings is not None:
        for name, text, is_good in _servers(settings):
            table.add_row(name, text)
            failed |= not is_good
    Console().print(table)
    return failed


def _open_files() -> str:
    """Both limits of open files, and whether a server would have few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"soft limit {limit_text(soft)}, hard limit {limit_text(hard)}"
    if hard != resource.RLIM_INFINITY and hard < FEW_FILES:
        text += f"; WARNING: fewer than {FEW_FILES} for a server, raise the hard limit"
    return f"{text} (server and dealer raise the soft one to the hard one)"


def _reader() -> list[tuple[str, str]]:
    """What confines the process that reads images, as one says that is started for it."""
    try:
        landlock, seccomp = reader_protection()
    except (OSError, EOFError, ValueError) as error:
        return [("image reader", f"WARNING: it does not start ({type(error).__name__})")]
    absent = "WARNING: absent in this kernel, so a hostile image could"
    files = f"Landlock {landlock}: it opens no file"
    calls = "seccomp: no network, process or program"
    return [
        ("image reader, files", files if landlock else f"{absent} open files"),
        ("image reader, calls", calls if seccomp else f"{absent} use network and processes"),
    ]


def _servers(config: ClientConfig) -> list[tuple[str, str, bool]]:
    from gpumpc.client.status import ask_status

    rows = []
    for party, answer in enumerate(ask_status(config)):
        if isinstance(answer, GpumpcError):
            rows.append((f"server {party}", f"{type(answer).__name__}: {answer}", False))
            continue
        peer = "connected to its peer" if answer.peer_connected else "not connected to its peer"
        rows.append((f"server {party}", peer, answer.peer_connected))
        for plan in answer.plans:
            ahead = f"ready, next batch {plan.next_batch}, {plan.batches_ahead} ahead"
            state = ahead if plan.session else "no weights yet"
            rows.append((f"server {party}, plan {plan.fields['plan'][:12]}", state, True))
            if plan.weight_sharing_id:
                text = _weights(plan)
                rows.append(("  its weights", text, plan.statement is not None))
    return rows


def _weights(plan: m.PlanStatus) -> str:
    """Who shared a plan's weights, when, and what was signed then."""
    found = plan.statement
    if found is None:
        return "WARNING: the server has lost their owner's statement; share them again"
    when = datetime.datetime.fromtimestamp(found.shared_at, datetime.UTC)
    statement = m.weights_statement(plan.fields["plan"], plan.weight_sharing_id, found.halves)
    digest = hashlib.sha256(statement).hexdigest()
    return f"shared by {found.shared_by}, {when:%Y-%m-%d %H:%M} UTC, statement {digest[:16]}"
