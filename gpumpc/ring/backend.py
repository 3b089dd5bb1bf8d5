"""The contract every backend keeps: arrays of words, arrays of lanes, and a dozen primitive
operations.

*Words* are unsigned 64-bit ring elements of any shape; `+ - * & ^ << >>` on them wrap and are the
array's own. *Lanes* are bits, 64 elements to a word: shape (planes, n_lanes(n)); bit i of lane word
j belongs to element 64 j + i of the flattened tensor; bits past the last element are always zero.
`& ^` act on 64 elements at a time. *Packed* values are what the wire carries: for each of the `bits
// 8` low bytes a plane of n bytes, then for each of the `bits % 8` bits left a lane. 40 bits cost
five bytes an element, 27 bits three bytes and three bits. *Operand* is the backend's own form of an
opened value or a static operand of a product: plain words on a CPU, limb planes on a GPU. Nothing
looks inside it but `product` operations.

NumPy's implementation is the definition; the others must equal it bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from gpumpc.params import Cipher

Words = Any  # an array of the backend: uint64
Lanes = Any  # an array of the backend: uint64, shape (planes, n_lanes)
Operand = Any  # opaque
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]
Pairs = Sequence[tuple[Operand, Operand]]
Factors = tuple[int, ...]  # numbers of bits that are multiplied


def n_lanes(n: int) -> int:
    """Lane words behind n elements."""
    return -(-n // 64)


def packed_bytes(n: int, bits: int) -> int:
    """Bytes of n packed values of `bits` bits."""
    return n * (bits // 8) + 8 * n_lanes(n) * (bits % 8)


def lane_bytes(n: int, planes: int = 1) -> int:
    """Bytes of `planes` lanes of n elements."""
    return 8 * n_lanes(n) * planes


class LiftLanes(NamedTuple):
    """Lanes of a lift, a plane a candidate: top bits of this party's shares, masked by this party,
    by the other, its masks.

    `choice` is the public lane that names the candidate; None where there is one only.
    """

    tops: Lanes
    masked: Lanes
    theirs: Lanes
    masks: Lanes
    choice: Lanes | None


class Backend(Protocol):
    """Primitive operations of one machine.

    Methods with `out` write there if it is given, and return the result.
    """

    name: str

    # several threads
    def fork(self) -> Backend:
        """Itself for another thread: on a GPU with a stream of its own, so that copies and work of
        the two overlap.

        What one has made, the other may read after `synchronize` of the first; static operands at
        once.
        """

    def synchronize(self) -> None:
        """Wait for all work that was asked for."""

    # host and device
    def upload(self, host: Any) -> Words:
        """A host array of uint64 as the backend's words."""

    def download(self, words: Words) -> Any:
        """The backend's array as a host uint64 array."""

    def zeros(self, shape: Sequence[int]) -> Words:
        """Words that are zero."""

    # uniform values
    def expand_words(self, cipher: Cipher, key: bytes, shape: Sequence[int], bits: int) -> Words:
        """Uniform words modulo 2^bits from the key's stream, `prg.word_bytes(bits)` little-endian
        bytes each.
        """

    def expand_lanes(self, cipher: Cipher, key: bytes, planes: int, n: int) -> Lanes:
        """Uniform lanes from the key's stream, eight bytes a lane word."""

    def add_uniform(
        self, words: Words, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> Words:
        """words + sign * expand_words(..), modulo 2^bits; `sign` is 1 or -1."""

    def xor_uniform(self, lanes: Lanes, cipher: Cipher, key: bytes, n: int) -> Lanes:
        """lanes ^ expand_lanes(..)."""

    # wire
    def pack(self, words: Words, bits: int) -> memoryview:
        """Packed bytes of words reduced modulo 2^bits."""

    def unpack(self, packed: memoryview, shape: Sequence[int], bits: int) -> Words:
        """The inverse of `pack`."""

    def add_packed(self, words: Words, packed: memoryview, bits: int) -> Words:
        """words + unpack(packed), modulo 2^bits."""

    def pack_masked(
        self, words: Words, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> memoryview:
        """pack(add_uniform(..)): what only leaves."""

    def mask_and_pack(
        self, words: Words, cipher: Cipher, key: bytes, bits: int
    ) -> tuple[Words, memoryview]:
        """add_uniform(..), which stays, modulo 2^bits or more, and the same packed, which
        leaves.
        """

    def draw_and_pack(
        self, words: Words, cipher: Cipher, key: bytes, bits: int
    ) -> tuple[Words, Words, memoryview]:
        """(a, words - a, packed words - a), a = expand_words(..); the difference modulo 2^bits or
        more.
        """

    def combine(self, own: Words, theirs: memoryview, bits: int) -> Operand:
        """operand(add_packed(..)): both halves of an opening as an operand of products."""

    def pack_lanes(self, lanes: Lanes) -> memoryview:
        """Lanes as bytes, little endian."""

    def unpack_lanes(self, packed: memoryview, planes: int, n: int) -> Lanes:
        """The inverse of `pack_lanes`."""

    def operand(self, words: Words, bits: int) -> Operand:
        """Words as an operand of products."""

    def static(self, words: Words, bits: int) -> Operand:
        """`operand` for a right operand of many products: what they bring it into is kept."""

    # bits
    def to_planes(self, words: Words, bits: int) -> Lanes:
        """(bits, n_lanes): plane b holds bit b of every element."""

    def bit(self, words: Words, position: int) -> Lanes:
        """(n_lanes,): one bit of every element."""

    def from_bit(self, lane: Lanes, shape: Sequence[int]) -> Words:
        """Words 0 or 1 from a single lane (n_lanes,)."""

    def from_lanes(self, lanes: Lanes, n: int) -> Words:
        """(planes, n) words 0 or 1."""

    def constant_lane(self, bit: int, n: int) -> Lanes:
        """(n_lanes,): the same bit for every element, zero past the last."""

    def thermometer(self, planes: Lanes) -> Lanes:
        """Planes (D, b, n_lanes) of digits r, low bit first -> (D, 2^b - 1, n_lanes): entry v is [v
        < r].
        """

    def lookup(self, tables: Lanes, planes: Lanes, below: Lanes) -> tuple[Lanes, Lanes]:
        """Leaves of a comparison: tables (D, 2^b - 1, n_lanes) of shares, planes (D, b, n_lanes) of
        public digits y.

        Returns lt = T[y] and eq = T[y - 1] ^ T[y], both (D, n_lanes), where T[2^b - 1] = 0 and
        T[-1] is the lane `below`: ones at party 0, zeros at party 1.
        """

    def masked_products(
        self,
        opened: Lanes,
        masks: Lanes,
        dealt: Lanes,
        sums: Sequence[Sequence[Factors]],
        products: Sequence[Factors],
        party: int,
    ) -> Lanes:
        """XOR shares of sums of products of masked bits: (sums, nodes, n_lanes).

        Bit f is o_f ^ m_f, with o public (nodes, factors, n_lanes), m_f shared as `masks` of the
        same shape, and each product of several m named in `products` shared as `dealt` (nodes,
        products, n_lanes). A sum is a list of products of bits; each is expanded over the subsets
        of its factors, XOR of (AND of the other o) & (share of the AND of those m), where the empty
        subset is party 0's.
        """

    def mask_products(self, masks: Lanes, products: Sequence[Factors]) -> Lanes:
        """What the dealer shares for `masked_products`: the AND of the two or more masks of each
        product.
        """

    def select(self, lane: Lanes, if_one: Words, if_zero: Words) -> Words:
        """Element-wise choice by a public lane (n_lanes,)."""

    # shares of what a public bit chooses; the formulas stand in protocols.relu and
    # protocols.truncation
    def candidates(
        self, y: Words, t: Words, t_r: Words, v: Words, bits: int
    ) -> tuple[Words, Words]:
        """zero = y t - t r and one = v - zero, modulo 2^bits."""

    def mask_top_bits(self, shares: Sequence[Words], masks: Lanes, low: int) -> tuple[Lanes, Lanes]:
        """Top bits of one or two flat shares modulo 2^low, a plane a share, and the same ^ masks:
        what a server tells.
        """

    def lift(
        self,
        shares: Sequence[Words],
        lanes: LiftLanes,
        products: Words,
        party: int,
        low: int,
        high: int,
    ) -> Words:
        """The kept one of one or two flat shares modulo 2^low, as a share modulo 2^high.

        It is share - 2^low w. With the kept candidate's m, masked, theirs and mask lanes and its
        products P: w_0 = m - m theirs - (1 - 2 theirs)(1 - 2 masked) P, w_1 = m - (1 - 2
        masked)(theirs mask + (1 - 2 theirs) P).
        """

    def add_flipped(
        self, words: Words, lane: Lanes, t: Words, factor: int, party: int, bits: int
    ) -> Words:
        """words + factor * share of (t ^ lane), modulo 2^bits: t where the lane is 0, else (1 at
        party 0) - t.
        """

    # products modulo 2^bits
    def matmul(self, x: Operand, w: Operand, bits: int) -> Words:
        """x (M, K) @ w (K, N)."""

    def multiply(self, x: Operand, w: Operand, bits: int) -> Words:
        """Element-wise product."""

    def row_dot(self, x: Operand, y: Operand, bits: int) -> Words:
        """sum_j x_ij y_ij of two (N, d), as (N,)."""

    def conv2d(
        self, x: Operand, w: Operand, stride: Pair, padding: Padding, groups: int, bits: int
    ) -> Words:
        """x (B, H, W, Cin), w (kh, kw, Cin / groups, Cout) -> (B, Ho, Wo, Cout), zero padding
        top/bottom/left/right.
        """

    def beaver(
        self, e: Operand, f: Operand, a: Operand, b: Operand, c: Words, party: int, bits: int
    ) -> Words:
        """(1 - party) e f + e b + a f + c, element by element."""

    def sum_of(self, x: Operand, y: Operand, bits: int) -> Operand:
        """Two operands of one shape added up, as an operand."""

    # sums over one or two pairs of operands, plus words of the result's shape, plus a bias (C,) for
    # its last axis
    def matmul_sum(
        self, pairs: Pairs, bits: int, plus: Words | None = None, bias: Words | None = None
    ) -> Words:
        """Sum of x @ w, as `matmul`."""

    def conv2d_sum(
        self,
        pairs: Pairs,
        stride: Pair,
        padding: Padding,
        groups: int,
        bits: int,
        plus: Words | None = None,
        bias: Words | None = None,
    ) -> Words:
        """Sum of convolutions, as `conv2d`."""

    # local steps
    def truncate(
        self, words: Words, k: int, shift: int, party: int, out: Words | None = None
    ) -> Words:
        """Share modulo 2^k -> share modulo 2^(k - shift): party 0 adds 2^shift - 1; both shift
        right.
        """

    def reduce(self, words: Words, bits: int, out: Words | None = None) -> Words:
        """Words modulo 2^bits."""

    def add_constant(self, words: Words, value: int, bits: int) -> Words:
        """Words plus a public integer (of either sign), modulo 2^bits."""

    def scale(self, words: Words, factor: int, bits: int) -> Words:
        """Words times a public integer (of either sign), modulo 2^bits."""

    def sign_extend(self, words: Words, bits: int) -> Words:
        """The signed value modulo 2^bits as a signed 64-bit word."""

    def shift_signed(self, words: Words, shift: int) -> Words:
        """floor(x / 2^shift) of signed 64-bit words."""

    def argmax_signed(self, words: Words) -> Words:
        """Index of the largest signed entry along the last axis, the lowest on ties."""

    def counting(self, n: int) -> Words:
        """0, 1, .. n - 1."""

    def gather(self, words: Words, index: Any) -> Words:
        """(Q, N) words at a host index (Q, M), row by row -> (Q, M)."""

    def download_bits(self, lane: Lanes, shape: Sequence[int]) -> Any:
        """A public lane as host booleans of this shape."""

    def smallest_signed(self, words: Words, k: int) -> Words:
        """The k smallest signed entries along the last axis, ascending."""

    def window_sum(self, words: Words, window: Pair, stride: Pair) -> Words:
        """Sums over windows of (B, H, W, C), no padding, modulo 2^64."""

    def take(self, words: Words, index: Sequence[int], axis: int) -> Words:
        """Entries along an axis by a public index."""

    def concat(self, parts: Sequence[Words], axis: int) -> Words:
        """Arrays joined along an axis."""
