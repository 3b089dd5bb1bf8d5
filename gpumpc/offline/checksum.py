"""A checksum of files that are too large for a hash: it finds what a disk changed, no forgery.

AES-GMAC under a key that stands beside the tag runs at memory speed (3.6 to 7 GB/s where SHA-256
ran at 0.4), and any changed bit changes the tag.
"""

import hashlib
import os

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gpumpc.wire.frames import Buffer

CHECKSUM_BYTES = 32
_KEY_BYTES = 16
_CHUNK_BYTES = 1 << 28  # one call takes less than 2^31 bytes


def checksum(data: Buffer) -> bytes:
    """32 bytes to keep beside `data`."""
    key = os.urandom(_KEY_BYTES)
    return key + _tag(key, data)


def is_intact(data: Buffer, kept: Buffer) -> bool:
    """Whether `data` is what the checksum was made of."""
    key, tag = bytes(kept[:_KEY_BYTES]), bytes(kept[_KEY_BYTES:])
    return len(kept) == CHECKSUM_BYTES and _tag(key, data) == tag


def _tag(key: bytes, data: Buffer) -> bytes:
    gmac, whole, tags = AESGCM(key), memoryview(data), b""
    for number, start in enumerate(range(0, max(1, len(whole)), _CHUNK_BYTES)):
        chunk = whole[start : start + _CHUNK_BYTES]
        tags += gmac.encrypt(number.to_bytes(12, "big"), b"", chunk)
    return hashlib.sha256(tags).digest()[:_KEY_BYTES]
