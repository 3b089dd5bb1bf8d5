"""Comparing public values with one that the dealer knows: [y < r].

Both numbers are cut into digits. The dealer shares by XOR, for each digit of r, the thermometer
code T[v] = [v < r_j]; each server then has its share of lt_j = [y_j < r_j] and eq_j = [y_j = r_j]
*locally*, by looking up its own share of the table at the public y_j. Digits are combined from the
top by

    (lt, eq)_hi . (lt, eq)_lo = (lt_hi ^ eq_hi lt_lo, eq_hi eq_lo),

up to four at a time: each lt and eq that is multiplied is opened under a fresh mask, and the dealer
has shared every product of masks that occurs.

Several y may be compared with one r (a clamp needs two); where they agree in the low `shared_low`
bits, these are one chain.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.chains import OPENED_WEIGHT, ROUND_WEIGHT, Chain, Node, plan_chain
from gpumpc.ring.backend import Lanes
from gpumpc.session import Session, Xor

Digit = tuple[Lanes, Lanes]  # shares of (lt, eq)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`copies` public values against one r of `high bits + shared_low` bits.

    **Computes** XOR shares of l_c = [y_c < r] for each copy c; all y_c agree in the low
    `shared_low` bits. **Hides** r and l_c from both servers: every opened bit carries a fresh
    uniform mask of both parties. **Cost** `rounds`; `opened_bits` and `dealt_bits` an element, as
    lanes. **Error** none.
    **Source** this project; docs/protocols.md section 6. Thermometer leaves after Boyle et al.'s
    lookup sharing idea.
    """

    high: Chain
    low: Chain | None
    copies: int = 1

    @property
    def bits(self) -> int:
        """Bits compared."""
        return sum(self.high.widths) + self.shared_low

    @property
    def shared_low(self) -> int:
        """Low bits in which all copies agree (0: no separate low chain)."""
        return sum(self.low.widths) if self.low else 0

    @property
    def n_levels(self) -> int:
        """Levels before the two chains meet."""
        return max(len(self.high.levels), len(self.low.levels) if self.low else 0)

    @property
    def rounds(self) -> int:
        """One a level, and one to merge a shared low chain."""
        return self.n_levels + (1 if self.low else 0)

    @property
    def opened_bits(self) -> int:
        """Bits an element opened by each server."""
        high = self.copies * self.high.opened_bits
        return high + (self.low.opened_bits + self.copies + 1 if self.low else 0)

    @property
    def dealt_bits(self) -> int:
        """Bits an element corrected: tables once, products for every tree."""
        high = self.high.table_bits + self.copies * self.high.product_bits
        return high + (self.low.table_bits + self.low.product_bits + self.copies if self.low else 0)

    # leaves

    def _tables(self) -> list[tuple[str, Chain, int]]:
        """(name, chain, lowest bit) of each chain."""
        chains = [("high", self.high, self.shared_low)]
        return chains + [("low", self.low, 0)] if self.low else chains

    def deal(self, dealing: Dealing, r_planes: Lanes, n: int) -> None:
        """Tables of r (planes of its low `bits` bits), then the masks' products of every level."""
        self._deal_tables(dealing, r_planes, n)
        self._deal_trees(dealing, n)

    def _deal_tables(self, dealing: Dealing, r_planes: Lanes, n: int) -> None:
        for name, chain, lowest in self._tables():
            for label, _, digits in _digits(chain, r_planes, lowest):
                table = dealing.backend.thermometer(digits)
                dealing.deal_lanes(f"table.{name}.{label}", table.reshape(-1, table.shape[-1]), n)

    def _deal_trees(self, dealing: Dealing, n: int) -> None:
        for level in range(self.n_levels):
            for node, places in self._level(level):
                _deal_products(dealing, f"level{level}.{_label(node)}", node, len(places), n)
        if self.low:
            _deal_merge(dealing, self.copies, n)

    def run(self, session: Session, y_planes: Sequence[Lanes], n: int) -> list[Lanes]:
        """Shares of l_c, a lane (n_lanes,) a copy, from the planes of y_c's low `bits` bits."""
        chains = self._leaves(session, y_planes, n)
        for level in range(self.n_levels):
            self._combine_level(session, chains, level, n)
        if self.low is None:
            return [chain[0][0] for chain in chains]
        return _merge(session, [chain[0] for chain in chains[:-1]], chains[-1][0][0], n)

    def _leaves(self, session: Session, y_planes: Sequence[Lanes], n: int) -> list[list[Digit]]:
        """(lt, eq) of every digit: a list a chain, the high one once a copy, the low one last."""
        per_table = []
        below = ones_at_party_0(session, n)
        for name, chain, lowest in self._tables():
            users = y_planes if name == "high" else y_planes[:1]
            found: list[list[Digit]] = [[] for _ in users]
            for runs in zip(*(_digits(chain, planes, lowest) for planes in users), strict=True):
                label, width, digits = runs[0]
                size = (1 << width) - 1
                table = self._table(session, f"table.{name}.{label}", len(digits) * size, n)
                table = table.reshape(len(digits), size, -1)
                for leaves, (_, _, digits) in zip(found, runs, strict=True):
                    lt, eq = session.backend.lookup(table, digits, below)
                    leaves.extend(zip(lt, eq, strict=True))
            per_table.extend(found)
        return per_table

    def _table(self, session: Session, name: str, planes: int, n: int) -> Lanes:
        return session.dealt_lanes(name, planes, n)

    # levels

    def _level(self, level: int) -> list[tuple[Node, list[tuple[int, int]]]]:
        """The kinds of node of one level, each with its places (chain, group); all run at once."""
        chains = [self.high] * self.copies + ([self.low] if self.low else [])
        kinds: dict[Node, list[tuple[int, int]]] = {}
        for c, chain in enumerate(chains):
            for g, node in enumerate(chain.nodes(level)):
                if node.fan_in > 1:
                    kinds.setdefault(node, []).append((c, g))
        return sorted(kinds.items(), key=lambda item: (item[0].fan_in, item[0].keep_eq))

    def _combine_level(
        self, session: Session, chains: list[list[Digit]], level: int, n: int
    ) -> None:
        structure = [self.high] * self.copies + ([self.low] if self.low else [])
        groups = list(map(_grouped, chains, structure, [level] * len(chains)))
        kinds = self._level(level)
        if not kinds:
            return
        work = []
        for node, places in kinds:
            name, inputs = f"level{level}.{_label(node)}", [groups[c][g] for c, g in places]
            work.append(_NodeRun(session, name, node, inputs, n))
        opened = session.open_many(*(Xor(run.masked, n) for run in work))
        for run, values, (_, places) in zip(work, opened, kinds, strict=True):
            for (c, g), result in zip(places, run.finish(values), strict=True):
                groups[c][g] = [result]
        chains[:] = [[group[0] for group in chain_groups] for chain_groups in groups]


