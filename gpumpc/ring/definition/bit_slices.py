"""Arithmetic on lanes for the NumPy definition: transposition, selection, masked products."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpumpc.ring.backend import Factors, n_lanes

Lanes = npt.NDArray[np.uint64]

_SWAPS = tuple(
    (np.uint64(j), np.uint64(m))
    for j, m in (
        (32, 0x00000000FFFFFFFF),
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    )
)


def transpose_64x64(rows: Lanes) -> Lanes:
    """Transpose in place: rows (64, L), bit b of row r <-> bit r of row b, in each column."""
    for j, m in _SWAPS:
        pairs = rows.reshape(64 // (2 * int(j)), 2, int(j), -1)
        low, high = pairs[:, 0], pairs[:, 1]
        swap = ((low >> j) ^ high) & m
        high ^= swap
        swap <<= j
        low ^= swap
    return rows


def lane_of_bits(bits: npt.NDArray[np.uint8]) -> Lanes:
    """uint8 zeros and ones (n,) -> lane words (n_lanes,)."""
    lane = np.zeros(8 * n_lanes(bits.size), dtype=np.uint8)
    packed = np.packbits(bits, bitorder="little")
    lane[: packed.size] = packed
    return lane.view(np.uint64)


def bits_of_lane(lane: Lanes, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The inverse of `lane_of_bits`, in a shape."""
    n = math.prod(shape)
    return np.unpackbits(lane.view(np.uint8), count=n, bitorder="little").reshape(shape)


def clear_tail(lanes: Lanes, n: int) -> Lanes:
    """Zeros past the last of n elements, in place."""
    if n % 64:
        lanes[..., -1] &= np.uint64((1 << (n % 64)) - 1)
    return lanes


def mux(entries: Lanes, planes: Lanes) -> Lanes:
    """entries[:, v] of (D, 2^b, n_lanes) with the bits of v in planes (D, b, n_lanes)."""
    for b in range(planes.shape[1]):
        even, odd = entries[:, 0::2], entries[:, 1::2]
        entries = even ^ (planes[:, b : b + 1] & (even ^ odd))
    return entries[:, 0]


def masked_product(
    opened: Lanes, shares: dict[Factors, Lanes], factors: Factors, party: int
) -> Lanes:
    """Share of prod_i (o_i ^ m_i), folding one factor at a time.

    After folding factor i, entry S holds the share of prod_{folded} (o ^ m) * prod_{j in S} m_j.
    The empty product is public: all ones at party 0, zeros at party 1.
    """
    empty = np.full_like(opened[:, 0], ~np.uint64(0) if party == 0 else 0)
    table: dict[Factors, Lanes] = {(): empty}
    for size in range(1, len(factors) + 1):
        table |= {subset: shares[subset] for subset in itertools.combinations(factors, size)}
    for done, i in enumerate(factors):
        rest = factors[done + 1 :]
        table = {
            subset: table[(i, *subset)] ^ (opened[:, i] & table[subset])
            for size in range(len(rest) + 1)
            for subset in itertools.combinations(rest, size)
        }
    return table[()]


def xor_of_chosen(chosen: Lanes, start: Lanes, stride: int, table: Lanes, n_chosen: int) -> Lanes:
    """XOR of table[start - stride j] over the set bits j of `chosen`; places wrap."""
    found, last, one = np.zeros_like(chosen), np.uint64(table.size - 1), np.uint64(1)
    for j in map(np.uint64, range(n_chosen)):
        found ^= table[start - j * np.uint64(stride) & last] * (chosen >> j & one)
    return found
