"""The generators behind every mask, against published vectors through the very function that masks
come from.
"""

import numpy as np
import pytest

from gpumpc.errors import InputError
from gpumpc.params import Cipher
from gpumpc.ring import prg
from tests.ring.published import AES_CIPHER, AES_COUNTER, AES_KEY, AES_PLAIN, CHACHA

CIPHERS: list[Cipher] = ["aes128ctr", "chacha20"]
PIECE = 1 << 16


def test_aes_stream_matches_nist_sp_800_38a() -> None:
    stream = prg.expand("aes128ctr", AES_KEY + AES_COUNTER, len(AES_PLAIN))
    assert stream.tobytes() == bytes(a ^ b for a, b in zip(AES_PLAIN, AES_CIPHER, strict=True))


@pytest.mark.parametrize(("key", "block", "expected"), CHACHA)
def test_chacha20_stream_matches_rfc_8439(key, block, expected) -> None:
    stream = prg.expand("chacha20", key, 64 * (block + 1))
    assert stream[64 * block :].tobytes().hex() == expected


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize(
    "n_bytes", [0, 1, 15, 16, 17, 63, 64, 65, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 989]
)
def test_shorter_stream_is_a_prefix_of_a_longer_one(cipher: Cipher, n_bytes) -> None:
    key = bytes(range(32))
    longest = prg.expand(cipher, key, 3 * PIECE + 2000)
    stream = prg.expand(cipher, key, n_bytes)
    assert stream.dtype == np.uint8 and stream.shape == (n_bytes,)
    assert np.array_equal(stream, longest[:n_bytes])


@pytest.mark.parametrize("cipher", CIPHERS)
def test_stream_pieces_do_not_repeat(cipher: Cipher) -> None:
    blocks = prg.expand(cipher, bytes(range(32)), 4 * PIECE).view("V16")
    assert len(set(blocks.tolist())) == len(blocks)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("half", [0, 16])
def test_every_byte_of_the_key_matters(cipher: Cipher, half) -> None:
    key = bytearray(range(32))
    before = prg.expand(cipher, bytes(key), 4096)
    for i in range(half, half + 16):
        changed = key.copy()
        changed[i] ^= 1
        equal = np.mean(prg.expand(cipher, bytes(changed), 4096) == before)
        assert equal < 0.03  # 1/256, and 15 deviations


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("n_bytes", [0, 16, 31, 33, 64])
def test_key_of_a_wrong_length_is_refused(cipher: Cipher, n_bytes) -> None:
    with pytest.raises(InputError, match="32 bytes"):
        prg.expand(cipher, bytes(n_bytes), 8)


@pytest.mark.parametrize("cipher", CIPHERS)
def test_a_stream_that_would_wrap_its_counter_is_refused(cipher: Cipher) -> None:
    with pytest.raises(InputError, match="wrap"):
        prg.expand(cipher, bytes(32), prg.MAX_STREAM_BYTES + 1)


def test_word_bytes_are_1_2_4_or_8() -> None:
    assert [prg.word_bytes(bits) for bits in (1, 8, 9, 16, 17, 32, 33, 40, 64)] == [
        1,
        1,
        2,
        2,
        4,
        4,
        8,
        8,
        8,
    ]


@pytest.mark.parametrize("cipher", CIPHERS)
def test_streams_are_writable_and_fresh(cipher: Cipher) -> None:
    first = prg.expand(cipher, bytes(32), 100)
    first[:] = 0
    assert prg.expand(cipher, bytes(32), 100).any()