def ones_at_party_0(session: Session, n: int) -> Lanes:
    """An XOR share of the lane of ones: (n_lanes,), zero past the last element."""
    return session.backend.constant_lane(1 - session.party, n)


def _label(node: Node) -> str:
    return f"{node.fan_in}{'e' if node.keep_eq else ''}"


def _grouped(nodes: list[Digit], chain: Chain, level: int) -> list[list[Digit]]:
    sizes = chain.levels[level] if level < len(chain.levels) else (1,) * len(nodes)
    taken = iter(nodes)
    return [list(itertools.islice(taken, size)) for size in sizes]


def _digits(chain: Chain, planes: Lanes, lowest: int) -> Iterator[tuple[str, int, Lanes]]:
    """Runs of digits of equal width, top first: (label, width, planes (digits, width, n_lanes))."""
    top = lowest + sum(chain.widths)
    for i, (width, run) in enumerate(itertools.groupby(chain.widths)):
        count = len(list(run))
        bottom = top - width * count
        block = planes[bottom:top].reshape(count, width, -1)
        yield f"{i}w{width}", width, block[::-1]
        top = bottom


def _deal_products(dealing: Dealing, name: str, node: Node, count: int, n: int) -> None:
    masks = dealing.xor_lanes(f"{name}.masks", count * node.n_masks, n)
    products = dealing.backend.mask_products(masks.reshape(count, node.n_masks, -1), node.products)
    dealing.deal_lanes(f"{name}.products", products.reshape(count * len(node.products), -1), n)


