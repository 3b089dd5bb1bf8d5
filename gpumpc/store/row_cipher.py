"""Encryption of rows: AES-256-GCM, each row under a random key of its own.

The manifest keeps a row's key, encrypted under the master key. Once that entry is gone, nothing can
decrypt the row, wherever copies of its bytes are left.
"""

import hmac
import json
import secrets
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gpumpc.offline.secret import Secret
from gpumpc.store.master_key import KEY_BYTES

TAG_BYTES = 16
_NONCE_BYTES = 12
# A row's key encrypts one message, so that its nonce need not differ from another's.
_ROW_NONCE = bytes(_NONCE_BYTES)

Matrix = npt.NDArray[np.uint8]


class RowName(NamedTuple):
    """What a row's ciphertext is bound to: put in the place of another row, it does not decrypt."""

    kind: str
    item: str
    version: str
    owner: str

    @property
    def data(self) -> bytes:
        """Additional data of the row's bytes."""
        return json.dumps(self[:3]).encode()

    @property
    def key_data(self) -> bytes:
        """Additional data of the row's key."""
        return json.dumps(self).encode()


class WrongTag(Exception):
    """Bytes are not those that were encrypted; caught in this package."""


class RowCipher:
    """Encrypts rows and their keys under a master key, which does not print."""

    def __init__(self, master_key: Secret) -> None:
        self._master = AESGCM(master_key.expose())

    def encrypt(self, names: list[RowName], rows: Matrix) -> tuple[list[bytes], Matrix]:
        """Wrapped keys, and rows (n, row_bytes) encrypted: (n, row_bytes + TAG_BYTES)."""
        wrapped = []
        out = np.empty((len(rows), rows.shape[1] + TAG_BYTES), dtype=np.uint8)
        for i, (name, row) in enumerate(zip(names, rows, strict=True)):
            key = secrets.token_bytes(KEY_BYTES)
            data = AESGCM(key).encrypt(_ROW_NONCE, row.tobytes(), name.data)
            out[i] = np.frombuffer(data, dtype=np.uint8)
            wrapped.append(self.wrap(name, key))
        return wrapped, out

    def wrap(self, name: RowName, key: bytes) -> bytes:
        """A row's key encrypted, with its random nonce before it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._master.encrypt(nonce, key, name.key_data)

    def unwrap(self, name: RowName, wrapped: bytes) -> bytes:
        """A row's key. Raises WrongTag."""
        try:
            nonce, data = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
            return self._master.decrypt(nonce, data, name.key_data)
        except (InvalidTag, ValueError) as error:
            raise WrongTag from error

    @staticmethod
    def decrypt(name: RowName, key: bytes, data: bytes) -> bytes:
        """A row's bytes. Raises WrongTag."""
        try:
            return AESGCM(key).decrypt(_ROW_NONCE, data, name.data)
        except (InvalidTag, ValueError) as error:
            raise WrongTag from error


def check_value(master_key: Secret) -> str:
    """32 hex digits by which a manifest knows its master key."""
    return hmac.digest(master_key.expose(), b"gpumpc store check", "sha256").hex()[:32]
