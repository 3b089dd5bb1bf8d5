"""Approvals of a plan for a purpose, signed by those whom the servers' configurations name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import msgspec

from gpumpc.deploy.keys import Card, Identity
from gpumpc.deploy.signatures import sign, verify
from gpumpc.errors import AccessDenied, ConfigError
from gpumpc.offline.secret import write_private

Purpose = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signature.

    Attributes:
        approver: the name of the card of who signed.
        plan: the plan's hash, hex.
        expires_at: in seconds since 1970.
        signature: hex.
    """

    approver: str
    plan: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
    purpose: Purpose
    expires_at: int
    signature: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}\\Z")]


@dataclasses.dataclass(frozen=True)
class ApprovalRules:
    """What a server asks for before it serves a plan.

    Attributes:
        cards: of those who may approve.
        needed: how many of them must.
        purpose: what they must have approved the plan for.
        folder: of their approvals, `*.json`.
    """

    cards: tuple[Card, ...]
    needed: int
    purpose: str
    folder: Path


def approve(identity: Identity, plan_id: str, purpose: str, expires_at: int, file: Path) -> None:
    """Sign a plan for a purpose, and write the approval to a new file. Raises ConfigError."""
    text = _statement(plan_id, purpose, expires_at)
    signature = sign(identity, "approval", text).hex()
    approval = Approval(identity.card.name, plan_id, purpose, expires_at, signature)
    write_private(file, msgspec.json.encode(approval))


def approvers(rules: ApprovalRules, plan_id: str, now: float) -> set[str]:
    """Who has approved a plan for the rules' purpose until after `now`, in seconds since 1970.

    A file that is no approval, or whose signature is not of its approver, counts for nothing.
    Raises ConfigError where the folder cannot be read.
    """
    cards, found = {card.name: card for card in rules.cards}, set[str]()
    try:
        texts = [path.read_bytes() for path in sorted(rules.folder.glob("*.json"))]
    except OSError as error:
        hint = "check its permissions, and that it is the folder of `approvals`"
        raise ConfigError(f"{rules.folder} cannot be read", str(error), hint) from error
    for text in texts:
        try:
            approval = msgspec.json.decode(text, type=Approval)
            if (approval.plan, approval.purpose) != (plan_id, rules.purpose):
                continue
            if approval.approver in cards and approval.expires_at > now:
                signed = _statement(plan_id, approval.purpose, approval.expires_at)
                signature = bytes.fromhex(approval.signature)
                verify(cards[approval.approver], "approval", signed, signature)
                found.add(approval.approver)
        except (msgspec.DecodeError, AccessDenied):
            continue
    return found


def _statement(plan_id: str, purpose: str, expires_at: int) -> bytes:
    return msgspec.json.encode(("approval", plan_id, purpose, expires_at))
