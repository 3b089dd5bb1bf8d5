"""Reals as ring elements: round(v * scale) modulo 2^bits, scale = 2^frac (times a divisor)."""

import numpy as np

from gpumpc.errors import BadValue, OutOfRange


def mask(bits: int) -> np.uint64:
    """The word whose `bits` low bits are one."""
    return np.uint64((1 << bits) - 1)


def encode(values: np.ndarray, scale: float, bits: int, name: str = "value") -> np.ndarray:
    """round(values * scale) modulo 2^bits as uint64 words, ties to even.

    Raises BadValue for NaN and infinity, OutOfRange where |values * scale| does not fit a signed
    word of `bits` bits.
    """
    scaled = np.rint(np.asarray(values, dtype=np.float64) * scale)
    if not np.isfinite(scaled).all():
        why = "it cannot be a ring element"
        raise BadValue(f"{name} holds NaN or infinity", why, "clean the data first")
    if scaled.size and float(np.abs(scaled).max()) >= 2.0 ** (bits - 1):
        raise OutOfRange(
            f"{name} reaches {float(np.abs(values).max()):.6g}",
            f"the ring of {bits} bits at scale {scale:g} ends at {2.0 ** (bits - 1) / scale:.6g}",
            "rescale the data, or compile with a larger k",
        )
    return scaled.astype(np.int64).view(np.uint64) & mask(bits)


def signed(words: np.ndarray, bits: int) -> np.ndarray:
    """Words modulo 2^bits as int64 in [-2^(bits-1), 2^(bits-1))."""
    shift = np.int64(64 - bits)
    return (words.view(np.int64) << shift) >> shift


def decode(words: np.ndarray, scale: float, bits: int) -> np.ndarray:
    """The inverse of `encode`, as float64."""
    return signed(np.ascontiguousarray(words), bits) / scale