class _NodeRun:
    """All nodes of one kind at one level, between masking and unmasking."""

    def __init__(
        self, session: Session, name: str, node: Node, groups: list[list[Digit]], n: int
    ) -> None:
        self.session, self.node, self.count = session, node, len(groups)
        self.top_lt = [group[0][0] for group in groups]
        # Factors, in the node's numbering.
        rows = [
            [eq for _, eq in group[: node.n_eq]] + [lt for lt, _ in group[1:]] for group in groups
        ]
        factors = session.backend.concat([row[None] for group in rows for row in group], 0)
        self.masks = session.lanes(f"{name}.masks", self.count * node.n_masks, n)
        self.dealt = session.dealt_lanes(f"{name}.products", self.count * len(node.products), n)
        self.masked = factors ^ self.masks

    def finish(self, opened: Lanes) -> list[tuple[Lanes, Lanes]]:
        """(lt, eq) of each node from the opened factors; eq is lt where the node keeps none."""
        node = self.node
        opened = opened.reshape(self.count, node.n_masks, -1)
        masks = self.masks.reshape(self.count, node.n_masks, -1)
        dealt = self.dealt.reshape(self.count, len(node.products), -1)
        # Terms end with the product of all eq, where it is kept; the others are added to lt_{m-1}.
        lt_terms, eq_terms = node.terms[: node.fan_in - 1], node.terms[node.fan_in - 1 :]
        sums = (lt_terms, eq_terms) if node.keep_eq else (lt_terms,)
        found = self.session.backend.masked_products(
            opened, masks, dealt, sums, node.products, self.session.party
        )
        lts = [lt ^ more for lt, more in zip(self.top_lt, found[0], strict=True)]
        return list(zip(lts, found[-1] if node.keep_eq else lts, strict=True))


def _deal_merge(dealing: Dealing, copies: int, n: int) -> None:
    # masks a_c on eq_hi of each copy, then b on the shared lt_lo; products a_c b
    masks = dealing.xor_lanes("merge.masks", copies + 1, n)
    dealing.deal_lanes("merge.products", masks[:copies] & masks[copies:], n)


def _merge(session: Session, high: list[tuple[Lanes, Lanes]], lt_low: Lanes, n: int) -> list[Lanes]:
    """lt_hi ^ eq_hi lt_lo of every copy; the mask of lt_lo hides one value in several products."""
    copies = len(high)
    masks = session.lanes("merge.masks", copies + 1, n)
    products = session.dealt_lanes("merge.products", copies, n)
    factors = session.backend.concat([eq[None] for _, eq in high] + [lt_low[None]], 0)
    [opened] = session.open_many(Xor(factors ^ masks, n))
    low = opened[copies]
    results = []
    for c, (lt, _) in enumerate(high):
        # (e ^ a)(g ^ b) = e g ^ e b ^ g a ^ a b
        product = (opened[c] & masks[copies]) ^ (low & masks[c]) ^ products[c]
        if session.party == 0:
            product = product ^ (opened[c] & low)
        results.append(lt ^ product)
    return results


@functools.cache
def plan_comparison(bits: int, shared_low: int = 0, copies: int = 1) -> Comparison:
    """The cheapest comparison by weight of opened bits, dealt bits and rounds."""
    shared_low = shared_low if copies > 1 else 0

    def price(comparison: Comparison) -> int:
        bits = OPENED_WEIGHT * comparison.opened_bits + comparison.dealt_bits
        return bits + ROUND_WEIGHT * comparison.rounds

    options = []
    for depth in range(8):
        high = plan_chain(bits - shared_low, depth, shared_low > 0, copies)
        low = plan_chain(shared_low, depth, False, 1) if shared_low else None
        if high is not None and (low is not None or not shared_low):
            options.append(Comparison(high, low, copies))
    return min(options, key=price)
