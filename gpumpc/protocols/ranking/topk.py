"""The k smallest keys, exactly, from shuffled masked keys, by comparisons that are opened.

With distinct keys in a secret uniform order, every opened bit is a bit of a random order: a
simulator draws a permutation and answers from it, survivor counts included. So no threshold may
come from a user, no shuffle may serve two queries, and the sample is taken after the shuffle.
"""

import dataclasses
import functools
import hashlib

from gpumpc.cost import Cost
from gpumpc.errors import SelectionFailed
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.comparison import Comparison, plan_comparison
from gpumpc.protocols.ranking.shuffle import Shuffled
from gpumpc.protocols.relu import split_top
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring import selection
from gpumpc.ring.backend import Backend, Words, lane_bytes, packed_bytes
from gpumpc.session import Session, Xor
from gpumpc.shares import Additive

# At most this likely, a pass fails and the whole selection is repeated under a new shuffle.
FAILURE = 1e-4
_SAMPLES = (16, 24, 32, 48, 64, 96)
_MAX_RANK = 24


@dataclasses.dataclass(frozen=True)
class OpenedSign:
    """[x < 0] of n flat values, opened, from z = x + rho with rho the dealer's.

    **Computes** msb(x) = msb(z) ^ msb(rho) ^ [z_low < rho_low] for |x| < 2^(bits-1).
    **Hides** everything about x except its sign; the caller must show that the signs may be known.
    **Cost** 1 + tree rounds; tree + 1 bits an element each way; nothing where n is 0 (the pairs of
    a single key). **Error** none. **Source** docs/protocols.md section 9.
    """

    n: int
    bits: int

    @property
    def comparison(self) -> Comparison:
        return plan_comparison(self.bits - 1)

    @property
    def cost(self) -> Cost:
        tree = self.comparison
        if not self.n:
            return Cost()
        sent, dealt = (lane_bytes(self.n, bits + 1) for bits in (tree.opened_bits, tree.dealt_bits))
        return Cost.both_ways(1 + tree.rounds, sent, dealt)

    def deal(self, dealing: Dealing, rho: Words) -> None:
        if not self.n:
            return
        low, top = split_top(dealing.backend.to_planes(rho.reshape(-1), self.bits))
        self.comparison.deal(dealing, low, self.n)
        dealing.deal_lanes("top", top[None], self.n)

    def run(self, session: Session, z: Words) -> selection.Bits:
        """Bits on the host, in the shape of z."""
        backend = session.backend
        if not self.n:
            nothing: selection.Bits = backend.download_bits(backend.constant_lane(0, 0), z.shape)
            return nothing
        z = backend.reduce(z, self.bits)
        low, top = split_top(backend.to_planes(z.reshape(-1), self.bits))
        [less] = self.comparison.run(session, [low], self.n)
        share = less ^ session.dealt_lanes("top", 1, self.n)[0]
        if session.party == 0:
            share = share ^ top
        [opened] = session.open_many(Xor(share[None], self.n))
        bits: selection.Bits = backend.download_bits(opened[0], z.shape)
        return bits


@dataclasses.dataclass(frozen=True)
class Pass:
    """Keeps at most `cap` of n keys a row: those up to the `rank`-th smallest of a sample."""

    n: int
    sample: int
    rank: int
    cap: int


@functools.lru_cache(maxsize=256)
def plan_passes(n: int, k: int) -> tuple[Pass, ...]:
    """The passes before all pairs are compared, each the cheapest by an estimate of the rest."""
    options = [
        Pass(n, sample, rank, cap)
        for sample in _SAMPLES
        if 2 * sample <= n
        for rank in range(1, min(sample // 2, _MAX_RANK))
        if (cap := selection.smallest_cap(n, sample, rank, k, FAILURE)) is not None and 2 * cap <= n
    ]
    best = min(options, key=_price, default=None)
    if best is None or _price(best) >= n * (n - 1) / 2:
        return ()
    return (best, *plan_passes(best.cap, k))


def _price(p: Pass) -> float:
    """Comparisons of a pass and, estimated, of all that follow."""
    return p.sample * (p.sample - 1) / 2 + p.n + min(p.cap * (p.cap - 1) / 2, 1.5 * p.cap + 2500)


@dataclasses.dataclass(frozen=True)
class TopK(Step):
    """The k smallest of each row's shuffled keys, ascending.

    **Computes** shares of the k smallest of x'' (Q, N) modulo 2^bits, in order, for distinct keys
    that differ by less than 2^(bits-1).
    **Hides** keys, ids and which rows they came from; the opened bits are those of a uniformly
    random order. **Cost** the sum over passes and the last all-pairs comparison; fixed in advance,
    whatever the data. **Error** none; with probability below `FAILURE` a pass and row it raises
    SelectionFailed, and nothing is released. **Source** this project; docs/protocols.md section 9.
    """

    bits: int
    k: int

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The thinnings before all pairs are compared."""
        return plan_passes(self.shape[1], self.k)

    def _pairs(self, m: int) -> OpenedSign:
        return OpenedSign(self.shape[0] * m * (m - 1) // 2, self.bits)

    @property
    def cost(self) -> Cost:
        rows = self.shape[0]
        total = Cost()
        last = self.shape[1]
        for p in self.passes:
            opened_pivot = Cost.both_ways(1, packed_bytes(rows, self.bits))
            opened_again = Cost.both_ways(1, packed_bytes(rows * p.cap, self.bits))
            total = total + self._pairs(p.sample).cost + opened_pivot + opened_again
            total = total + OpenedSign(rows * p.n, self.bits).cost
            last = p.cap
        return total + self._pairs(last).cost

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
        self._pairs(r.shape[1]).deal(dealing, self._differences(backend, r, r.shape[1]))

    def run(self, session: Session, keys: Shuffled) -> Additive:
        backend = session.backend
        opened, share = keys.opened, keys.share
        for number, p in enumerate(self.passes):
            index = self._thin(session, f"{self.name}/pass{number}", p, opened, share)
            share = backend.gather(share, index)
            [opened] = session.open_many(session.masked(share, "r'", self.bits))
        session.at(f"{self.name}/last")
        order = self._order(session, opened, opened.shape[1])
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
            why = f"it happens less than once in {1 / FAILURE:g} searches"
            raise SelectionFailed("a search met an unlucky sample", why, "ask again")
        return kept

    def _order(self, session: Session, opened: Words, m: int) -> selection.Index:
        """Ascending positions of the first m opened keys of each row, all compared with all."""
        differences = self._differences(session.backend, opened, m)
        return selection.order_of_pairs(self._pairs(m).run(session, differences), m)

    def _differences(self, backend: Backend, words: Words, m: int) -> Words:
        left, right = (selection.repeat_rows(side, self.shape[0]) for side in selection.pairs(m))
        return backend.reduce(backend.gather(words, left) - backend.gather(words, right), self.bits)

    def plain(self, clear: Clear, keys: Words) -> Words:
        return clear.backend.smallest_signed(keys, self.k)
