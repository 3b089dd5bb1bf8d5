"""What a party signs with its Ed25519 key, and how others verify it by the party's card."""

from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gpumpc.deploy.keys import Card, Identity
from gpumpc.errors import AccessDenied

# A signature for one purpose is worth nothing for another one.
Purpose = Literal["weights", "receipt", "approval", "job record"]


def sign(identity: Identity, purpose: Purpose, statement: bytes) -> bytes:
    """The party's signature of `statement`, 64 bytes."""
    key = Ed25519PrivateKey.from_private_bytes(identity.sign_secret.expose())
    return key.sign(_message(purpose, statement))


def verify(card: Card, purpose: Purpose, statement: bytes, signature: bytes) -> None:
    """Raises AccessDenied unless the party of `card` signed `statement` for this purpose."""
    try:
        card.sign_key.verify(signature, _message(purpose, statement))
    except (InvalidSignature, ValueError):
        what = f"a signature is not one of {card.name} for '{purpose}'"
        why = "what it signs was changed, another key signed it, or it was signed for another use"
        hint = f"have {card.name} sign it again, and check that this is its present card.toml"
        raise AccessDenied(what, why, hint) from None


def _message(purpose: Purpose, statement: bytes) -> bytes:
    # No purpose holds a zero byte, so purpose and statement are parted in one way only.
    return b"gpumpc sign 1 " + purpose.encode() + b"\0" + statement
