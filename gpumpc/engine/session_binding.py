"""A session of one program: what it is bound to, and its id, the same at both servers and at the
dealer.
"""

from __future__ import annotations

import dataclasses
import hashlib

from gpumpc.offline import seeds
from gpumpc.program.plan import PlanRecord, plan_hash
from gpumpc.program.program import Program


@dataclasses.dataclass(frozen=True)
class SessionBinding:
    """An open session.

    The id is a hash of the program, the plan, the weight sharing and both ledgers' nonces. The
    dealer computes it itself from
    these: whatever it is told, it never deals two programs or two weight sharings under one
    session.

    Attributes:
        pair_id: which sharing of the weights is in use; empty where no session is open.
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
        """The session of these."""
        return cls(
            weight_sharing_id,
            nonces,
            seeds.session_id(program_id(plan, program, weight_sharing_id), *nonces),
        )


CLOSED = SessionBinding("", (b"", b""), b"")


def program_id(plan: PlanRecord, program: Program, weight_sharing_id: str) -> bytes:
    """32 bytes: what a ledger's nonce is drawn for."""
    return hashlib.sha256(program.digest + plan_hash(plan) + weight_sharing_id.encode()).digest()
