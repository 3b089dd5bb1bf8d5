"""A party's keys: made by itself in its own folder, its public card given to the others.

A folder holds `secret.toml` (0600, never leaves it) and `card.toml` (public). A party has three
key pairs: CURVE, by which ZeroMQ knows it; X25519, by which dealer and server agree on a root and
results are sealed to a user; and Ed25519, with which it signs (`gpumpc/deploy/signatures.py`).
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gpumpc.errors import ConfigError, MissingFile, RevealError
from gpumpc.offline.secret import Secret, file_error, private_folder, read_private, write_private
from gpumpc.wire.zmq_channel import CurveKeys, curve_keypair, curve_public

Role = Literal["dealer", "server0", "server1", "owner", "user"]
T = TypeVar("T")

_KEY_BYTES = 32
_TAG_BYTES = 16
_NAME = "^[a-z0-9][a-z0-9_-]{0,39}\\Z"


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public part of a party's keys.

    Attributes:
        curve_public: z85, 40 characters.
        x25519_public, sign_public: hex, 64 characters.
    """

    name: Annotated[str, msgspec.Meta(pattern=_NAME)]
    role: Role
    curve_public: Annotated[str, msgspec.Meta(pattern="^[!-~]{40}\\Z")]
    x25519_public: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
    sign_public: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]

    @property
    def curve_key(self) -> bytes:
        """The CURVE public key as zmq takes it."""
        return self.curve_public.encode()

    @property
    def x25519_key(self) -> X25519PublicKey:
        """The X25519 public key."""
        return X25519PublicKey.from_public_bytes(bytes.fromhex(self.x25519_public))

    @property
    def sign_key(self) -> Ed25519PublicKey:
        """The Ed25519 public key, by which others verify what this party signed."""
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.sign_public))


class _SecretFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    curve_secret: str
    x25519_secret: str
    sign_secret: str

    def __repr__(self) -> str:
        return "_SecretFile(...)"


@dataclasses.dataclass(frozen=True)
class Identity:
    """A party's own card and its secret keys, which do not show themselves."""

    card: Card
    curve_secret: Secret
    x25519_secret: Secret
    sign_secret: Secret

    @property
    def curve(self) -> CurveKeys:
        """The key pair for a socket."""
        return CurveKeys(self.card.curve_key, self.curve_secret.expose())


def keygen(folder: Path, name: str, role: Role) -> Card:
    """Make a party's keys in `folder` (0700): `secret.toml` and `card.toml`.

    The card is written last. A secret without a card is of a `keygen` that was cut off: its card is
    made now, from its keys. Raises ConfigError if keys are there already or the name cannot be
    used, ExposedSecret if others may write there.
    """
    if not re.search(_NAME, name):
        why = "it has 1 to 40 of the characters a-z 0-9 _ -, the first a letter or digit"
        raise ConfigError(f"'{name}' cannot name a party", why, "choose another name")
    folder = private_folder(Path(folder))
    if (folder / "card.toml").exists():
        why, hint = "keys are never overwritten", "give another folder, or move the old one away"
        raise ConfigError(f"{folder / 'card.toml'} is there already", why, hint)
    path = folder / "secret.toml"
    if not path.exists():
        own, signing = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        secret = {
            "curve_secret": curve_keypair().secret.decode(),
            "x25519_secret": own.private_bytes_raw().hex(),
            "sign_secret": signing.private_bytes_raw().hex(),
        }
        write_private(path, _toml(secret))
    curve_secret, own, signing = _load_secret(path)
    card = Card(name, role, curve_public(curve_secret).decode(), _public(own), _public(signing))
    write_private(folder / "card.toml", _toml(msgspec.to_builtins(card)))
    (folder / "card.toml").chmod(0o644)
    return card


def load_card(path: Path) -> Card:
    """A party's public card. Raises MissingFile, ConfigError."""
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        why, hint = "no such file", "ask that party for the card.toml that gpumpc keygen made it"
        raise MissingFile(f"the card {path} is missing", why, hint) from None
    except OSError as error:
        raise file_error(f"the card {path} cannot be read", error) from error
    return _parse(path, text, Card)


def load_identity(folder: Path) -> Identity:
    """A party's keys. Raises ExposedSecret if others can read them, MissingFile, ConfigError."""
    path = Path(folder) / "secret.toml"
    curve_secret, own, signing = _load_secret(path)
    card = load_card(Path(folder) / "card.toml")
    public = curve_public(curve_secret), _public(own), _public(signing)
    if public != (card.curve_key, card.x25519_public, card.sign_public):
        raise _bad_card(f"{path}", "its keys do not belong to the card.toml next to it")
    secrets = Secret(curve_secret), Secret(own.private_bytes_raw())
    return Identity(card, *secrets, Secret(signing.private_bytes_raw()))


def _load_secret(path: Path) -> tuple[bytes, X25519PrivateKey, Ed25519PrivateKey]:
    """The secret keys of CURVE, X25519 and Ed25519."""
    secret: _SecretFile = _parse(path, read_private(path), _SecretFile)
    try:
        own = X25519PrivateKey.from_private_bytes(bytes.fromhex(secret.x25519_secret))
        signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret.sign_secret))
    except ValueError:
        raise _bad_card(f"{path}", "its X25519 or Ed25519 key is not a key") from None
    return secret.curve_secret.encode(), own, signing


