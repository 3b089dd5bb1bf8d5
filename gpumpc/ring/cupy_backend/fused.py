"""Steps of the protocols in one pass each: what their formulas need, without a trip through memory.

Those without a docstring are the contract's. The others go beyond it: each equals the composition
of the contract's operations that its docstring names, bit for bit; the tests hold it to that.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpumpc.errors import BadShape
from gpumpc.params import Cipher
from gpumpc.ring import prg
from gpumpc.ring.backend import Factors, Lanes, LiftLanes, Words, lane_bytes, n_lanes, packed_bytes
from gpumpc.ring.cupy_backend.base import BLOCK, THREADS, blocks_of, keep, quad_blocks
from gpumpc.ring.cupy_backend.bits import Bits, key_words
from gpumpc.ring.cupy_backend.elementwise import Local
from gpumpc.ring.cupy_backend.operands import Operand, limbs_for, padded
from gpumpc.ring.cupy_backend.products import Products

_STREAM_BYTES = THREADS * 64
FAN_INS = (2, 3, 4)


class Fused(Products, Bits, Local):
    """Openings, Beaver products, tree levels, lifts, selections, maxima."""

    # openings

    def pack_masked(
        self, words: Words, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> memoryview:
        if cipher != "chacha20":
            return self.pack(self.add_uniform(words, cipher, key, bits, sign), bits)
        return self._mask_words(self.words(words), key, bits, sign, None, None)

    def mask_and_pack(
        self, words: Words, cipher: Cipher, key: bytes, bits: int
    ) -> tuple[Words, memoryview]:
        if cipher != "chacha20":
            masked = self.add_uniform(words, cipher, key, bits)
            return masked, self.pack(masked, bits)
        masked = self.new(words.shape)
        return masked, self._mask_words(self.words(words), key, bits, 1, masked, None)

    def draw_and_pack(
        self, words: Words, cipher: Cipher, key: bytes, bits: int
    ) -> tuple[Words, Words, memoryview]:
        if cipher != "chacha20":
            drawn = self.expand_words(cipher, key, words.shape, bits)
            masked = self.words(words) - drawn
            return drawn, masked, self.pack(masked, bits)
        drawn, masked = self.new(words.shape), self.new(words.shape)
        return drawn, masked, self._mask_words(self.words(words), key, bits, -1, masked, drawn)

    def _mask_words(
        self,
        words: Words,
        key: bytes,
        bits: int,
        sign: int,
        masked: Words | None,
        drawn: Words | None,
    ) -> memoryview:
        n, size = math.prod(words.shape), prg.word_bytes(bits)
        prg.check(key, n * size)
        packed = self.new((packed_bytes(n, bits),), np.uint8)
        blocks = blocks_of(n * size, _STREAM_BYTES)
        scalars = n, bits, size, sign % (1 << 64), keep(bits), *key_words(key)
        self.launch("mask_words", blocks, words, packed, masked, drawn, *scalars)
        return self.device.download(packed).data

    def add_uniform(
        self, words: Words, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> Words:
        words, size = self.words(words), prg.word_bytes(bits)
        if cipher != "chacha20":
            uniform = self.expand_words(cipher, key, words.shape, bits)
            return self.reduce(words + uniform if sign > 0 else words - uniform, bits)
        n, out = math.prod(words.shape), self.new(words.shape)
        prg.check(key, n * size)
        blocks = blocks_of(n * size, _STREAM_BYTES)
        self.launch(
            "mask_add", blocks, words, out, n, size, sign % (1 << 64), keep(bits), *key_words(key)
        )
        return out

    def xor_uniform(self, lanes: Lanes, cipher: Cipher, key: bytes, n: int) -> Lanes:
        lanes = self.words(lanes)
        if lanes.shape[1:] != (n_lanes(n),):
            raise BadShape(
                f"lanes {lanes.shape} of {n} elements", hint=f"a row has {n_lanes(n)} words"
            )
        if cipher != "chacha20":
            return lanes ^ self.expand_lanes(cipher, key, len(lanes), n)
        prg.check(key, lane_bytes(n, len(lanes)))
        out, row, tail = self.new(lanes.shape), max(1, n_lanes(n)), keep((n - 1) % 64 + 1)
        blocks = blocks_of(8 * out.size, _STREAM_BYTES)
        self.launch("mask_lanes", blocks, lanes, out, out.size, row, tail, *key_words(key))
        return out

    def add_packed(self, words: Words, packed: memoryview, bits: int) -> Words:
        words = self.words(words)
        n, out = math.prod(words.shape), self.new(words.shape)
        received = self.received(packed, packed_bytes(n, bits))
        self.launch("add_packed", blocks_of(n, BLOCK), words, received, out, n, bits, keep(bits))
        return out

    def combine(self, own: Words, theirs: memoryview, bits: int) -> Operand:
        own = self.words(own)
        n, depth, limbs = math.prod(own.shape), own.shape[-1], limbs_for(bits)
        packed = self.received(theirs, packed_bytes(n, bits))
        rows, width = math.prod(own.shape[:-1]), padded(depth)
        planes = self.new((limbs, rows, width), np.uint8)
        blocks = quad_blocks(rows * width)
        self.launch(
            "combine",
            blocks,
            own,
            packed,
            planes,
            None,
            rows,
            depth,
            width,
            bits,
            limbs,
            keep(bits),
        )
        return Operand(self, tuple(own.shape), bits, None, planes)

    # Beaver multiplication

    def beaver(self, e: Any, f: Any, a: Any, b: Any, c: Words, party: int, bits: int) -> Words:
        """(1 - p) e f + e b + a f + c, element by element."""
        operands = [self.operand(value, bits).words for value in (e, f, a, b)]
        operands.append(self.words(c))
        self.same_shape("a Beaver product", *operands)
        return self.each("beaver", operands, self.new(operands[0].shape), 1 - party, keep(bits))

    # comparison trees

    def masked_products(
        self,
        opened: Lanes,
        masks: Lanes,
        dealt: Lanes,
        sums: Sequence[Sequence[Factors]],
        products: Sequence[Factors],
        party: int,
    ) -> Lanes:
        opened, masks, dealt = (self.words(lanes) for lanes in (opened, masks, dealt))
        self.same_shape("a tree level", opened, masks)
        nodes, _, lanes = masks.shape
        if dealt.shape != (nodes, len(products), lanes):
            raise BadShape(f"products {dealt.shape} of nodes {masks.shape}", hint="make them fit")
        node = node_of(sums, products)
        if node is None:
            return self._written_out(opened, masks, dealt, sums, products, party)
        fan_in, keep_eq = node
        if masks.shape[1] != _factors(fan_in, keep_eq):
            raise BadShape(
                f"masks {masks.shape} of nodes with {_factors(fan_in, keep_eq)} factors",
                hint="make them fit",
            )
        out = self.new((len(sums), nodes, lanes))
        blocks = blocks_of(lanes, THREADS) * nodes
        self.launch(
            "tree_finish",
            blocks,
            opened,
            masks,
            dealt,
            out,
            lanes,
            nodes,
            fan_in,
            int(keep_eq),
            int(party == 0),
        )
        return out

    def _written_out(
        self,
        opened: Lanes,
        masks: Lanes,
        dealt: Lanes,
        sums: Sequence[Sequence[Factors]],
        products: Sequence[Factors],
        party: int,
    ) -> Lanes:
        """Sums that are no node of a tree: the subsets one by one."""
        shares: dict[Factors, Lanes] = {(i,): masks[:, i] for i in range(masks.shape[1])}
        shares |= {subset: dealt[:, j] for j, subset in enumerate(products)}
        totals = []
        for terms in sums:
            total = self.zeros((len(masks), masks.shape[2]))
            for term, subset in ((whole, part) for whole in terms for part in _subsets(whole)):
                factors = [opened[:, i] for i in term if i not in subset] + (
                    [shares[subset]] if subset else []
                )
                if subset or party == 0:
                    total = total ^ functools.reduce(operator.and_, factors)
            totals.append(total[None])
        return self.concat(totals, 0)

    def mask_products(self, masks: Lanes, products: Sequence[Factors]) -> Lanes:
        masks = self.words(masks)
        (nodes, factors, lanes), node = masks.shape, node_of(None, products)
        if node is None or factors != _factors(*node):
            columns = [
                functools.reduce(operator.and_, (masks[:, i] for i in chosen))[:, None]
                for chosen in products
            ]
            return self.concat(columns, 1)
        found = self.new((nodes, len(products), lanes))
        self.launch(
            "tree_deal",
            blocks_of(lanes, THREADS) * nodes,
            masks,
            found,
            lanes,
            nodes,
            node[0],
            int(node[1]),
        )
        return found

    # lifts

    def mask_top_bits(self, shares: Sequence[Words], masks: Lanes, low: int) -> tuple[Lanes, Lanes]:
        candidates, masks = [self.words(share) for share in shares], self.words(masks)
        self.same_shape("a lift", *candidates)
        n, row = candidates[0].size, n_lanes(candidates[0].size)
        if masks.shape != (len(candidates), row):
            raise BadShape(
                f"masks {masks.shape} of {len(candidates)} candidates of {n}", hint="make them fit"
            )
        tops, masked = self.new(masks.shape), self.new(masks.shape)
        lanes = [lane.view(np.uint32) for lane in (masks, tops, masked)]
        halves = 2 * row
        blocks = blocks_of(32 * len(candidates) * halves, THREADS)
        second = candidates[1] if len(candidates) == 2 else None
        self.launch(
            "lift_tell",
            blocks,
            candidates[0],
            second,
            *lanes,
            n,
            max(1, halves),
            len(candidates) * halves,
            low,
        )
        return tops, masked

    def lift(
        self,
        shares: Sequence[Words],
        lanes: LiftLanes,
        products: Words,
        party: int,
        low: int,
        high: int,
    ) -> Words:
        candidates, products = [self.words(share) for share in shares], self.words(products)
        self.same_shape("a lift", *candidates)
        n = candidates[0].size
        if products.shape != (len(candidates), n) or (lanes.choice is None) != (
            len(candidates) == 1
        ):
            raise BadShape(
                f"products {products.shape} of {len(candidates)} candidates of {n}",
                hint="make them fit",
            )
        planes = [
            self.words(plane) for plane in (lanes.tops, lanes.masks, lanes.masked, lanes.theirs)
        ]
        second, choice = (
            (None, None) if lanes.choice is None else (candidates[1], self.words(lanes.choice))
        )
        out = self.new((n,))
        arguments = (
            candidates[0],
            second,
            products,
            *planes,
            choice,
            out,
            n,
            n_lanes(n),
            party,
            low,
            keep(high),
        )
        self.launch("lift_keep", blocks_of(n, BLOCK), *arguments)
        return out

    # selections and sums

    def candidates(
        self, y: Words, t: Words, t_r: Words, v: Words, bits: int
    ) -> tuple[Words, Words]:
        inputs = [self.words(value) for value in (v, y, t, t_r)]
        self.same_shape("candidates", *inputs)
        n = math.prod(inputs[0].shape)
        out = self.new((2, *inputs[0].shape))
        self.launch("candidates", blocks_of(n, BLOCK), *inputs, out, n, keep(bits))
        return out[0], out[1]

    def add_flipped(
        self, words: Words, lane: Lanes, t: Words, factor: int, party: int, bits: int
    ) -> Words:
        words, t = self.words(words), self.words(t)
        self.same_shape("a clamp", words, t)
        inputs = [words, self.lane(lane, math.prod(words.shape)), t]
        return self.each(
            "clamp_finish", inputs, self.new(words.shape), 1 - party, factor % (1 << 64), keep(bits)
        )

    def add(self, x: Words, y: Words, bits: int) -> Words:
        """x + y: a residual."""
        x, y = self.words(x), self.words(y)
        self.same_shape("a sum", x, y)
        return self.each("add", [x, y], self.new(x.shape), keep(bits))

    def level_difference(self, entries: Words, bits: int) -> Words:
        """Entries 2 p minus 2 p + 1 of (E, m)."""
        entries = self.words(entries)
        out = self.new((len(entries) // 2, *entries.shape[1:]))
        return self.each(
            "level_difference", [entries], out, max(1, math.prod(entries.shape[1:])), keep(bits)
        )

    def level_best(self, entries: Words, positive: Words, bits: int) -> Words:
        """Entries 2 p + 1 plus max(difference, 0); an odd last entry moves up."""
        entries, positive = self.words(entries), self.words(positive)
        pairs = len(entries) // 2
        if positive.shape != (pairs, *entries.shape[1:]):
            raise BadShape(
                f"{positive.shape} results of a level of {entries.shape}", hint="one a pair"
            )
        out = self.new((len(entries) - pairs, *entries.shape[1:]))
        size = max(1, math.prod(entries.shape[1:]))
        return self.each("level_best", [entries, positive], out, size, pairs, keep(bits))


@functools.cache
def _nodes() -> dict[tuple[Any, Any], tuple[int, bool]]:
    """(sums, products) of the nodes that kernels/tree.cu knows -> (fan-in, whether eq is kept)."""
    found = {}
    for fan_in, keep_eq in itertools.product(FAN_INS, (False, True)):
        n_eq = fan_in if keep_eq else fan_in - 1
        less = tuple((*range(j), n_eq + j - 1) for j in range(1, fan_in))
        equal = (tuple(range(fan_in)),)
        sums = (less, equal) if keep_eq else (less,)
        subsets = {
            subset
            for terms in sums
            for term in terms
            for subset in _subsets(term)
            if len(subset) > 1
        }
        found[sums, tuple(sorted(subsets, key=lambda subset: (len(subset), subset)))] = (
            fan_in,
            keep_eq,
        )
    return found


def node_of(
    sums: Sequence[Sequence[Factors]] | None, products: Sequence[Factors]
) -> tuple[int, bool] | None:
    """Which node of a tree these sums are, if any; without sums, the one whose products these
    are.
    """
    named = tuple(tuple(product) for product in products)
    if sums is None:
        return next((node for (_, theirs), node in _nodes().items() if theirs == named), None)
    return _nodes().get((tuple(tuple(tuple(term) for term in terms) for terms in sums), named))


def _subsets(term: Factors) -> Iterator[Factors]:
    return itertools.chain.from_iterable(
        itertools.combinations(term, size) for size in range(len(term) + 1)
    )


def _factors(fan_in: int, keep_eq: bool) -> int:
    """Factors of a node."""
    return 2 * fan_in - (1 if keep_eq else 2)
