"""The numbers a plan is compiled with."""

from __future__ import annotations

from typing import Literal

import msgspec

from gpumpc.errors import PlanError

Cipher = Literal["aes128ctr", "chacha20"]
Weights = Literal["private", "public"]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen parameters of a plan; every party compares them in the handshake.

    Attributes:
        k: valid bits of a product, 2f < k <= 62.
        f: fraction bits of activations and weights.
        cipher: the generator behind every mask.
        weights: `private` (shared, opened only under a static mask) or `public`.
    """

    k: int = 40
    f: int = 13
    cipher: Cipher = "aes128ctr"
    weights: Weights = "private"

    def __post_init__(self) -> None:
        if not 1 <= self.f or not 2 * self.f < self.k <= 62:
            raise PlanError(
                f"k = {self.k} and f = {self.f} do not make a fixed-point ring",
                "a product needs 2f fraction bits, a sign and room above them, in at most 62 bits",
                "choose 1 <= f and 2f < k <= 62, for example k = 40, f = 13",
            )