def agree_root(identity: Identity, peer_card: Card, party: int) -> Secret:
    """The 32-byte root of the dealer and server `party`; the same at both. Raises ConfigError.

    X25519 of the static keys, then HKDF-SHA256 with party number and both public keys as info.
    """
    server: Role = "server0" if party == 0 else "server1"
    return _agree_secret("root", identity, peer_card, ("dealer", server), b"root 1 %d " % party)


def agree_pair(identity: Identity, peer_card: Card) -> Secret:
    """The 32 bytes that the two servers alone can derive; the same at both. Raises ConfigError.

    With it they re-randomise result shares, so that the dealer's knowledge of masks is worth
    nothing outside the servers.
    """
    return _agree_secret("secret", identity, peer_card, ("server0", "server1"), b"servers 1 ")


def _agree_secret(
    what: str, identity: Identity, peer_card: Card, roles: tuple[Role, Role], info: bytes
) -> Secret:
    cards = {card.role: card for card in (identity.card, peer_card)}
    if set(cards) != {*roles}:
        found = " and ".join(sorted(cards))
        why = f"one card must be of {roles[0]} and one of {roles[1]}, and they are of {found}"
        raise _bad_card(f"no {what} can be agreed with {peer_card.name}", why)
    both = b"".join(cards[role].x25519_key.public_bytes_raw() for role in roles)
    shared = _agree(_private(identity), peer_card.x25519_key)
    return Secret(_derive(shared, b"gpumpc " + info + both))


def seal(card: Card, payload: bytes, aad: bytes) -> bytes:
    """`payload` for the owner of `card`, bound to `aad` (which is not sent). Raises ConfigError.

    An ephemeral X25519 key (32 bytes), then ChaCha20-Poly1305: 48 bytes longer than the payload.
    """
    ephemeral = X25519PrivateKey.generate()
    key = _sealing_key(_agree(ephemeral, card.x25519_key), ephemeral.public_key(), card)
    # One key seals one message, so a constant nonce is never used twice under a key.
    sealed = ChaCha20Poly1305(key).encrypt(bytes(12), payload, aad)
    return ephemeral.public_key().public_bytes_raw() + sealed


def open_sealed(identity: Identity, blob: bytes, aad: bytes) -> bytes:
    """Open a message sealed to this party with the same `aad`. Raises RevealError if changed."""
    if len(blob) < _KEY_BYTES + _TAG_BYTES:
        raise _unopened(f"it has {len(blob)} bytes, fewer than an empty message")
    ephemeral = X25519PublicKey.from_public_bytes(blob[:_KEY_BYTES])
    try:
        key = _sealing_key(_agree(_private(identity), ephemeral), ephemeral, identity.card)
        return ChaCha20Poly1305(key).decrypt(bytes(12), blob[_KEY_BYTES:], aad)
    except (InvalidTag, ConfigError):
        why = "it was changed on the way, or sealed to another key or for another request"
        raise _unopened(why) from None


def _public(key: X25519PrivateKey | Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def _private(identity: Identity) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(identity.x25519_secret.expose())


def _agree(own: X25519PrivateKey, public: X25519PublicKey) -> bytes:
    try:
        return own.exchange(public)
    except ValueError as error:
        why = "the other X25519 key is one that gives the same to all"
        raise _bad_card("no key can be agreed", why) from error


def _sealing_key(shared: bytes, ephemeral: X25519PublicKey, card: Card) -> bytes:
    public = ephemeral.public_bytes_raw() + bytes.fromhex(card.x25519_public)
    return _derive(shared, b"gpumpc seal 1 " + public)


def _derive(shared: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=info).derive(shared)


def _toml(fields: dict[str, str]) -> bytes:
    # Names, z85 and hex have no quote and no backslash, so nothing needs escaping.
    return "".join(f'{key} = "{value}"\n' for key, value in fields.items()).encode()


def _parse(path: Path, text: bytes, kind: type[T]) -> T:
    # The cause is not chained: a parser's message may quote the line with the secret.
    try:
        return msgspec.convert(tomllib.loads(text.decode()), kind)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise _bad_card(f"{path}", "it is not a TOML file") from None
    except msgspec.ValidationError as error:
        if "missing required field `sign_" in str(error):
            hint = (
                "make new keys with `gpumpc keygen` in another folder, give the new card.toml to "
                "the other parties, and begin with an empty state folder"
            )
            why = "it was made before parties had signing keys"
            raise ConfigError(f"{path} cannot be used", why, hint) from None
        raise _bad_card(f"{path}", str(error)) from None


def _bad_card(what: str, why: str) -> ConfigError:
    hint = "copy the file from its party again, or make new keys"
    return ConfigError(f"{what} cannot be used", why, hint)


def _unopened(why: str) -> RevealError:
    hint = "ask for the result again; if that fails too, give both servers this user's card again"
    return RevealError("a sealed message cannot be opened", why, hint)
