"""The contract that every backend keeps: primitive operations on words, lanes and operands.

*Words* are unsigned 64-bit ring elements of any shape; `+ - * & ^ << >>` on them wrap and are the
array's own. *Lanes* are bits, 64 elements to a word: shape (planes, n_lanes(n)); bit i of lane word
j belongs to element 64 j + i of the flattened tensor; bits past the last element are always zero.
`& ^` act on 64 elements at a time. *Packed* values are what the wire carries: for each of the `bits
// 8` low bytes a plane of n bytes, then for each of the `bits % 8` bits left a lane. 40 bits cost
five bytes an element, 27 bits three bytes and three bits. *Operand* is the backend's own form of a
matrix before products: plain words on a CPU, limb planes on a GPU.

Only `ProtocolKernels` knows a party. NumPy's implementation is the definition; the others must
equal it bit for bit. A backend is written for its own arrays, `BackendOf[array, array, operand]`;
everything above this package sees a `Backend`, whose three types no checker confuses.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, Self, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from gpumpc.params import Cipher
from gpumpc.ring.values import Lanes as Lanes
from gpumpc.ring.values import Operand as Operand
from gpumpc.ring.values import Words as Words

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]
Pairs = Sequence[tuple[Operand, Operand]]
Factors = tuple[int, ...]  # numbers of bits that are multiplied

W = TypeVar("W")  # the backend's words
L = TypeVar("L")  # its lanes
P = TypeVar("P")  # its operands of products
P_contra = TypeVar("P_contra", contravariant=True)  # the same where operands are only read


def n_lanes(n: int) -> int:
    """Lane words behind n elements."""
    return -(-n // 64)


def packed_bytes(n: int, bits: int) -> int:
    """Bytes of n packed values of `bits` bits."""
    return n * (bits // 8) + 8 * n_lanes(n) * (bits % 8)


def lane_bytes(n: int, planes: int = 1) -> int:
    """Bytes of `planes` lanes of n elements."""
    return 8 * n_lanes(n) * planes


class Memory(Protocol[W, P_contra]):
    """Arrays of the machine, and backends of several threads.

    Methods with `out` write there if it is given, and return the result.
    """

    name: str

    def fork(self) -> Self:
        """A backend for another thread: on a GPU with a stream of its own, so that copies and work
        of the two overlap.

        The other thread may read an array after `synchronize` of the first, static operands at
        once.
        """

    def synchronize(self) -> None:
        """Wait for all work that was requested."""

    def upload(self, host: npt.ArrayLike) -> W:
        """A host array of uint64 as the backend's words."""

    def download(self, words: W | P_contra) -> npt.NDArray[np.uint64]:
        """Words, or an operand's, as a host uint64 array."""

    def zeros(self, shape: Sequence[int]) -> W:
        """Words that are zero."""


class Streams(Protocol[W, L]):
    """Uniform values, expanded from a key."""

    def expand_words(self, cipher: Cipher, key: bytes, shape: Sequence[int], bits: int) -> W:
        """Uniform words modulo 2^bits, `prg.word_bytes(bits)` little-endian stream bytes each."""

    def expand_lanes(self, cipher: Cipher, key: bytes, planes: int, n: int) -> L:
        """Uniform lanes from the key's stream, eight bytes a lane word."""

    def add_uniform(self, words: W, cipher: Cipher, key: bytes, bits: int, sign: int = 1) -> W:
        """words + sign * expand_words(..), modulo 2^bits; `sign` is 1 or -1."""

    def xor_uniform(self, lanes: L, cipher: Cipher, key: bytes, n: int) -> L:
        """lanes ^ expand_lanes(..)."""


class WireForms(Protocol[W, L]):
    """Values as the bytes that the wire carries."""

    def pack(self, words: W, bits: int) -> memoryview:
        """Packed bytes of words reduced modulo 2^bits."""

    def unpack(self, packed: memoryview, shape: Sequence[int], bits: int) -> W:
        """The inverse of `pack`."""

    def add_packed(self, words: W, packed: memoryview, bits: int) -> W:
        """words + unpack(packed), modulo 2^bits."""

    def pack_masked(
        self, words: W, cipher: Cipher, key: bytes, bits: int, sign: int = 1
    ) -> memoryview:
        """pack(add_uniform(..)), for masked words that are only sent."""

    def mask_and_pack(
        self, words: W, cipher: Cipher, key: bytes, bits: int
    ) -> tuple[W, memoryview]:
        """add_uniform(..), modulo 2^bits or more, and the same packed."""

    def draw_and_pack(
        self, words: W, cipher: Cipher, key: bytes, bits: int
    ) -> tuple[W, W, memoryview]:
        """(a, words - a, the same packed), a = expand_words(..), modulo 2^bits or more."""

    def pack_lanes(self, lanes: L) -> memoryview:
        """Lanes as bytes, little endian."""

    def unpack_lanes(self, packed: memoryview, planes: int, n: int) -> L:
        """The inverse of `pack_lanes`."""


