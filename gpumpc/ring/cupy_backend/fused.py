"""Steps of the protocols in one pass each, beyond the contract: what their formulas need, without a trip through memory.

Each equals the composition of the contract's operations that its docstring names, bit for bit; the tests hold it to that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpumpc.errors import BadShape, InputError
from gpumpc.ring import prg
from gpumpc.ring.backend import Lanes, Padding, Pair, Words, lane_bytes, n_lanes, packed_bytes
from gpumpc.ring.cupy_backend.base import BLOCK, THREADS, blocks_of, keep, quad_blocks
from gpumpc.ring.cupy_backend.bits import Bits, key_words
from gpumpc.ring.cupy_backend.opened import Opened, limbs_for, padded
from gpumpc.ring.cupy_backend.products import Extra, Products

_STREAM_BYTES = THREADS * 64
FAN_INS = (2, 3, 4)


class Fused(Products, Bits):
    """Openings, Beaver products, tree levels, lifts, selections, maxima."""

    # openings

    def masked(self, words: Words, key: bytes, bits: int, sign: int) -> memoryview:
        """pack(words + sign expand_words(key)): what leaves for an opening (+1 or -1), or as a correction (-1)."""
        words, size = self.words(words), prg.word_bytes(bits)
        n = math.prod(words.shape)
        prg.check(key, n * size)
        packed = self.new((packed_bytes(n, bits),), np.uint8)
        blocks = blocks_of(n * size, _STREAM_BYTES)
        self.launch("mask_words", blocks, words, packed, n, bits, size, sign % (1 << 64), *key_words(key))
        return self.device.download(packed).data

    def masked_lanes(self, lanes: Lanes, key: bytes, n: int) -> Lanes:
        """lanes ^ expand_lanes(key)."""
        lanes = self.words(lanes)
        prg.check(key, lane_bytes(n, len(lanes)))
        if lanes.shape[1:] != (n_lanes(n),):
            raise BadShape(f"lanes {lanes.shape} of {n} elements", "", f"a row has {n_lanes(n)} words")
        out, row, tail = self.new(lanes.shape), max(1, n_lanes(n)), keep((n - 1) % 64 + 1)
        blocks = blocks_of(8 * out.size, _STREAM_BYTES)
        self.launch("mask_lanes", blocks, lanes, out, out.size, row, tail, *key_words(key))
        return out

    def combine(self, own: Words, theirs: memoryview, bits: int) -> Opened:
        """opened(reduce(own + unpack(theirs))): both halves of an opening, as limb planes."""
        own = self.words(own)
        n, depth, limbs = math.prod(own.shape), own.shape[-1], limbs_for(bits)
        packed = self.received(theirs, packed_bytes(n, bits))
        rows, width = math.prod(own.shape[:-1]), padded(depth)
        planes = self.new((limbs, rows, width), np.uint8)
        blocks = quad_blocks(rows * width)
        self.launch("combine", blocks, own, packed, planes, None, rows, depth, width, bits, limbs, keep(bits))
        return Opened(self, tuple(own.shape), bits, None, planes)

    # Beaver multiplication

    def beaver(self, e: Any, f: Any, a: Any, b: Any, c: Words, party: int, bits: int) -> Words:
        """(1 - p) e f + e b + a f + c, element by element."""
        operands = [self.operand(value, bits).words for value in (e, f, a, b)]
        operands.append(self.words(c))
        self.same_shape("a Beaver product", *operands)
        return self.each("beaver", operands, self.new(operands[0].shape), 1 - party, keep(bits))

    def beaver_matmul(self, e: Any, f: Any, a: Any, b: Any, c: Words, party: int, bits: int) -> Words:
        """(1 - p) e f + e b + a f + c of matrices: two products in one launch, c in the epilogue."""
        pairs = [(e, self._beaver_right(f, b, party, bits)), (a, f)]
        return self.matmul_sum(pairs, bits, Extra(addend=self.words(c)))

    def beaver_conv2d(
        self, e: Any, f: Any, a: Any, b: Any, c: Words, party: int, stride: Pair, padding: Padding, groups: int, bits: int
    ) -> Words:
        """(1 - p) e * f + e * b + a * f + c of convolutions: two in one launch, c in the epilogue."""
        pairs = [(e, self._beaver_right(f, b, party, bits)), (a, f)]
        return self.conv2d_sum(pairs, stride, padding, groups, bits, Extra(addend=self.words(c)))

    def _beaver_right(self, f: Any, b: Any, party: int, bits: int) -> Any:
        """b + (1 - p) f, the right operand beside e."""
        if party:
            return b
        left, right = self.operand(f, bits).words, self.operand(b, bits).words
        return self.add(left, right, bits)

    # comparison trees

    def tree_finish(
        self, opened: Lanes, masks: Lanes, dealt: Lanes, top: Lanes, fan_in: int, keep_eq: bool, party: int
    ) -> tuple[Lanes, Lanes]:
        """(lt, eq) of nodes of one kind: opened, masks (nodes, factors, lanes), dealt (nodes, products, lanes)."""
        opened, masks, dealt, top = (self.words(lanes) for lanes in (opened, masks, dealt, top))
        nodes, lanes = top.shape
        factors = _check_node(fan_in, keep_eq, masks.shape)
        self.same_shape("a tree level", opened, masks)
        if opened.shape != (nodes, factors, lanes) or dealt.shape[::2] != (nodes, lanes):
            raise BadShape(f"nodes of {opened.shape}, {dealt.shape} and {top.shape}", "", "make them fit")
        lt, eq = self.new(top.shape), self.new(top.shape)
        blocks = blocks_of(lanes, THREADS) * nodes
        self.launch(
            "tree_finish", blocks, opened, masks, dealt, top, lt, eq, lanes, nodes, fan_in, int(keep_eq), int(party == 0)
        )
        return lt, eq

    def tree_deal(self, masks: Lanes, fan_in: int, keep_eq: bool, n_products: int) -> Lanes:
        """The dealer's products of masks (nodes, factors, lanes), in dealing order."""
        masks = self.words(masks)
        nodes, _, lanes = masks.shape
        _check_node(fan_in, keep_eq, masks.shape)
        products = self.new((nodes, n_products, lanes))
        blocks = blocks_of(lanes, THREADS) * nodes
        self.launch("tree_deal", blocks, masks, products, lanes, nodes, fan_in, int(keep_eq))
        return products

    # lifts

    def lift_tell(self, shares: Words, masks: Lanes, low: int) -> tuple[Lanes, Lanes]:
        """(tops, told) of candidates (C, n): bit low - 1 of each share, and that under its mask."""
        shares, masks = self.words(shares), self.words(masks)
        candidates, n = shares.shape
        tops, told = self.new(masks.shape), self.new(masks.shape)
        halves = 2 * n_lanes(n)
        lanes = [lane.view(np.uint32) for lane in (masks, tops, told)]
        blocks = blocks_of(32 * candidates * halves, THREADS)
        self.launch("lift_tell", blocks, shares, *lanes, n, max(1, halves), candidates * halves, low)
        return tops, told

    def lift_keep(
        self,
        shares: Words,
        products: Words,
        bits: tuple[Lanes, Lanes, Lanes, Lanes],
        kept: Lanes | None,
        party: int,
        low: int,
        high: int,
    ) -> Words:
        """The kept candidate modulo 2^high; `bits` are tops, masks, told, theirs (C, lanes)."""
        shares, products = self.words(shares), self.words(products)
        self.same_shape("a lift", shares, products)
        lanes = [self.words(lane) for lane in bits]
        n = shares.shape[1]
        out = self.new((n,))
        chosen = None if kept is None else self.words(kept)
        self.launch(
            "lift_keep", blocks_of(n, BLOCK), shares, products, *lanes, chosen, out, n, n_lanes(n), party, low, keep(high)
        )
        return out

    # selections and sums

    def candidates(self, v: Words, y: Words, t: Words, t_r: Words, bits: int) -> Words:
        """(2, n): zero = y t - t_r, and v - zero."""
        inputs = [self.words(value) for value in (v, y, t, t_r)]
        self.same_shape("candidates", *inputs)
        n = math.prod(inputs[0].shape)
        out = self.new((2, n))
        self.launch("candidates", blocks_of(n, BLOCK), *inputs, out, n, keep(bits))
        return out

    def clamp_finish(self, inside: Words, c: Lanes, t: Words, party: int, top: int, bits: int) -> Words:
        """inside + top ((1 - 2 c) t + (1 - p) c)."""
        inside, t = self.words(inside), self.words(t)
        self.same_shape("a clamp", inside, t)
        return self.each("clamp_finish", [inside, self.words(c), t], self.new(inside.shape), 1 - party, top, keep(bits))

    def add(self, x: Words, y: Words, bits: int) -> Words:
        """x + y: a residual."""
        x, y = self.words(x), self.words(y)
        self.same_shape("a sum", x, y)
        return self.each("add", [x, y], self.new(x.shape), keep(bits))

    def level_difference(self, entries: Words, bits: int) -> Words:
        """Entries 2 p minus 2 p + 1 of (E, m)."""
        entries = self.words(entries)
        out = self.new((len(entries) // 2, *entries.shape[1:]))
        return self.each("level_difference", [entries], out, max(1, math.prod(entries.shape[1:])), keep(bits))

    def level_best(self, entries: Words, positive: Words, bits: int) -> Words:
        """Entries 2 p + 1 plus max(difference, 0); an odd last entry moves up."""
        entries, positive = self.words(entries), self.words(positive)
        pairs = len(entries) // 2
        if positive.shape != (pairs, *entries.shape[1:]):
            raise BadShape(f"{positive.shape} results of a level of {entries.shape}", "", "one a pair")
        out = self.new((len(entries) - pairs, *entries.shape[1:]))
        size = max(1, math.prod(entries.shape[1:]))
        return self.each("level_best", [entries, positive], out, size, pairs, keep(bits))


def _check_node(fan_in: int, keep_eq: bool, shape: tuple[int, ...]) -> int:
    """Factors of a node. Raises InputError, BadShape."""
    factors = 2 * fan_in - (1 if keep_eq else 2)
    if fan_in not in FAN_INS:
        raise InputError(f"a node of fan-in {fan_in}", "kernels combine 2, 3 or 4 digits", "plan another tree")
    if shape[1] != factors:
        raise BadShape(f"masks {shape} of nodes with {factors} factors", "", "make them fit")
    return factors
