"""Masking, openings and steps of protocols in one pass each, without intermediate arrays."""

import functools
import itertools
import math
import operator
from collections.abc import Iterator, Sequence

import numpy as np

from gpumpc.errors import BadShape
from gpumpc.params import Cipher
from gpumpc.ring import prg
from gpumpc.ring.backend import Factors, LiftLanes, lane_bytes, n_lanes, packed_bytes
from gpumpc.ring.cupy_backend.base import BLOCK, THREADS, bit_mask, blocks_of, quad_blocks
from gpumpc.ring.cupy_backend.bits import Bits, key_words
from gpumpc.ring.cupy_backend.device import Lanes, Words
from gpumpc.ring.cupy_backend.elementwise import Elementwise
from gpumpc.ring.cupy_backend.operands import Operand, limbs_for, padded
from gpumpc.ring.cupy_backend.products import Products

_STREAM_BYTES = THREADS * 64
FAN_INS = (2, 3, 4)
_Sums = tuple[tuple[Factors, ...], ...]


class Fused(Products, Bits, Elementwise):
    """The contract's `ProtocolKernels`, and its operations that mask, pack or add messages."""

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
        scalars = n, bits, size, sign % (1 << 64), bit_mask(bits), *key_words(key)
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
        blocks, scalars = blocks_of(n * size, _STREAM_BYTES), (n, size, sign % (1 << 64))
        self.launch("mask_add", blocks, words, out, *scalars, bit_mask(bits), *key_words(key))
        return out

    def xor_uniform(self, lanes: Lanes, cipher: Cipher, key: bytes, n: int) -> Lanes:
        lanes = self.rows_of_lanes(lanes, n)
        if cipher != "chacha20":
            return lanes ^ self.expand_lanes(cipher, key, len(lanes), n)
        prg.check(key, lane_bytes(n, len(lanes)))
        out, row, tail = self.new(lanes.shape), max(1, n_lanes(n)), bit_mask((n - 1) % 64 + 1)
        blocks = blocks_of(8 * out.size, _STREAM_BYTES)
        self.launch("mask_lanes", blocks, lanes, out, out.size, row, tail, *key_words(key))
        return out

    def add_packed(self, words: Words, packed: memoryview, bits: int) -> Words:
        words = self.words(words)
        n, out = math.prod(words.shape), self.new(words.shape)
        received = self.received(packed, packed_bytes(n, bits))
        arrays, scalars = (words, received, out), (n, bits, bit_mask(bits))
        self.launch("add_packed", blocks_of(n, BLOCK), *arrays, *scalars)
        return out

    def combine(self, own: Words, theirs: memoryview, bits: int) -> Operand:
        own = self.words(own)
        n, depth, limbs = math.prod(own.shape), own.shape[-1], limbs_for(bits)
        packed = self.received(theirs, packed_bytes(n, bits))
        rows, width = math.prod(own.shape[:-1]), padded(depth)
        planes = self.new((limbs, rows, width), np.uint8)
        blocks, sizes = quad_blocks(rows * width), (rows, depth, width, bits, limbs)
        self.launch("combine", blocks, own, packed, planes, None, *sizes, bit_mask(bits))
        return Operand(self, tuple(own.shape), bits, rows=planes)

    # Beaver multiplication

    def beaver(
        self, e: Operand, f: Operand, a: Operand, b: Operand, c: Words, party: int, bits: int
    ) -> Words:
        operands = [self.operand(value, bits).words for value in (e, f, a, b)]
        operands.append(self.words(c))
        self.same_shape("a Beaver product", *operands)
        out = self.new(operands[0].shape)
        return self.elementwise("beaver", operands, out, 1 - party, bit_mask(bits))

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
        if masks.shape[1] != (factors := _factors(fan_in, keep_eq)):
            what = f"masks {masks.shape} of nodes with {factors} factors"
            raise BadShape(what, hint="make them fit")
        out = self.new((len(sums), nodes, lanes))
        blocks = blocks_of(lanes, THREADS) * nodes
        scalars = lanes, nodes, fan_in, int(keep_eq), int(party == 0)
        self.launch("tree_finish", blocks, opened, masks, dealt, out, *scalars)
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
        """Sums that are not a node of a tree: the subsets one by one."""
        shares: dict[Factors, Lanes] = {(i,): masks[:, i] for i in range(masks.shape[1])}
        shares |= {subset: dealt[:, j] for j, subset in enumerate(products)}
        totals = []
        for terms in sums:
            total = self.zeros((len(masks), masks.shape[2]))
            for term, subset in ((whole, part) for whole in terms for part in _subsets(whole)):
                factors = [opened[:, i] for i in term if i not in subset]
                factors += [shares[subset]] if subset else []
                if subset or party == 0:
                    total = total ^ functools.reduce(operator.and_, factors)
            totals.append(total[None])
        return self.concat(totals, 0)

    def mask_products(self, masks: Lanes, products: Sequence[Factors]) -> Lanes:
        masks = self.words(masks)
        (nodes, factors, lanes), node = masks.shape, node_of(None, products)
        if node is None or factors != _factors(*node):
            parts = ([masks[:, i] for i in chosen] for chosen in products)
            columns = [functools.reduce(operator.and_, part)[:, None] for part in parts]
            return self.concat(columns, 1)
        found = self.new((nodes, len(products), lanes))
        blocks = blocks_of(lanes, THREADS) * nodes
        self.launch("tree_deal", blocks, masks, found, lanes, nodes, node[0], int(node[1]))
        return found

    # lifts

    def mask_top_bits(self, shares: Sequence[Words], masks: Lanes, low: int) -> tuple[Lanes, Lanes]:
        candidates, masks = [self.words(share) for share in shares], self.words(masks)
        self.same_shape("a lift", *candidates)
        n, row = candidates[0].size, n_lanes(candidates[0].size)
        if masks.shape != (len(candidates), row):
            what = f"masks {masks.shape} of {len(candidates)} candidates of {n}"
            raise BadShape(what, hint="make them fit")
        tops, masked = self.new(masks.shape), self.new(masks.shape)
        lanes = [lane.view(np.uint32) for lane in (masks, tops, masked)]
        halves = 2 * row
        blocks = blocks_of(32 * len(candidates) * halves, THREADS)
        second = candidates[1] if len(candidates) == 2 else None
        sizes = n, max(1, halves), len(candidates) * halves
        self.launch("lift_mask", blocks, candidates[0], second, *lanes, *sizes, low)
        return tops, masked

    def lift(
        self,
        shares: Sequence[Words],
        lanes: LiftLanes[Lanes],
        products: Words,
        party: int,
        low: int,
        high: int,
    ) -> Words:
        candidates, products = [self.words(share) for share in shares], self.words(products)
        self.same_shape("a lift", *candidates)
        n = candidates[0].size
        is_chosen = lanes.choice is not None
        if products.shape != (len(candidates), n) or is_chosen == (len(candidates) == 1):
            what = f"products {products.shape} of {len(candidates)} candidates of {n}"
            raise BadShape(what, hint="make them fit")
        planes = map(self.words, (lanes.tops, lanes.masks, lanes.masked, lanes.theirs))
        second = choice = None
        if lanes.choice is not None:
            second, choice = candidates[1], self.words(lanes.choice)
        out = self.new((n,))
        arrays = candidates[0], second, products, *planes, choice, out
        scalars = n, n_lanes(n), party, low, bit_mask(high)
        self.launch("lift_finish", blocks_of(n, BLOCK), *arrays, *scalars)
        return out

    # selections and sums

    def candidates(
        self, y: Words, t: Words, t_r: Words, v: Words, bits: int
    ) -> tuple[Words, Words]:
        inputs = [self.words(value) for value in (v, y, t, t_r)]
        self.same_shape("candidates", *inputs)
        n = math.prod(inputs[0].shape)
        out = self.new((2, *inputs[0].shape))
        self.launch("candidates", blocks_of(n, BLOCK), *inputs, out, n, bit_mask(bits))
        return out[0], out[1]

    def look_up_chosen(
        self, chosen: Words, start: Words, stride: int, table: Words, n_chosen: int
    ) -> Words:
        chosen, start, table = (self.words(value) for value in (chosen, start, table))
        self.same_shape("a look-up", chosen, start)
        found, place_bits = self.zeros(chosen.shape), table.size.bit_length() - 1
        for j in range(n_chosen):
            place = self.add_constant(start, -j * stride, place_bits)
            entry: Words = self.device.arrays.take(table, place)
            found = found ^ entry * self.from_bit(self.bit(chosen, j), chosen.shape)
        return found

    def add_flipped(
        self, words: Words, lane: Lanes, t: Words, factor: int, party: int, bits: int
    ) -> Words:
        words, t = self.words(words), self.words(t)
        self.same_shape("a clamp", words, t)
        inputs = [words, self.lane(lane, math.prod(words.shape)), t]
        scalars = 1 - party, factor % (1 << 64), bit_mask(bits)
        return self.elementwise("clamp_finish", inputs, self.new(words.shape), *scalars)

    def add_flipped_part(
        self, words: Words, lane: Lanes, part: Words, whole: Words, factor: int, bits: int
    ) -> Words:
        words, part, whole = (self.words(value) for value in (words, part, whole))
        self.same_shape("a choice", words, part, whole)
        chosen = self.select(lane, whole - part, part)
        return self.reduce(words + self.scale(chosen, factor, 64), bits)


@functools.cache
def _nodes() -> dict[tuple[_Sums, tuple[Factors, ...]], tuple[int, bool]]:
    """(sums, products) of the nodes that kernels/tree.cu knows -> (fan-in, whether eq is kept)."""
    found: dict[tuple[_Sums, tuple[Factors, ...]], tuple[int, bool]] = {}
    for fan_in, keep_eq in itertools.product(FAN_INS, (False, True)):
        n_eq = fan_in if keep_eq else fan_in - 1
        less = tuple((*range(j), n_eq + j - 1) for j in range(1, fan_in))
        equal = (tuple(range(fan_in)),)
        sums: _Sums = (less, equal) if keep_eq else (less,)
        terms = itertools.chain.from_iterable(sums)
        subsets = {subset for term in terms for subset in _subsets(term) if len(subset) > 1}
        products = sorted(subsets, key=lambda subset: (len(subset), subset))
        found[sums, tuple(products)] = fan_in, keep_eq
    return found


def node_of(
    sums: Sequence[Sequence[Factors]] | None, products: Sequence[Factors]
) -> tuple[int, bool] | None:
    """The node of a tree that these sums are, or without sums, whose products these are."""
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
