"""Signatures bind the signer, the purpose and every byte."""

from pathlib import Path

import pytest

from gpumpc.deploy.keys import Card, Identity, keygen, load_identity
from gpumpc.deploy.signatures import Purpose, sign, verify
from gpumpc.errors import AccessDenied


@pytest.fixture
def parties(tmp_path: Path) -> tuple[Identity, Identity]:
    for name in ("ann", "bob"):
        keygen(tmp_path / name, name, "owner")
    return load_identity(tmp_path / "ann"), load_identity(tmp_path / "bob")


def test_signature_binds_signer_purpose_and_bytes(parties: tuple[Identity, Identity]) -> None:
    ann, bob = parties
    signature = sign(ann, "weights", b"a statement")
    verify(ann.card, "weights", b"a statement", signature)
    assert len(signature) == 64
    changed = bytes([signature[0] ^ 1]) + signature[1:]
    cases: list[tuple[Card, Purpose, bytes, bytes]] = [
        (bob.card, "weights", b"a statement", signature),
        (ann.card, "receipt", b"a statement", signature),
        (ann.card, "weights", b"a statemenT", signature),
        (ann.card, "weights", b"a statement", changed),
        (ann.card, "weights", b"a statement", b""),
    ]
    for card, purpose, statement, bad in cases:
        with pytest.raises(AccessDenied, match=f"not one of {card.name}"):
            verify(card, purpose, statement, bad)
