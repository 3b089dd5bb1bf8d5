"""Public bookkeeping of a selection: permutations, pairs, ranks, survivors.

Host arrays, no secrets but permutations.
"""

import functools
import math

import numpy as np
import numpy.typing as npt

from gpumpc.params import Cipher
from gpumpc.ring import prg

Index = npt.NDArray[np.int64]
Bits = npt.NDArray[np.bool_]


def permutations(cipher: Cipher, key: bytes, rows: int, n: int) -> Index:
    """`rows` uniform permutations of n: the order of 64-bit stream words.

    Equal words (below n^2 / 2^65) keep order.
    """
    words = prg.expand(cipher, key, 8 * rows * n).view("<u8").reshape(rows, n)
    return np.argsort(words, axis=1, kind="stable").astype(np.int64)


def compose(first: Index, second: Index) -> Index:
    """The permutation that applies `first`, then `second`: x[first][second]."""
    return np.take_along_axis(first, second, axis=1)


def pairs(m: int) -> tuple[Index, Index]:
    """All (i, j) with i < j < m, in order."""
    left, right = np.triu_indices(m, 1)
    return left.astype(np.int64), right.astype(np.int64)


def repeat_rows(index: Index, rows: int) -> Index:
    """The same index for every row."""
    return np.broadcast_to(index, (rows, len(index)))


def order_of_pairs(less: Bits, m: int) -> Index:
    """Positions (rows, m) in ascending order from less[q, p] = [x_i < x_j] for all pairs."""
    left, right = pairs(m)
    ranks = np.zeros((len(less), m), dtype=np.int64)
    for q, row in enumerate(less):
        ranks[q] = np.bincount(right[row], minlength=m) + np.bincount(left[~row], minlength=m)
    return np.argsort(ranks, axis=1, kind="stable")


def survivors(below: Bits, pivots: Index, least: int, cap: int, mix: bytes) -> Index | None:
    """Positions (rows, cap): those below the row's pivot and the pivot, filled up with others.

    `mix` is a key both servers know, drawn independently of the order. None where a row has fewer
    than `least` or more than `cap` of them: the selection must be repeated under a new shuffle.
    """
    kept = below.copy()
    np.put_along_axis(kept, pivots, True, axis=1)
    counts = kept.sum(axis=1)
    if counts.min() < least or counts.max() > cap:
        return None
    # Stable: survivors first (the old sample's, with the largest, the pivot, before all), then
    # others; mixed by public fresh permutations, so that the next sample is a uniform one of what
    # is kept: `smallest_cap` counts on that.
    chosen = np.argsort(~kept, axis=1, kind="stable")[:, :cap].astype(np.int64)
    return compose(chosen, permutations("chacha20", mix, len(chosen), cap))


def smallest_cap(n: int, sample: int, rank: int, least: int, failure: float) -> int | None:
    """The fewest keys that hold the pivot's rank R but for `failure`; None where P[R < least] is
    above half of it.

    R is the overall rank (from 1) of the `rank`-th smallest of `sample` keys drawn from n:
    P[R = r] = C(r-1, rank-1) C(n-r, sample-rank) / C(n, sample).
    """
    # Twelve standard deviations above the mean, nothing is left that counts.
    top = min(
        n - sample + rank, int((rank + 12 * math.sqrt(rank) + 24) * (n + 1) / (sample + 1)) + 1
    )
    r = np.arange(rank, top + 1)
    log_p = (
        _log_binomial(r - 1, rank - 1)
        + _log_binomial(n - r, sample - rank)
        - _log_binomial(np.array([n]), sample)
    )
    reached = np.cumsum(np.exp(log_p))
    below_least = reached[min(least - 1, top) - rank] if least > rank else 0.0
    if below_least > failure / 2:
        return None
    cap = int(np.searchsorted(reached, 1.0 - failure + below_least))
    return rank + cap if cap < len(r) else None


def _log_binomial(n: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.float64]:
    table = _log_factorials(1 << int(n.max()).bit_length())
    logs: npt.NDArray[np.float64] = table[n] - table[k] - table[n - k]
    return logs


@functools.lru_cache(maxsize=4)
def _log_factorials(size: int) -> npt.NDArray[np.float64]:
    return np.cumsum(np.concatenate((np.zeros(1), np.log(np.arange(1.0, size + 1)))))
