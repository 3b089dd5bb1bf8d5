"""Public bookkeeping of a sort: keys in the s + 1 gaps of a sample of s sorted keys. No secrets."""

import math

import numpy as np
import numpy.typing as npt

from gpumpc.ring.selection import Bits, Index


class Places:
    """A binary search for the gaps of m other keys, at positions s to s + m - 1, all at once.

    `sample` (rows, s) holds the positions of the sample's keys, in ascending order.
    """

    def __init__(self, sample: Index, m: int) -> None:
        rows, size = sample.shape
        self._sample = sample
        self._low = np.zeros((rows, m), dtype=np.int64)
        self._high = np.full((rows, m), size, dtype=np.int64)
        self.others: Index = np.broadcast_to(np.arange(size, size + m), (rows, m))

    @property
    def gaps(self) -> Index:
        """(rows, m): how many keys of the sample are below each key, once the search is over."""
        return self._low

    def pivots(self) -> Index:
        """Positions (rows, m) of the keys to compare the others with.

        A search that is over asks for a result that it has, so that each level has m comparisons.
        """
        middle = np.minimum((self._low + self._high) // 2, self._sample.shape[1] - 1)
        return np.take_along_axis(self._sample, middle, axis=1)

    def narrow(self, below: Bits) -> None:
        """Take in whether each key is below its pivot."""
        middle, searching = (self._low + self._high) // 2, self._low < self._high
        self._high = np.where(searching & below, middle, self._high)
        self._low = np.where(searching & ~below, middle + 1, self._low)


def pairs_in_gaps(gaps: Index, cap: int) -> tuple[Index, Index] | None:
    """All pairs of keys in one gap, (rows, cap) indices each, the rest filled with (0, 0).

    `gaps` (rows, m) are the keys' gaps. None where a row has more than `cap` pairs.
    """
    rows, m = gaps.shape
    # Keys by row and gap: those of one gap stand together.
    place = (gaps + np.arange(rows)[:, None] * (gaps.max(initial=0) + 1)).ravel()
    keys = np.argsort(place, kind="stable")
    place = place[keys]
    found = [np.zeros((2, 0), dtype=np.int64)]
    for distance in range(1, rows * m):
        near = np.flatnonzero(place[:-distance] == place[distance:])
        if not len(near):
            break
        found.append(np.stack((keys[near], keys[near + distance])))
    left, right = np.concatenate(found, axis=1)
    counts = np.bincount(left // m, minlength=rows)
    if counts.max(initial=0) > cap:
        return None
    by_row = np.argsort(left // m, kind="stable")
    row = (left // m)[by_row]
    column = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    filled = np.zeros((2, rows, cap), dtype=np.int64)
    filled[:, row, column] = left[by_row] % m, right[by_row] % m
    return filled[0], filled[1]


def merged_order(sample: Index, gaps: Index, pairs: tuple[Index, Index], less: Bits) -> Index:
    """Positions (rows, s + m) in ascending order.

    `sample` and `gaps` are those of `Places`; less[q, p]: is the left key of a pair the smaller?
    """
    (rows, s), m = sample.shape, gaps.shape[1]
    left, right = pairs
    larger = np.where(less, right, left) + np.arange(rows)[:, None] * m
    rank = np.bincount(larger[left != right], minlength=rows * m).reshape(rows, m)
    # The keys of gap i come before the i-th key of the sample (from 0), by their ranks.
    after = np.broadcast_to(np.arange(s) * (m + 1) + m, (rows, s))
    place = np.concatenate((after, gaps * (m + 1) + rank), axis=1)
    others = np.broadcast_to(np.arange(s, s + m), gaps.shape)
    order = np.argsort(place, axis=1, kind="stable")
    return np.take_along_axis(np.concatenate((sample, others), axis=1), order, axis=1)


def most_pairs(n: int, sample: int, failure: float) -> int:
    """A number of pairs within the gaps of `sample` of n keys that is exceeded with a probability
    of at most `failure`, for n keys in a uniform order.

    The gaps' sizes g_0 .. g_s are uniform among all with sum n - s: geometric and independent,
    given their sum. With b such that P[max g > b] <= failure / 2, for every t > 0

        P[pairs > T] <= failure / 2 + M(t)^(s+1) e^(-tT) / P[sum = n-s],
        M(t) = sum over g <= b of P[g] e^(t g (g-1) / 2).
    """
    others, gaps = n - sample, sample + 1
    largest = max(1, _largest_gap(others, gaps, failure / 2))
    log_p, log_q = math.log(gaps / (gaps + others)), math.log(others / (gaps + others))
    choices = math.lgamma(n + 1) - math.lgamma(sample + 1) - math.lgamma(others + 1)
    log_sum = choices + gaps * log_p + others * log_q
    g = np.arange(largest + 1)
    t = np.geomspace(1e-5, 2.0, 97)[:, None] / largest
    terms: npt.NDArray[np.float64] = log_p + g * log_q + t * (g * (g - 1) / 2)
    top = terms.max(axis=1)
    log_m = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    bounds = (gaps * log_m - log_sum - math.log(failure / 2)) / t[:, 0]
    # In steps of a lane's 64 elements, and no more than all pairs.
    return min(64 * math.ceil(float(bounds.min()) / 64), others * (others - 1) // 2)


def _largest_gap(others: int, gaps: int, failure: float) -> int:
    """The least b with gaps P[g_0 > b] <= failure: P[g_0 > b] = C(n-b-1, s) / C(n, s)."""
    s = gaps - 1
    b = np.arange(others)
    # C(n-b-1, s) / C(n, s) is the product of (others - i) / (n - i) for i = 0 .. b.
    log_p = math.log(gaps) + np.cumsum(np.log((others - b) / (others + s - b)))
    return int((log_p > math.log(failure)).sum())
