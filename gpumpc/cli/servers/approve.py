"""`gpumpc approve`: an approver signs a plan for a purpose."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from gpumpc.cli.console import exit_on_error
from gpumpc.cli.options import PlanOption

_DAY_S = 86_400


def approve(
    plan: PlanOption,
    identity: Annotated[Path, typer.Option(help="Folder of the approver's keys.")],
    purpose: Annotated[str, typer.Option(help="As the servers' configurations have it.")],
    days: Annotated[int, typer.Option(min=1, help="After so many days it expires.")],
    out: Annotated[Path, typer.Option(help="New file, for the operators of both servers.")],
) -> None:
    """Sign a plan for a purpose, as one of those without whom the servers do not serve it."""
    from gpumpc.deploy import approvals
    from gpumpc.deploy.keys import load_identity
    from gpumpc.program import plan as plan_files

    with exit_on_error():
        record, keys = plan_files.load(plan), load_identity(identity)
        plan_id, expires_at = plan_files.plan_hash(record).hex(), int(time.time()) + days * _DAY_S
        approvals.approve(keys, plan_id, purpose, expires_at, out)
        typer.echo(
            f"{keys.card.name} approves plan '{record.name}' ({plan_id[:16]}) for '{purpose}', "
            f"{days} days; give {out} to the operators of both servers"
        )
