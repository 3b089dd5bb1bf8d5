"""Signs and orders that are opened: only where a proof shows that they may be known."""

import dataclasses

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.comparison import Comparison, plan_comparison
from gpumpc.protocols.relu import split_top
from gpumpc.ring import selection
from gpumpc.ring.backend import Words, lane_bytes, packed_bytes
from gpumpc.session import Session, Xor


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
class ChosenPairs:
    """[x_i < x_j], opened, of m pairs a row that both servers choose after the dealer dealt.

    **Computes** the sign of d = x_i - x_j from z = d + rho, rho fresh for each pair, so the dealer
    need not know which pairs. **Hides** everything but the opened bits, and the pairs must be a
    function of what was opened before; the caller must show that the bits may be known. **Cost** 1
    round and `bits` bits a pair, then `OpenedSign`. **Error** none for |d| < 2^(bits-1); a key
    against itself gives False. **Source** this project; docs/protocols.md section 9.
    """

    rows: int
    m: int
    bits: int

    @property
    def _sign(self) -> OpenedSign:
        return OpenedSign(self.rows * self.m, self.bits)

    @property
    def cost(self) -> Cost:
        return Cost.both_ways(1, packed_bytes(self.rows * self.m, self.bits)) + self._sign.cost

    def deal(self, dealing: Dealing) -> None:
        rho = dealing.sum_words("rho", (self.rows, self.m), self.bits)
        self._sign.deal(dealing, rho)

    def run(
        self, session: Session, x: Words, left: selection.Index, right: selection.Index
    ) -> selection.Bits:
        """Bits (rows, m) on the host, of this server's share x (rows, N) at host indices."""
        backend = session.backend
        difference = backend.gather(x, left) - backend.gather(x, right)
        [z] = session.open_many(session.masked(difference, "rho", self.bits))
        return self._sign.run(session, z)
