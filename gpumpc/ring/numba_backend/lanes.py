"""Loops over lanes, 64 elements at a time: tables of comparisons, and products of masked bits."""

import functools
import itertools

import numpy as np
import numpy.typing as npt
from numba import types

from gpumpc.ring.backend import Factors
from gpumpc.ring.numba_backend.jit import Lanes3, OutLanes3, OutWords2, Words, compiled

_TERMS = types.Array(types.int64, 2, "C", readonly=True)

# Lane words between two looks at the same table: they stay in the first-level cache.
_BLOCK = 256


@compiled(Lanes3, OutLanes3)
def thermometer_of(planes, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """out[d, v] = [v < r_d] from the planes of r_d, low bit first."""
    digits, width, lanes = planes.shape
    for d in range(digits):
        for start in range(0, lanes, _BLOCK):
            stop = min(start + _BLOCK, lanes)
            for i in range(start, stop):
                out[d, 0, i] = planes[d, 0, i]
            size = 1
            for b in range(1, width):
                # [v < r] with a new top bit: v without it -> top or old; v with it -> top and old.
                for v in range(size):
                    for i in range(start, stop):
                        top, old = planes[d, b, i], out[d, v, i]
                        out[d, size + 1 + v, i] = top & old
                        out[d, v, i] = top | old
                for i in range(start, stop):
                    out[d, size, i] = planes[d, b, i]
                size = 2 * size + 1


@compiled(Lanes3, Lanes3, Words, OutWords2, OutWords2)
def look_up(tables, planes, below, lt, eq):  # type: ignore[no-untyped-def]  # typed by its signature
    """lt = T[y] and eq = T[y - 1] ^ T[y], with T[-1] = below and T[2^b - 1] = 0."""
    digits, width, lanes = planes.shape
    size = 1 << width
    at = np.empty((size, _BLOCK), np.uint64)
    before = np.empty((size, _BLOCK), np.uint64)
    for d in range(digits):
        for start in range(0, lanes, _BLOCK):
            count = min(_BLOCK, lanes - start)
            # The lowest bit of y chooses between neighbours of the table itself.
            for v in range(size // 2):
                for i in range(count):
                    y = planes[d, 0, start + i]
                    left = tables[d, 2 * v - 1, start + i] if v else below[start + i]
                    middle = tables[d, 2 * v, start + i]
                    right = tables[d, 2 * v + 1, start + i] if v + 1 < size // 2 else np.uint64(0)
                    at[v, i] = middle ^ (y & (middle ^ right))
                    before[v, i] = left ^ (y & (left ^ middle))
            half = size // 2
            for b in range(1, width):
                half //= 2
                for v in range(half):
                    for i in range(count):
                        y = planes[d, b, start + i]
                        at[v, i] = at[2 * v, i] ^ (y & (at[2 * v, i] ^ at[2 * v + 1, i]))
                        before[v, i] = before[2 * v, i] ^ (
                            y & (before[2 * v, i] ^ before[2 * v + 1, i])
                        )
            for i in range(count):
                lt[d, start + i] = at[0, i]
                eq[d, start + i] = at[0, i] ^ before[0, i]


@compiled(Lanes3, Lanes3, Lanes3, _TERMS, OutLanes3)
def add_products(opened, masks, dealt, terms, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """out[s] ^= AND of the opened bits in `public`, and a share, for each row (s, public, share) of
    `terms`.

    Shares are numbered masks first; -1 is the constant one.
    """
    nodes, factors, lanes = opened.shape
    product = np.empty(_BLOCK, np.uint64)
    out[:] = np.uint64(0)
    for node in range(nodes):
        for start in range(0, lanes, _BLOCK):
            count = min(_BLOCK, lanes - start)
            for row in range(terms.shape[0]):
                target, public, share = terms[row, 0], terms[row, 1], terms[row, 2]
                first = 0
                if share >= factors:
                    for i in range(count):
                        product[i] = dealt[node, share - factors, start + i]
                elif share >= 0:
                    for i in range(count):
                        product[i] = masks[node, share, start + i]
                else:  # the constant and the first opened bit are that bit
                    while not (public >> first) & 1:
                        first += 1
                    for i in range(count):
                        product[i] = opened[node, first, start + i]
                    first += 1
                for f in range(first, factors):
                    if (public >> f) & 1:
                        for i in range(count):
                            product[i] &= opened[node, f, start + i]
                for i in range(count):
                    out[target, node, start + i] ^= product[i]


@compiled(Lanes3, Words, OutLanes3)
def multiply_masks(masks, chosen, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """out[node, j] = AND of the masks that are bits of chosen[j], at least two."""
    nodes, factors, lanes = masks.shape
    one = np.uint64(1)
    for node in range(nodes):
        for start in range(0, lanes, _BLOCK):
            stop = min(start + _BLOCK, lanes)
            for j in range(chosen.size):
                first, n_done = 0, 0
                for f in range(factors):
                    if (chosen[j] >> np.uint64(f)) & one:
                        if n_done == 0:
                            first = f
                        elif n_done == 1:
                            for i in range(start, stop):
                                out[node, j, i] = masks[node, first, i] & masks[node, f, i]
                        else:
                            for i in range(start, stop):
                                out[node, j, i] &= masks[node, f, i]
                        n_done += 1


@functools.cache
def terms_of(
    sums: tuple[tuple[Factors, ...], ...], products: tuple[Factors, ...], n_factors: int, party: int
) -> npt.NDArray[np.int64]:
    """Rows (sum, opened factors as bits, share) of `add_products`."""
    numbers = {(f,): f for f in range(n_factors)} | {
        subset: n_factors + j for j, subset in enumerate(products)
    }
    rows = []
    for number, terms in enumerate(sums):
        for factors in terms:
            for size in range(party, len(factors) + 1):  # the empty subset is party 0's
                for subset in itertools.combinations(factors, size):
                    public = sum(1 << f for f in factors if f not in subset)
                    rows.append((number, public, numbers[subset] if subset else -1))
    return np.array(rows, dtype=np.int64)
