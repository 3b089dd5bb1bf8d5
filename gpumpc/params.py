"""The numbers a plan is compiled with."""

from collections.abc import Iterable
from typing import Literal, get_args

import msgspec

from gpumpc.arguments import shown
from gpumpc.errors import BadValue, GpumpcError, PlanError

Cipher = Literal["aes128ctr", "chacha20"]
Weights = Literal["private", "public"]


def one_of(
    option: str,
    value: str,
    allowed: Iterable[str],
    error: type[GpumpcError] = BadValue,
    more: str = "",
) -> None:
    """Check an option against the values it may have.

    Args:
        option: its name, for the message.
        more: ends the hint, where something else than these values may be given as well.

    Raises `error`, which names the allowed values.
    """
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        hint = f"use {', '.join(names[:-1])}{' or ' if names[1:] else ''}{names[-1]} {more}"
        why = f"{option} has {len(names)} known value{'s' if names[1:] else ''}"
        raise error(f"{option} {shown(value)} is not known", why, hint.strip())


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen parameters of a plan; every party compares them in the handshake.

    Attributes:
        ring_bits: k, the valid bits of a product, 2f < k <= 62.
        frac_bits: f, the fraction bits of activations and weights.
        cipher: the generator behind every mask.
        weights: `private` (shared, opened only under a static mask) or `public`.
    """

    ring_bits: int = 40
    frac_bits: int = 13
    cipher: Cipher = "aes128ctr"
    weights: Weights = "private"

    def __post_init__(self) -> None:
        one_of("cipher", self.cipher, get_args(Cipher), PlanError)
        one_of("weights", self.weights, get_args(Weights), PlanError)
        is_whole = all(type(bits) is int for bits in (self.ring_bits, self.frac_bits))
        if not is_whole or not 1 <= self.frac_bits or not 2 * self.frac_bits < self.ring_bits <= 62:
            k, f = shown(self.ring_bits), shown(self.frac_bits)
            what = f"k = {k} and f = {f} do not make a fixed-point ring"
            why = "a product needs 2f fraction bits, a sign and room above them, in at most 62 bits"
            raise PlanError(what, why, "choose 1 <= f and 2f < k <= 62, for example k = 40, f = 13")
