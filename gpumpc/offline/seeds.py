"""Domain-separated keys: seed(p, session, batch, step, name) = HKDF(root_p, ...).

A key belongs to exactly one expansion: asking for a name twice in one batch raises MaskReused,
because a mask hides one value, ever. Source: RFC 5869, extract once per batch, expand once per
name; every field is length-prefixed, so no two field lists give the same info string.
"""

import hashlib
import hmac

from gpumpc.errors import MaskReused

SESSION_BYTES = 16
_LABEL = b"gpumpc/1"


def _fields(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


class SeedTree:
    """One party's keys for one (session, batch).

    Args:
        root: 32 bytes known to the dealer and this server alone.
        session_id: 16 bytes, fresh for every pair of ledgers and every program.
        batch_index: the batch number, reserved in the ledger before any key is drawn.
    """

    def __init__(self, root: bytes, session_id: bytes, batch_index: int) -> None:
        salt = _fields(_LABEL, session_id, batch_index.to_bytes(8, "little"))
        self._prk = hmac.digest(salt, root, "sha256")
        self._used: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return "SeedTree(<secret>)"

    def key(self, step: str, name: str) -> bytes:
        """32 bytes for one expansion, `name` in `step`. Raises MaskReused on a second call."""
        if (step, name) in self._used:
            what = f"the mask '{name}' of step '{step}' was asked for twice in one batch"
            hint = "this is a bug in the program: give the second mask a name of its own"
            raise MaskReused(what, "a mask hides one value, ever", hint)
        self._used.add((step, name))
        return hmac.digest(self._prk, _fields(step.encode(), name.encode()) + b"\x01", "sha256")


def weight_session(version: str, weight_sharing_id: str) -> bytes:
    """The session id of the static masks of one weight version and weight sharing."""
    fields = _fields(_LABEL, b"weights", version.encode(), weight_sharing_id.encode())
    return hashlib.sha256(fields).digest()[:SESSION_BYTES]


def session_id(program_id: bytes, nonce_0: bytes, nonce_1: bytes) -> bytes:
    """A session's id, bound to both ledgers: without one of them its old masks never recur."""
    fields = _fields(_LABEL, b"session", program_id, nonce_0, nonce_1)
    return hashlib.sha256(fields).digest()[:SESSION_BYTES]
