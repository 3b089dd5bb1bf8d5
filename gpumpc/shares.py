"""Shares: each carries its bits, scale and owner, and does not print its words."""

from __future__ import annotations

import dataclasses

from gpumpc.errors import BitsMismatch, ForeignShare, FracMismatch, RevealError
from gpumpc.params import Cipher
from gpumpc.ring.backend import Backend, Operand, Words

# A share that is drawn from a seed is sent as the seed.
SEED_BYTES = 32


@dataclasses.dataclass(frozen=True, repr=False)
class Additive:
    """One party's share x_p of x = x_0 + x_1 modulo 2^bits, whatever word holds it.

    Attributes:
        words: the share; bits above `bits` carry no meaning.
        bits: the share is one modulo 2^bits.
        frac: fraction bits of x.
        divisor: the real value is x / (2^frac * divisor); above 1 after averages over odd windows.
        owner: which session the share belongs to; shares of two owners do not mix.
    """

    words: Words
    bits: int
    frac: int = 0
    divisor: int = 1
    owner: str = ""

    def __repr__(self) -> str:
        shape = tuple(self.words.shape)
        return f"Additive(shape={shape}, bits={self.bits}, frac={self.frac}, <secret>)"

    def at_bits(self, backend: Backend, bits: int) -> Additive:
        """The value modulo a smaller power of two: exact. Raises BitsMismatch for a larger one."""
        self.check_bits(bits)
        return dataclasses.replace(self, words=backend.reduce(self.words, bits), bits=bits)

    def check_bits(self, bits: int) -> None:
        """Raises BitsMismatch if more bits are needed."""
        if bits > self.bits:
            raise BitsMismatch(
                f"a share modulo 2^{self.bits} was used where one modulo 2^{bits} is needed",
                "its upper bits are not shares of anything",
                "lift it first",
            )

    def with_words(self, words: Words) -> Additive:
        """Another share of the same kind."""
        return dataclasses.replace(self, words=words)

    def check_like(self, other: Additive) -> None:
        """Raises FracMismatch for another scale, ForeignShare for another owner."""
        if (self.frac, self.divisor) != (other.frac, other.divisor):
            raise FracMismatch(
                f"shares at scale 2^{self.frac} * {self.divisor} and 2^{other.frac} * "
                f"{other.divisor} were combined",
                "the sum would mean nothing",
                "truncate or rescale one of them first",
            )
        if self.owner != other.owner:
            raise _foreign("shares")

    def plus(self, backend: Backend, other: Additive) -> Additive:
        """x + y modulo the smaller power of two."""
        self.check_like(other)
        bits = min(self.bits, other.bits)
        words = backend.reduce(self.words + other.words, bits)
        return dataclasses.replace(self, words=words, bits=bits)


@dataclasses.dataclass(frozen=True, repr=False)
class Masked:
    """An opened masked value, the same at both servers, and the server's share of its mask.

    Attributes:
        opened: E = X - A modulo 2^bits, public to both servers.
        mask: this server's share A_p, as an operand of products.
    """

    opened: Operand
    mask: Operand
    bits: int
    frac: int
    divisor: int = 1
    owner: str = ""

    def check_bits(self, bits: int) -> None:
        """Raises BitsMismatch where a product needs more bits than were opened."""
        if bits > self.bits:
            raise BitsMismatch(
                f"an operand opened modulo 2^{self.bits} was used where 2^{bits} is needed",
                "its upper bits were never opened",
                "open it modulo the power of two of the product",
            )

    def check_like(self, other: Masked) -> None:
        """Raises ForeignShare for another owner."""
        if self.owner != other.owner:
            raise _foreign("operands")

    def __repr__(self) -> str:
        return f"Masked(bits={self.bits}, frac={self.frac}, <secret>)"


def _foreign(what: str) -> ForeignShare:
    why = "their masks are unrelated"
    return ForeignShare(f"{what} of two sessions were combined", why, "use one session")


def split(
    backend: Backend, cipher: Cipher, key: bytes, words: Words, bits: int
) -> tuple[Words, Words]:
    """x -> (x_0, x_1) with x_0 drawn from `key` modulo 2^bits, so that it is sent as 32 bytes."""
    share_0 = backend.expand_words(cipher, key, words.shape, bits)
    return share_0, backend.reduce(words - share_0, bits)


def reconstruct(backend: Backend, share_0: Additive, share_1: Additive) -> Words:
    """x_0 + x_1 modulo 2^bits. Raises RevealError where the two do not belong together."""
    kind_0, kind_1 = (
        (share.words.shape, share.bits, share.frac, share.divisor, share.owner)
        for share in (share_0, share_1)
    )
    if kind_0 != kind_1:
        raise RevealError(
            "the two result shares do not belong together",
            f"one is {share_0}, the other {share_1}",
            "ask both servers for the result of the same request",
        )
    return backend.reduce(share_0.words + share_1.words, share_0.bits)
