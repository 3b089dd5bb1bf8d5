"""Keys of one connection, and the records under them.

Both ends send a `StreamHello` with an ephemeral X25519 key inside the CURVE channel. HKDF-SHA256
over the agreed secret, with both CURVE public keys and both hellos in its info, gives one secret
for each direction and a ticket that names the connection. So nothing recorded on one connection, or
in the other direction, opens on another.

A frame is a record of its header, of fixed size, and records of its payload, each of `RECORD_BYTES`
but the last, with the whole header as associated data. The nonce is the number of the record in its
direction. It is never sent: only exactly the next record of this connection and direction opens.
After `RECORDS_A_KEY` records the key is replaced by one derived from the direction's secret, which
is replaced as well; the numbers go on.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NoReturn

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from gpumpc.errors import BadFrame
from gpumpc.wire.frames import HEADER, Buffer, decode_record, encode_record

VERSION = 2
TAG_BYTES = 16
TICKET_BYTES = 16
# Large enough that the calls cost nothing, small enough for the cache between cipher and kernel.
RECORD_BYTES = 1 << 19
SEALED_HEADER_BYTES = HEADER.size + TAG_BYTES
# 2^19 records of 2^15 blocks: AES-GCM is then within 2^-60 of ideal (sigma^2 / 2^129).
RECORDS_A_KEY = 1 << 19
HEADER_LABEL = b"gpumpc header"

_KEY_BYTES = 32
_NONCE = struct.Struct(">IQ")


class StreamHello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Each end's message of the key agreement, inside the CURVE channel.

    Attributes:
        ephemeral: an X25519 public key, made for this connection.
        port: where the listening end waits for the stream; 0 at the connecting end.
    """

    version: int
    ephemeral: bytes
    port: int


class Exchange:
    """One end's part of a key agreement; used once.

    Args:
        own_key: this party's CURVE public key.
        peer_key: the peer's, as CURVE has proved it.
        port: where this end waits for the stream; 0 if it is the one that connects.
    """

    def __init__(self, own_key: bytes, peer_key: bytes, port: int = 0) -> None:
        self._identities, self._listens = (own_key, peer_key), port > 0
        self._secret: X25519PrivateKey | None = X25519PrivateKey.generate()
        public = self._secret.public_key().public_bytes_raw()
        self.hello = encode_record(StreamHello(VERSION, public, port))

    def agree(self, theirs: Buffer) -> tuple[StreamKeys, int]:
        """The connection's keys and the peer's port, from the peer's hello. Raises BadFrame."""
        secret, self._secret = self._secret, None
        hello = decode_record(theirs, StreamHello)
        if secret is None:
            raise _bad("a second hello came", "one exchange gives one connection's keys")
        if hello.version != VERSION:
            why = f"{hello.version}, and here {VERSION}"
            raise _bad("the peer speaks another version of the record layer", why)
        if not 0 <= hello.port < 1 << 16 or (hello.port > 0) == self._listens:
            why = f"its port is {hello.port}, and one of the two ends listens"
            raise _bad("the peer's hello does not fit", why)
        try:
            shared = secret.exchange(X25519PublicKey.from_public_bytes(hello.ephemeral))
        except ValueError as error:
            raise _bad("the peer's hello does not fit", "its ephemeral key is not a key") from error
        return self._derived(shared, bytes(theirs)), hello.port

    def _derived(self, shared: bytes, theirs: bytes) -> StreamKeys:
        ends = [*zip(self._identities, (self.hello, theirs), strict=True)]
        listener, connector = ends if self._listens else ends[::-1]
        transcript = hashlib.sha256()
        for text in (*listener, *connector):
            transcript.update(len(text).to_bytes(4, "little") + text)
        info = b"gpumpc stream 1 " + transcript.digest()
        n_bytes = 2 * _KEY_BYTES + TICKET_BYTES
        secrets = HKDF(hashes.SHA256(), n_bytes, salt=None, info=info).derive(shared)
        by_listener, by_connector = secrets[:_KEY_BYTES], secrets[_KEY_BYTES : 2 * _KEY_BYTES]
        own, peers = (by_listener, by_connector) if self._listens else (by_connector, by_listener)
        return StreamKeys(own, peers, secrets[2 * _KEY_BYTES :])

    def __repr__(self) -> str:
        return "Exchange(<secret>)"


class StreamKeys:
    """The secrets of one connection, as one end sees them.

    Attributes:
        ticket: 16 bytes that name the connection; not secret.
    """

    def __init__(self, own: bytes, peers: bytes, ticket: bytes) -> None:
        self._own: bytes | None = own
        self._peers, self.ticket = peers, ticket

    def sealer(self) -> Sealer:
        """This end's sealer. Raises BadFrame at a second call: two would use the same nonces."""
        own, self._own = self._own, None
        if own is None:
            raise _bad("a connection's keys were used twice", "one sealer takes all its numbers")
        return Sealer(own)

    def opener(self) -> Opener:
        """An opener of the peer's records, from the first on."""
        return Opener(self._peers)

    def __repr__(self) -> str:
        return f"StreamKeys(<secret>, ticket={self.ticket.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are neither copied nor written down")


class _Direction:
    """The running key and number of one direction."""

    def __init__(self, secret: bytes, records_a_key: int = RECORDS_A_KEY) -> None:
        self._secret, self._records_a_key, self.n_records = secret, records_a_key, 0

    def _next(self) -> bytes:
        """The nonce of the next record, never a second time; renews the key when it is due."""
        if self.n_records % self._records_a_key == 0:
            self._aead = AESGCM(_expanded(self._secret, b"gpumpc stream key"))
            self._secret = _expanded(self._secret, b"gpumpc stream next")
        nonce = _NONCE.pack(0, self.n_records)
        self.n_records += 1
        return nonce

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<secret>, n_records={self.n_records})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are neither copied nor written down")


class Sealer(_Direction):
    """Seals this end's records in order."""

    def seal_into(self, data: Buffer, associated: bytes, out: memoryview) -> None:
        """Write the next record, `data` sealed and its tag, into `out`, which is just as long."""
        nonce = self._next()
        self._aead.encrypt_into(nonce, data, associated, out)


class Opener(_Direction):
    """Opens the peer's records in order."""

    def open_into(self, sealed: Buffer, associated: bytes, out: memoryview | bytearray) -> None:
        """Check the next record and write its content into `out`, which is just as long.

        Raises BadFrame if it is not exactly the next record of this connection; `out` must not be
        used then.
        """
        nonce = self._next()
        try:
            self._aead.decrypt_into(nonce, sealed, associated, out)
        except InvalidTag:
            raise self._refused() from None

    def open(self, sealed: Buffer, associated: bytes) -> bytes:
        """The content of the next record. Raises BadFrame if it is not the next record."""
        nonce = self._next()
        try:
            return self._aead.decrypt(nonce, sealed, associated)
        except InvalidTag:
            raise self._refused() from None

    def _refused(self) -> BadFrame:
        return BadFrame(
            f"record {self.n_records - 1} of a connection was refused",
            "it was changed, cut, repeated or moved on the way, or belongs to another connection",
            "this connection is over: start a new one, and look at who can write on the network "
            "between",
        )


def _expanded(secret: bytes, info: bytes) -> bytes:
    return HKDFExpand(hashes.SHA256(), _KEY_BYTES, info).derive(secret)


def _bad(what: str, why: str) -> BadFrame:
    return BadFrame(what, why, "run the same version of gpumpc at both ends, and start both again")
