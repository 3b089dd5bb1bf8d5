"""Keys in a secret random order, opened under masks that the dealer knows, in one protocol."""

import dataclasses

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.step import Clear, Step
from gpumpc.ring.backend import Words, packed_bytes
from gpumpc.session import Session
from gpumpc.shares import Additive


@dataclasses.dataclass(frozen=True, repr=False)
class Shuffled:
    """Keys x'' = sigma(pi(x)) row by row.

    Attributes:
        opened: y = x'' + r modulo 2^bits, the same at both servers; r is the dealer's.
        share: this server's share of x''.
        bits: of both.
    """

    opened: Words
    share: Words
    bits: int

    def __repr__(self) -> str:
        return f"Shuffled(bits={self.bits}, <secret>)"


@dataclasses.dataclass(frozen=True)
class Shuffle(Step):
    """Shuffle each row of value * 2^id_bits + position, and open it under a mask.

    **Computes** keys x = v 2^b + i (i the position in the row, b = id_bits) of v (Q, N) modulo
    2^value_bits; then shares of x'' = sigma(pi(x)) and the public y = x'' + r, modulo 2^(value_bits
    + b). S0 knows pi and S1 sigma, so neither knows the order. Where b = 0, x = v: values that are
    keys already. The low b bits are not masked before pi, and pi hides them after: nothing secret
    may be there, so keys with labels come whole. **Hides** x, pi and sigma: S0 sees x_1 - a and y,
    S1 sees x'_0 - a', and y is its own; a, a', g are uniform. Without g, S1's last message would
    tell S0 sigma(x') - sigma(a'), and with it sigma. **Cost** 3 rounds; S1 sends value_bits and all
    bits of a key an element, S0 all bits; both corrections again as many. **Error** none.
    **Source** this project, after Chase, Ghosh and Poburinnaya 2020 (secret-shared shuffle);
    docs/protocols.md section 9.
    """

    value_bits: int
    id_bits: int

    @property
    def bits(self) -> int:
        """Bits of a key."""
        return self.value_bits + self.id_bits

    @property
    def cost(self) -> Cost:
        narrow, wide = packed_bytes(self.n, self.value_bits), packed_bytes(self.n, self.bits)
        return Cost(3, s0_bytes=wide, s1_bytes=narrow + wide, dealer_bytes=narrow + wide)

    def deal(self, dealing: Dealing, *masks: object) -> Words:
        """Returns r (Q, N) for the steps that compare the opened keys."""
        rows, n = self.shape
        backend = dealing.backend
        pi = dealing.permutations(0, "pi", rows, n)
        sigma = dealing.permutations(1, "sigma", rows, n)
        a = dealing.words(1, "a", self.shape, self.value_bits)
        moved = backend.gather(dealing.words(0, "a'", self.shape, self.bits), sigma)
        # S1 gets beta = pi(a) - Delta and sigma(a') - b'; S0's parts of these are Delta and b'.
        dealing.deal_words("Delta", backend.gather(a, pi), self.value_bits)
        dealing.deal_words("b'", moved, self.bits)
        return backend.reduce(dealing.words(1, "g", self.shape, self.bits) - moved, self.bits)

    def run(self, session: Session, v: Additive) -> Shuffled:
        words = v.at_bits(session.backend, self.value_bits).words
        return (self._run_1 if session.party else self._run_0)(session, words)

    def _run_0(self, session: Session, v: Words) -> Shuffled:
        backend, (rows, n) = session.backend, self.shape
        masked = session.receive_words(self.shape, self.value_bits)
        keys = backend.scale(v + masked, 1 << self.id_bits, self.bits)
        if self.id_bits:
            keys = keys + backend.counting(n)
        delta = session.words("Delta", self.shape, self.value_bits)
        first = backend.gather(keys, session.permutations("pi", rows, n))
        first = first + backend.scale(delta, 1 << self.id_bits, self.bits)
        session.send_masked(first, "a'", self.bits)
        opened = session.receive_words(self.shape, self.bits)
        return Shuffled(opened, session.words("b'", self.shape, self.bits), self.bits)

    def _run_1(self, session: Session, v: Words) -> Shuffled:
        backend, (rows, n) = session.backend, self.shape
        session.send_masked(v, "a", self.value_bits)
        beta = session.correction(self.shape, self.value_bits)
        moved = session.correction(self.shape, self.bits)
        received = session.receive_words(self.shape, self.bits)
        # u = sigma(x'_0 - a' + beta) = sigma(pi(x)) - sigma(a')
        inner = received + backend.scale(beta, 1 << self.id_bits, self.bits)
        u = backend.gather(inner, session.permutations("sigma", rows, n))
        opened = backend.reduce(u + session.words("g", self.shape, self.bits), self.bits)
        session.send_words(opened, self.bits)
        return Shuffled(opened, backend.reduce(u + moved, self.bits), self.bits)

    def plain(self, clear: Clear, v: Words) -> Words:
        if not self.id_bits:
            return v
        return clear.backend.scale(v, 1 << self.id_bits, 64) + clear.backend.counting(self.shape[1])
