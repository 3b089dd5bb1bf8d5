"""Uniform bytes from a 32-byte key: AES-128 in counter mode, or ChaCha20.

One key is expanded once, from the beginning of its stream: nothing here keeps a position, so no
stream can be continued or overlapped by accident. Source: NIST SP 800-38A section 6.5; RFC 8439
section 2.4.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher as _Cipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes

from gpumpc.errors import InputError
from gpumpc.params import Cipher

KEY_BYTES = 32
# ChaCha20 counts 64-byte blocks in 32 bits; past this many bytes the counter would wrap and the
# stream repeat.
MAX_STREAM_BYTES = 64 << 32
# Zeros are encrypted in pieces that stay in the cache.
_PIECE_BYTES = 1 << 16
_ZEROS = bytes(_PIECE_BYTES)


def check(key: bytes, n_bytes: int) -> None:
    """Raises InputError for a key of another length, and for more bytes than one key gives."""
    if len(key) != KEY_BYTES:
        raise InputError(f"a stream key has {KEY_BYTES} bytes, this one {len(key)}")
    if n_bytes > MAX_STREAM_BYTES:
        raise InputError(
            f"{n_bytes} bytes asked of one key", "its counter would wrap", "use a smaller batch"
        )


def expand(cipher: Cipher, key: bytes, n_bytes: int) -> np.ndarray:
    """The first `n_bytes` of the key's stream, as a writable uint8 array.

    AES-128 takes the key's first half as key and the second as initial counter block, so that two
    keys that agree in one half still give unrelated streams with all but negligible probability.
    """
    check(key, n_bytes)
    encryptor = _encryptor(cipher, key)
    # update_into needs a block more than it writes.
    room = np.empty(n_bytes + 16, dtype=np.uint8)
    view = room.data
    for start in range(0, n_bytes, _PIECE_BYTES):
        size = min(_PIECE_BYTES, n_bytes - start)
        encryptor.update_into(memoryview(_ZEROS)[:size], view[start : start + size + 16])
    return room[:n_bytes]


def _encryptor(cipher: Cipher, key: bytes):  # type: ignore[no-untyped-def]  # the library's type is not exported
    if cipher == "aes128ctr":
        return _Cipher(algorithms.AES(key[:16]), modes.CTR(key[16:])).encryptor()
    return _Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()


def word_bytes(bits: int) -> int:
    """Stream bytes behind one word of `bits` bits: the smallest of 1, 2, 4, 8 that holds it."""
    return next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
