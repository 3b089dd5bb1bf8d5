"""How a comparison cuts a run of bits into digits, and combines them in a tree of a few levels."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

from gpumpc.ring.backend import Factors

MAX_FAN_IN = 4
MAX_DIGIT_BITS = 4
# A plan's price, in bits an element: an opened bit is sent both ways; a round costs latency.
OPENED_WEIGHT = 2
ROUND_WEIGHT = 24


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of a tree: `fan_in` digits in, one (lt, eq) out; the lowest chain needs no eq.

    Factors are numbered eq_{m-1} .. eq_0 (eq_0 only where eq is kept), then lt_{m-2} .. lt_0;
    lt_{m-1} is never multiplied.
    """

    fan_in: int
    keep_eq: bool

    @property
    def n_eq(self) -> int:
        """Eq factors."""
        return self.fan_in if self.keep_eq else self.fan_in - 1

    @property
    def n_masks(self) -> int:
        """Opened bits: one a factor."""
        return self.n_eq + self.fan_in - 1

    @functools.cached_property
    def terms(self) -> tuple[Factors, ...]:
        """Factors of the products: eq_{m-1} .. eq_{j+1} lt_j, j = m-2 .. 0, then all eq."""
        terms = [tuple(range(j)) + (self.n_eq + j - 1,) for j in range(1, self.fan_in)]
        if self.keep_eq:
            terms.append(tuple(range(self.fan_in)))
        return tuple(terms)

    @functools.cached_property
    def products(self) -> tuple[Factors, ...]:
        """Every product of two or more masks that expanding the terms needs, in dealing order."""
        subsets = {
            subset
            for term in self.terms
            for size in range(2, len(term) + 1)
            for subset in itertools.combinations(term, size)
        }
        return tuple(sorted(subsets, key=lambda subset: (len(subset), subset)))


# There are six kinds of node; each works out its products once for all plans.
_node = functools.cache(Node)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Digit widths of a run of bits, and sizes of the groups each level combines, top first."""

    widths: tuple[int, ...]
    levels: tuple[tuple[int, ...], ...]
    keep_eq: bool

    def nodes(self, level: int) -> list[Node]:
        """The nodes of one level, top first; a group of one passes through."""
        sizes = self.levels[level] if level < len(self.levels) else ()
        return [_node(size, self.keep_eq or i + 1 < len(sizes)) for i, size in enumerate(sizes)]

    @property
    def _joins(self) -> list[Node]:
        """The nodes of all levels that combine two digits or more."""
        nodes = (self.nodes(level) for level in range(len(self.levels)))
        return [node for node in itertools.chain.from_iterable(nodes) if node.fan_in > 1]

    @property
    def table_bits(self) -> int:
        """Thermometer bits an element."""
        return sum((1 << width) - 1 for width in self.widths)

    @property
    def opened_bits(self) -> int:
        """Opened bits an element, all levels."""
        return sum(node.n_masks for node in self._joins)

    @property
    def product_bits(self) -> int:
        """Corrected products an element, all levels."""
        return sum(len(node.products) for node in self._joins)


def _spread(total: int, parts: int) -> tuple[int, ...]:
    """`total` cut into `parts` sizes that differ by one at most, larger first."""
    small, larger = divmod(total, parts)
    return (small + 1,) * larger + (small,) * (parts - larger)


def _groupings(n_digits: int, max_levels: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    if n_digits == 1:
        yield ()
    elif max_levels:
        for fan_in in range(2, MAX_FAN_IN + 1):
            sizes = _spread(n_digits, -(-n_digits // fan_in))
            for rest in _groupings(len(sizes), max_levels - 1):
                yield (sizes, *rest)


@functools.cache
def plan_chain(bits: int, max_levels: int, keep_eq: bool, copies: int) -> Chain | None:
    """The cheapest chain of at most `max_levels` levels, its tables serving `copies` trees."""

    def price(chain: Chain) -> int:
        return chain.table_bits + copies * (OPENED_WEIGHT * chain.opened_bits + chain.product_bits)

    chains = [
        Chain(_spread(bits, n_digits), levels, keep_eq)
        for n_digits in range(-(-bits // MAX_DIGIT_BITS), bits + 1)
        for levels in _groupings(n_digits, max_levels)
    ]
    return min(chains, key=price, default=None)
