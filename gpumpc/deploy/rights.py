"""Who may do what with a plan, and how much in a day, as the servers' configurations grant it."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from gpumpc.program.head import Policy

# share: put images at the servers. extract: have features computed and kept. fetch: be sent kept
# features. search: make indexes and search them. run: be sent whatever the plan results in.
# classify: be sent classes, as far as a policy shows them.
Right = Literal["share", "extract", "fetch", "search", "run", "classify"]
RIGHTS: tuple[Right, ...] = get_args(Right)

Names = list[Annotated[str, msgspec.Meta(min_length=1)]]
Amount = Annotated[int, msgspec.Meta(ge=0)]


class Rights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One plan's grants: names of cards by right, and in `classify` each with its policy."""

    share: Names = []
    extract: Names = []
    fetch: Names = []
    search: Names = []
    run: Names = []
    classify: dict[str, Policy] = {}

    @property
    def names(self) -> set[str]:
        """Everybody who is granted something."""
        return {name for right in RIGHTS for name in getattr(self, right)}

    def granted(self, right: Right) -> list[str]:
        """Who is granted a right, in order; with the policies in `classify`."""
        if right == "classify":
            return sorted(f"{name} {policy}" for name, policy in self.classify.items())
        return sorted({*getattr(self, right)})


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much one user may ask of a plan in a day (UTC); None: any number.

    Attributes:
        images: that are evaluated.
        queries: that an index is searched for.
    """

    images: Amount | None = None
    queries: Amount | None = None
