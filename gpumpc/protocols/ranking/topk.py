"""The k smallest keys, exactly, from shuffled masked keys, by comparisons that are opened.

With distinct keys in a secret uniform order, every opened bit is a bit of a random order: a
simulator draws a permutation and answers from it, survivor counts included. So no threshold may
come from a user, no shuffle may serve two queries, and the sample is taken after the shuffle.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

from gpumpc.cost import Cost
from gpumpc.errors import SelectionFailed
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.ranking.growth import Sort, plan_sort
from gpumpc.protocols.ranking.opened_sign import OpenedSign
from gpumpc.protocols.ranking.shuffle import Shuffled
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring import selection
from gpumpc.ring.backend import Backend, Words, packed_bytes
from gpumpc.session import Session
from gpumpc.shares import Additive

# At most this likely, a pass or a growth fails and the whole selection is repeated under a new
# shuffle.
FAILURE = 1e-4
_SAMPLES = (16, 24, 32, 48, 64, 96)
_MAX_RANK = 24
# For more neighbours than this, larger samples come into question, at a coarser choice of ranks.
_FEW = 96
_LARGE_SAMPLES = (128, 256, 512)


@dataclasses.dataclass(frozen=True)
class Pass:
    """Keeps at most `cap` of n keys a row: those up to the `rank`-th smallest of a sample."""

    n: int
    sample: int
    rank: int
    cap: int


@functools.lru_cache(maxsize=256)
def plan_passes(n: int, k: int) -> tuple[Pass, ...]:
    """The passes before the rest is sorted, each the cheapest by an estimate of what follows."""
    options = [
        Pass(n, sample, rank, cap)
        for sample, rank, most in _choices(n, k)
        # The cap is above the mean of the pivot's rank, and k below it.
        if k < rank * (n + 1) / (sample + 1) < most
        and (cap := selection.smallest_cap(n, sample, rank, k, FAILURE)) is not None
        and cap <= most
    ]
    best = min(options, key=lambda option: _price(option, k), default=None)
    if best is None:
        return ()
    passes = (best, *plan_passes(best.cap, k))
    price = sum(map(_pass_price, passes)) + plan_sort(passes[-1].cap, FAILURE).price
    return passes if price < plan_sort(n, FAILURE).price else ()


def _choices(n: int, k: int) -> Iterator[tuple[int, int, int]]:
    """(sample, rank, most keys that may be kept) of the passes to choose from."""
    for sample in _SAMPLES:
        if 2 * sample <= n:
            yield from ((sample, rank, n // 2) for rank in range(1, min(sample // 2, _MAX_RANK)))
    for sample in _LARGE_SAMPLES:
        if k > _FEW and 8 * sample <= n:
            step = sample // 32
            yield from ((sample, rank, 3 * n // 4) for rank in range(step, 24 * step, step))


def _pass_price(p: Pass) -> float:
    """Static comparisons of a pass a row."""
    return p.sample * (p.sample - 1) / 2 + p.n


def _price(p: Pass, k: int) -> float:
    """Comparisons of a pass and, estimated, of all that follow."""
    rest = 1.5 * p.cap + max(2500, plan_sort(5 * k // 4, FAILURE).price)
    if k <= _FEW:
        rest = 1.5 * p.cap + 2500
    return _pass_price(p) + min(plan_sort(p.cap, FAILURE).price, rest)


@dataclasses.dataclass(frozen=True)
class TopK(Step):
    """The k smallest of each row's shuffled keys, ascending.

    **Computes** shares of the k smallest of x'' (Q, N) modulo 2^bits, in order, for distinct keys
    that differ by less than 2^(bits-1).
    **Hides** keys, ids and which rows they came from; the opened bits are those of a uniformly
    random order. **Cost** the sum over passes and the sort of what is left; fixed in advance,
    whatever the data. **Error** none; with probability below `FAILURE` a pass or growth and row it
    raises SelectionFailed, and nothing is released. **Source** this project; docs/protocols.md
    section 9.
    """

    bits: int
    k: int

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The thinnings before all that is left is sorted."""
        return plan_passes(self.shape[1], self.k)

    @property
    def sort(self) -> Sort:
        """How what is left is sorted."""
        return plan_sort(self.passes[-1].cap if self.passes else self.shape[1], FAILURE)

    def _pairs(self, m: int) -> OpenedSign:
        return OpenedSign(self.shape[0] * m * (m - 1) // 2, self.bits)

    @property
    def cost(self) -> Cost:
        rows = self.shape[0]
        total = Cost()
        for p in self.passes:
            opened_pivot = Cost.both_ways(1, packed_bytes(rows, self.bits))
            opened_again = Cost.both_ways(1, packed_bytes(rows * p.cap, self.bits))
            total = total + self._pairs(p.sample).cost + opened_pivot + opened_again
            total = total + OpenedSign(rows * p.n, self.bits).cost
        grown = (growth.cost(rows, self.bits) for growth in self.sort.growths)
        return sum(grown, total + self._pairs(self.sort.base).cost)

    def deal(self, dealing: Dealing, *masks: Words) -> None:
        [r] = masks
        backend, rows = dealing.backend, self.shape[0]
        for number, p in enumerate(self.passes):
            dealing.at(f"{self.name}/pass{number}/sample")
            self._pairs(p.sample).deal(dealing, self._differences(backend, r, p.sample))
            dealing.at(f"{self.name}/pass{number}")
            pivot_mask = dealing.sum_words("R*", (rows, 1), self.bits)
            less_pivot = backend.reduce(r - pivot_mask, self.bits)
            OpenedSign(rows * p.n, self.bits).deal(dealing, less_pivot)
            r = dealing.sum_words("r'", (rows, p.cap), self.bits)
        dealing.at(f"{self.name}/last")
        sort = self.sort
        self._pairs(sort.base).deal(dealing, self._differences(backend, r, sort.base))
        for number, growth in enumerate(sort.growths):
            growth.deal(dealing, f"{self.name}/growth{number}", rows, self.bits)

    def run(self, session: Session, keys: Shuffled) -> Additive:
        backend = session.backend
        opened, share = keys.opened, keys.share
        for number, p in enumerate(self.passes):
            index = self._thin(session, f"{self.name}/pass{number}", p, opened, share)
            share = backend.gather(share, index)
            [opened] = session.open_many(session.masked(share, "r'", self.bits))
        order = self._sorted(session, opened, share)
        words = backend.gather(share, order[:, : self.k])
        return Additive(backend.reduce(words, self.bits), self.bits)

    def _thin(
        self, session: Session, name: str, p: Pass, opened: Words, share: Words
    ) -> selection.Index:
        """Positions of the survivors of one pass."""
        backend, rows = session.backend, self.shape[0]
        session.at(f"{name}/sample")
        pivots = self._order(session, opened, p.sample)[:, p.rank - 1 : p.rank]
        session.at(name)
        # w = x_p + R*: the tables sit on r_i - R*, so that y_i - w compares x_i with x_p.
        [w] = session.open_many(session.masked(backend.gather(share, pivots), "R*", self.bits))
        below = OpenedSign(rows * p.n, self.bits).run(session, opened - w)
        # w is uniform, public and independent of the order: a coin for the next sample.
        coin = hashlib.sha256(backend.download(w).tobytes()).digest()
        kept = selection.survivors(below, pivots, self.k, p.cap, coin)
        if kept is None:
            raise _unlucky()
        return kept

    def _sorted(self, session: Session, opened: Words, share: Words) -> selection.Index:
        """Ascending positions of all keys that are left."""
        session.at(f"{self.name}/last")
        order = self._order(session, opened, self.sort.base)
        for number, growth in enumerate(self.sort.growths):
            name = f"{self.name}/growth{number}"
            grown = growth.run(session, name, share, order, self.bits)
            if grown is None:
                raise _unlucky()
            order = grown
        return order

    def _order(self, session: Session, opened: Words, m: int) -> selection.Index:
        """Ascending positions of the first m opened keys of each row, all compared with all."""
        differences = self._differences(session.backend, opened, m)
        return selection.order_of_pairs(self._pairs(m).run(session, differences), m)

    def _differences(self, backend: Backend, words: Words, m: int) -> Words:
        left, right = (selection.repeat_rows(side, self.shape[0]) for side in selection.pairs(m))
        return backend.reduce(backend.gather(words, left) - backend.gather(words, right), self.bits)

    def plain(self, clear: Clear, keys: Words) -> Words:
        return clear.backend.smallest_signed(keys, self.k)


def _unlucky() -> SelectionFailed:
    why = f"it happens less than once in {1 / FAILURE:g} searches"
    return SelectionFailed("a search met an unlucky sample", why, "ask again")