class Bits(Protocol[W, L]):
    """Words to lanes and back."""

    def to_planes(self, words: W, bits: int) -> L:
        """(bits, n_lanes): plane b holds bit b of every element."""

    def bit(self, words: W, position: int) -> L:
        """(n_lanes,): one bit of every element."""

    def from_bit(self, lane: L, shape: Sequence[int]) -> W:
        """Words 0 or 1 from a single lane (n_lanes,)."""

    def from_lanes(self, lanes: L, n: int) -> W:
        """(planes, n) words 0 or 1."""

    def download_bits(self, lane: L, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
        """A public lane as host booleans of this shape."""

    def constant_lane(self, bit: int, n: int) -> L:
        """(n_lanes,): the same bit for every element, zero past the last."""

    def select(self, lane: L, if_one: W, if_zero: W) -> W:
        """Element-wise choice by a public lane (n_lanes,)."""


class Arithmetic(Protocol[W, L]):
    """Element by element, and along an axis."""

    def reduce(self, words: W, bits: int, out: W | None = None) -> W:
        """Words modulo 2^bits."""

    def add_constant(self, words: W, value: int, bits: int) -> W:
        """Words plus a public integer (of either sign), modulo 2^bits."""

    def scale(self, words: W, factor: int, bits: int) -> W:
        """Words times a public integer (of either sign), modulo 2^bits."""

    def sign_extend(self, words: W, bits: int) -> W:
        """The signed value modulo 2^bits as a signed 64-bit word."""

    def shift_signed(self, words: W, shift: int) -> W:
        """floor(x / 2^shift) of signed 64-bit words."""

    def argmax_signed(self, words: W) -> W:
        """Index of the largest signed entry along the last axis, the lowest on ties."""

    def smallest_signed(self, words: W, k: int) -> W:
        """The k smallest signed entries along the last axis, ascending."""

    def counting(self, n: int) -> W:
        """0, 1, .. n - 1."""

    def window_sum(self, words: W, window: Pair, stride: Pair) -> W:
        """Sums over windows of (B, H, W, C), no padding, modulo 2^64."""

    def gather(self, words: W, index: npt.NDArray[np.int64]) -> W:
        """(Q, N) words at a host index (Q, M), row by row -> (Q, M)."""

    def take(self, words: W, index: Sequence[int], axis: int) -> W:
        """Entries along an axis by a public index."""

    def permute(self, words: W, axes: Sequence[int]) -> W:
        """Axes in another order, in memory too."""

    @overload
    def concat(self, parts: Sequence[W], axis: int) -> W: ...

    @overload
    def concat(self, parts: Sequence[L], axis: int) -> L:
        """Arrays joined along an axis."""


class Products(Protocol[W, P]):
    """Products modulo 2^bits.

    The sums take one or two pairs of operands, add `plus`, words of the result's shape, and a bias
    (C,) for its last axis.
    """

    def operand(self, words: W, bits: int) -> P:
        """Words as an operand of products."""

    def static(self, words: W, bits: int) -> P:
        """`operand` for a right operand of many products: the forms they need are kept."""

    def combine(self, own: W, theirs: memoryview, bits: int) -> P:
        """operand(add_packed(..)): both halves of an opening as an operand of products."""

    def sum_of(self, x: P, y: P, bits: int) -> P:
        """The sum of two operands of one shape, as an operand."""

    def multiply(self, x: W | P, w: W | P, bits: int) -> W:
        """Element-wise product, of plain words too."""

    def row_dot(self, x: W | P, y: W | P, bits: int) -> W:
        """sum_j x_ij y_ij of two (N, d), as (N,), of plain words too."""

    def matmul(self, x: P, w: P, bits: int) -> W:
        """x (M, K) @ w (K, N)."""

    def matmul_sum(
        self, pairs: Sequence[tuple[P, P]], bits: int, plus: W | None = None, bias: W | None = None
    ) -> W:
        """Sum of x @ w, as `matmul`."""

    def conv2d(self, x: P, w: P, stride: Pair, padding: Padding, groups: int, bits: int) -> W:
        """x (B, H, W, Cin), w (kh, kw, Cin / groups, Cout) -> (B, Ho, Wo, Cout), zero padding."""

    def conv2d_sum(
        self,
        pairs: Sequence[tuple[P, P]],
        stride: Pair,
        padding: Padding,
        groups: int,
        bits: int,
        plus: W | None = None,
        bias: W | None = None,
    ) -> W:
        """Sum of convolutions, as `conv2d`."""


class LiftLanes(NamedTuple, Generic[L]):
    """Lanes of a lift, a plane a candidate: the top bits of this party's shares, the same masked,
    the other party's masked ones, and this party's masks.

    `choice` is the public lane that selects the candidate; None where there is only one.
    """

    tops: L
    masked: L
    theirs: L
    masks: L
    choice: L | None


class ProtocolKernels(Protocol[W, L, P_contra]):
    """Steps of protocols that are faster in one pass; `party` is 0 or 1.

    The formulas are derived in protocols.relu, protocols.truncation and protocols.comparison.
    """

    def beaver(
        self, e: P_contra, f: P_contra, a: P_contra, b: P_contra, c: W, party: int, bits: int
    ) -> W:
        """(1 - party) e f + e b + a f + c, element by element."""

    def truncate(self, words: W, k: int, shift: int, party: int, out: W | None = None) -> W:
        """Share modulo 2^k to 2^(k - shift): party 0 adds 2^shift - 1; both shift right."""

    def candidates(self, y: W, t: W, t_r: W, v: W, bits: int) -> tuple[W, W]:
        """zero = y t - t r and one = v - zero, modulo 2^bits."""

    def add_flipped(self, words: W, lane: L, t: W, factor: int, party: int, bits: int) -> W:
        """words + factor * share of (t ^ lane): t where the lane is 0, else (1 at party 0) - t."""

    def add_flipped_part(self, words: W, lane: L, part: W, whole: W, factor: int, bits: int) -> W:
        """words + factor * (part where the lane is 0, else whole - part)."""

    def look_up_chosen(self, chosen: W, start: W, stride: int, table: W, n_chosen: int) -> W:
        """XOR of table[start - stride j] over the bits j < n_chosen that are set in `chosen`.

        `table` has 2^m entries, and places are taken modulo 2^m.
        """

    def mask_top_bits(self, shares: Sequence[W], masks: L, low: int) -> tuple[L, L]:
        """Top bits of one or two flat shares modulo 2^low, a plane each, and the same ^ masks."""

    def lift(
        self, shares: Sequence[W], lanes: LiftLanes[L], products: W, party: int, low: int, high: int
    ) -> W:
        """The selected one of one or two flat shares modulo 2^low, as a share modulo 2^high.

        It is share - 2^low w. With the selected candidate's m, masked, theirs and mask lanes and
        its products P: w_0 = m - m theirs - (1 - 2 theirs)(1 - 2 masked) P, w_1 = m - (1 - 2
        masked)(theirs mask + (1 - 2 theirs) P).
        """

    def thermometer(self, planes: L) -> L:
        """Planes (D, b, n_lanes) of digits r, low bit first -> (D, 2^b - 1, n_lanes): [v < r]."""

    def lookup(self, tables: L, planes: L, below: L) -> tuple[L, L]:
        """Leaves of a comparison: tables (D, 2^b - 1, n_lanes) of shares, planes (D, b, n_lanes) of
        public digits y.

        Returns lt = T[y] and eq = T[y - 1] ^ T[y], both (D, n_lanes), where T[2^b - 1] = 0 and
        T[-1] is the lane `below`: ones at party 0, zeros at party 1.
        """

    def mask_products(self, masks: L, products: Sequence[Factors]) -> L:
        """The AND of each product's masks, which the dealer shares for `masked_products`."""

    def masked_products(
        self,
        opened: L,
        masks: L,
        dealt: L,
        sums: Sequence[Sequence[Factors]],
        products: Sequence[Factors],
        party: int,
    ) -> L:
        """XOR shares of sums of products of masked bits: (sums, nodes, n_lanes).

        Bit f is o_f ^ m_f, with o public (nodes, factors, n_lanes), m_f shared as `masks` of the
        same shape, and each product of several m named in `products` shared as `dealt` (nodes,
        products, n_lanes). A sum is a list of products of bits; each is expanded over the subsets
        of its factors, XOR of (AND of the other o) & (share of the AND of those m), where the empty
        subset is party 0's.
        """


class BackendOf(
    Memory[W, P],
    Streams[W, L],
    WireForms[W, L],
    Bits[W, L],
    Arithmetic[W, L],
    Products[W, P],
    ProtocolKernels[W, L, P],
    Protocol[W, L, P],
):
    """Every operation, on the arrays of one backend."""


Backend = BackendOf[Words, Lanes, Operand]


def as_backend(backend: BackendOf[W, L, P]) -> Backend:
    """A backend as all other packages see it."""
    return cast(Backend, backend)
