"""The binding of a session, the same at both servers and at the dealer."""

from __future__ import annotations

import dataclasses
import hashlib

from gpumpc.offline import seeds
from gpumpc.program.plan import PlanRecord, plan_hash
from gpumpc.program.program import Program


@dataclasses.dataclass(frozen=True)
class SessionBinding:
    """An open session: its id is a hash of program, plan, weight sharing and both nonces.

    The dealer computes the id itself: whatever it is asked for, it never deals two programs or two
    weight sharings under one session.

    Attributes:
        weight_sharing_id: the sharing of the weights in use; empty where no session is open.
        nonces: of server 0's and of server 1's ledger.
        session_id: 16 bytes.
    """

    weight_sharing_id: str
    nonces: tuple[bytes, bytes]
    session_id: bytes

    @classmethod
    def of(
        cls, plan: PlanRecord, program: Program, weight_sharing_id: str, nonces: tuple[bytes, bytes]
    ) -> SessionBinding:
        """Compute the session id."""
        session_id = seeds.session_id(program_id(plan, program, weight_sharing_id), *nonces)
        return cls(weight_sharing_id, nonces, session_id)


CLOSED = SessionBinding("", (b"", b""), b"")


def program_id(plan: PlanRecord, program: Program, weight_sharing_id: str) -> bytes:
    """32 bytes: a ledger draws one nonce for each."""
    return hashlib.sha256(program.digest + plan_hash(plan) + weight_sharing_id.encode()).digest()
