"""Sorting shuffled keys: a sorted sample grows to the whole, by comparisons that are opened.

All keys beyond the sample are inserted at once: a binary search among the sorted keys, one opened
bit a key and level, and then all pairs of keys that fell between the same two.
"""

import dataclasses
import functools

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.ranking.opened_sign import ChosenPairs
from gpumpc.ring import gaps
from gpumpc.ring.backend import Words
from gpumpc.ring.selection import Index
from gpumpc.session import Session

# A pair chosen late costs as much as so many static ones: its difference is opened too. A level has
# four rounds, and these as much as so many pairs (5 ms, at a million pairs a second).
_LATE_PAIR = 1.6
_LEVEL = 5000
# Keys to each key of a sample.
_RATIOS = (4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Growth:
    """From the sorted first `sample` keys of a row to all its n sorted keys.

    **Computes** the order of n distinct keys in a uniform secret order. **Hides** nothing of that
    order, and all else: the bits are those of a random order. **Cost** sample.bit_length() levels
    of n - sample pairs and one of `pairs` pairs, whatever the order. **Error** none; where more
    than `pairs` pairs share a gap, there is no order. **Source** this project, after the sample
    sort of Frazer and McKellar 1970; docs/protocols.md section 9.
    """

    sample: int
    n: int
    pairs: int

    def _levels(self, rows: int, bits: int) -> list[ChosenPairs]:
        search = ChosenPairs(rows, self.n - self.sample, bits)
        return [search] * self.sample.bit_length() + [ChosenPairs(rows, self.pairs, bits)]

    def cost(self, rows: int, bits: int) -> Cost:
        """Of `rows` rows of keys of `bits` bits."""
        return sum((level.cost for level in self._levels(rows, bits)), Cost())

    @property
    def price(self) -> float:
        """In static pairs a row."""
        n_levels = self.sample.bit_length()
        n_pairs = n_levels * (self.n - self.sample) + self.pairs
        return _LATE_PAIR * n_pairs + _LEVEL * (n_levels + 1)

    def deal(self, dealing: Dealing, name: str, rows: int, bits: int) -> None:
        for number, level in enumerate(self._levels(rows, bits)):
            dealing.at(f"{name}/level{number}")
            level.deal(dealing)

    def run(self, session: Session, name: str, x: Words, order: Index, bits: int) -> Index | None:
        """Ascending positions (rows, n) from those of the sample (rows, sample)."""
        *search, last = self._levels(len(order), bits)
        places = gaps.Places(order, self.n - self.sample)
        for number, level in enumerate(search):
            session.at(f"{name}/level{number}")
            places.narrow(level.run(session, x, places.others, places.pivots()))
        pairs = gaps.pairs_in_gaps(places.gaps, self.pairs)
        if pairs is None:
            return None
        session.at(f"{name}/level{len(search)}")
        less = last.run(session, x, *(side + self.sample for side in pairs))
        return gaps.merged_order(order, places.gaps, pairs, less)


@dataclasses.dataclass(frozen=True)
class Sort:
    """All pairs of the first `base` keys, then growths to all n."""

    base: int
    growths: tuple[Growth, ...] = ()

    @property
    def price(self) -> float:
        """In static pairs a row."""
        return self.base * (self.base - 1) / 2 + sum(growth.price for growth in self.growths)


@functools.lru_cache(maxsize=1024)
def plan_sort(n: int, failure: float) -> Sort:
    """The cheapest way to sort n keys; each growth fails at most with the probability `failure`."""
    options = [Sort(n)]
    for sample in (n // ratio for ratio in _RATIOS):
        growth = _LATE_PAIR * (n - sample) * sample.bit_length()
        # Below this, all pairs are cheaper whatever the gaps hold.
        if sample >= 8 and growth < options[0].price:
            inner = plan_sort(sample, failure)
            grown = Growth(sample, n, gaps.most_pairs(n, sample, failure))
            options.append(Sort(inner.base, (*inner.growths, grown)))
    return min(options, key=lambda option: option.price)
