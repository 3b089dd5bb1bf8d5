"""Arithmetic on lanes, 64 elements to a word, for the NumPy definition: transposition, and products
of masked bits.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from gpumpc.ring.backend import Factors, n_lanes

Lanes = np.ndarray

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


def transpose_64x64(rows: np.ndarray) -> np.ndarray:
    """Bit-transpose in place: rows (64, L), bit b of row r <-> bit r of row b, for each of L
    columns.
    """
    for j, m in _SWAPS:
        pairs = rows.reshape(64 // (2 * int(j)), 2, int(j), -1)
        low, high = pairs[:, 0], pairs[:, 1]
        swap = ((low >> j) ^ high) & m
        high ^= swap
        swap <<= j
        low ^= swap
    return rows


def lane_of_bits(bits: np.ndarray) -> np.ndarray:
    """uint8 zeros and ones (n,) -> lane words (n_lanes,)."""
    lane = np.zeros(8 * n_lanes(bits.size), dtype=np.uint8)
    packed = np.packbits(bits, bitorder="little")
    lane[: packed.size] = packed
    return lane.view(np.uint64)


def masked_product(
    opened: Lanes, shares: dict[Factors, Lanes], factors: Factors, party: int
) -> Lanes:
    """Share of prod_i (o_i ^ m_i), folding one factor at a time.

    After folding factor i, entry S holds the share of prod_{folded} (o ^ m) * prod_{j in S} m_j.
    The empty product is the public one, held by party 0 as "all ones": None stands for it, or for
    zero at party 1.
    """
    table: dict[Factors, Lanes | None] = {(): None}
    for size in range(1, len(factors) + 1):
        table |= {subset: shares[subset] for subset in itertools.combinations(factors, size)}
    for done, i in enumerate(factors):
        rest = factors[done + 1 :]
        folded: dict[Factors, Lanes | None] = {}
        for size in range(len(rest) + 1):
            for subset in itertools.combinations(rest, size):
                folded[subset] = _fold(
                    table[(i, *subset)], opened[:, i], table[subset], party == 0 and done == 0
                )
        table = folded
    product: Any = table[()]  # every factor has been folded: a lane, not the empty product
    found: Lanes = product
    return found


def _fold(with_mask: Any, factor: Lanes, without: Lanes | None, ones: bool) -> Any:
    """share[S + i] ^ o_i & share[S]; an absent share[S] is the empty product."""
    if without is None:
        return with_mask ^ factor if ones else with_mask
    return with_mask ^ (factor & without)
