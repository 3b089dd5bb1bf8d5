"""Steps as the protocol tests use them, with their declared laws in plain integers."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.params import Cipher
from gpumpc.protocols import linear
from gpumpc.protocols.chains import Chain
from gpumpc.protocols.comparison import Comparison
from gpumpc.protocols.pooling import MaxPool, Window
from gpumpc.protocols.ranking.argmax import Argmax
from gpumpc.protocols.relu import Clamp, ReLU
from gpumpc.protocols.step import Clear, Shape, Step
from gpumpc.protocols.truncation import Lift, Truncate
from gpumpc.ring.backend import Words, lane_bytes
from gpumpc.session import Session

Ints = npt.NDArray[np.int64]
Visibility = Literal["private", "public"]
# (k, f): the two settings of docs/protocols.md section 7, and the widest ring that a plan may ask
# for.
RINGS = [(40, 13), (44, 16), (62, 20)]
SIZES = [1, 19, 989]
CIPHERS: list[Cipher] = ["aes128ctr", "chacha20"]


# inputs


def values(low: int, high: int, n: int, seed: int = 0) -> Ints:
    """n integers of [low, high): both edges, around zero, then random ones of every magnitude."""
    rng = np.random.default_rng(seed)
    known = [low, high - 1, 0, -1, 1, low + 1, high - 2]
    small = rng.integers(low, high, n) >> rng.integers(0, int(high).bit_length(), n)
    both = np.where(rng.random(n) < 0.5, small, rng.integers(low, high, n))
    return np.concatenate([known, both])[:n] if n > 1 else np.array([low])


def random_values(bits: int, shape: tuple[int, ...], low: int | None = None) -> Ints:
    """Random integers of `bits` bits, zero, one and both edges first."""
    half = 1 << (bits - 1)
    x = np.random.default_rng(1).integers(-half if low is None else low, half, shape)
    x.reshape(-1)[:4] = [0, 1, half - 1, -half if low is None else low]
    return x


# steps


def truncate(n: int, k: int, f: int) -> Truncate:
    return Truncate("truncate", ("x",), "y", (n,), k, f)


def lift(n: int, low: int, high: int) -> Lift:
    return Lift("lift", ("x",), "y", (n,), low, high)


def relu(n: int, bits: int, high: int) -> ReLU:
    return ReLU("relu", ("x",), "y", (n,), bits, high)


def clamp(n: int, bits: int, high: int, top: int) -> Clamp:
    return Clamp("clamp", ("x",), "y", (n,), bits, high, top)


def pair_max(n: int, bits: int) -> MaxPool:
    """The larger of two: x is (n, 1, 2, 1)."""
    return MaxPool("max", ("x",), "y", (n, 1, 2, 1), bits, (Window(2, 2, 2, 0, 0),))


def max_pool(
    shape: tuple[int, ...],
    bits: int,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: Sequence[int],
) -> MaxPool:
    top, bottom, left, right = padding
    across = Window(2, window[1], stride[1], left, right)
    down = Window(1, window[0], stride[0], top, bottom)
    return MaxPool("pool", ("x",), "y", shape, bits, (across, down))


def argmax(shape: tuple[int, int], bits: int) -> Argmax:
    return Argmax("argmax", ("x",), "y", shape, bits)


def product_steps(
    operator: linear.MatMul | linear.Convolution,
    shape: Shape,
    out: Shape,
    k: int,
    frac: int = 0,
    weights: Visibility = "private",
) -> list[Step]:
    """x o W + b with the weights of "layer"; x is opened first where they are private."""
    if weights == "public":
        return [linear.PublicProduct("p", ("x",), "y", shape, "layer", operator, out, k, frac)]
    return [
        linear.Open("open", ("x",), "e", shape, k),
        linear.PrivateProduct("p", ("e",), "y", shape, "layer", operator, out, k, frac),
    ]


def beaver_steps(
    operator: linear.Operator, shape: Shape, other: Shape, out: Shape, k: int
) -> list[Step]:
    """x o y of two operands."""
    return [
        linear.Open("open x", ("x",), "e", shape, k),
        linear.Open("open y", ("y",), "f", other, k),
        linear.BeaverProduct("p", ("e", "f"), "z", shape, operator, out, k),
    ]


# laws


def outside_truncation(x: Ints, got: Ints, f: int) -> npt.NDArray[np.bool_]:
    """Where a result is not floor(x / 2^f) or that plus one; multiples of 2^f must be exact."""
    floor = x >> f
    wrong: npt.NDArray[np.bool_] = (got != floor) & ((got != floor + 1) | (floor << f == x))
    return wrong


def outside_relu(x: Ints, got: Ints) -> npt.NDArray[np.bool_]:
    return np.not_equal(got, np.maximum(x, 0))


def outside_clamp(x: Ints, got: Ints, top: int) -> npt.NDArray[np.bool_]:
    return np.not_equal(got, np.clip(x, 0, top))


def pool_by_loop(
    x: Ints, window: tuple[int, int], stride: tuple[int, int], padding: Sequence[int]
) -> Ints:
    """Largest real entry of each window, one entry at a time."""
    top, bottom, left, right = padding
    b, h, w, c = x.shape
    rows = (h + top + bottom - window[0]) // stride[0] + 1
    columns = (w + left + right - window[1]) // stride[1] + 1
    out = np.empty((b, rows, columns, c), dtype=np.int64)
    for item, i, j, channel in np.ndindex(*out.shape):
        y, z = stride[0] * i - top, stride[1] * j - left
        part = x[item, max(y, 0) : y + window[0], max(z, 0) : z + window[1], channel]
        out[item, i, j, channel] = max(part.reshape(-1).tolist())
    return out


# comparisons, alone


@dataclasses.dataclass(frozen=True)
class Lt:
    """A share of lanes, with what a harness reads of any share."""

    lanes: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Compare(Step):
    """[y_c < r] for public y_c; r is the sum of both parties' draws called "r"."""

    comparison: Comparison

    @property
    def cost(self) -> Cost:
        c = self.comparison
        return Cost.both_ways(
            c.rounds, lane_bytes(self.n, c.opened_bits), lane_bytes(self.n, c.dealt_bits)
        )

    def deal(self, dealing: Dealing, *masks: object) -> None:
        bits = self.comparison.bits
        r = dealing.sum_words("r", (self.n,), bits)
        self.comparison.deal(dealing, dealing.backend.to_planes(r, bits), self.n)

    def run(self, session: Session, *ys: Any) -> Lt:
        planes = [session.backend.to_planes(y.words, self.comparison.bits) for y in ys]
        return Lt(tuple(self.comparison.run(session, planes, self.n)))

    def plain(self, clear: Clear, *values: Words) -> Words:
        raise AssertionError("a comparison has no value in the clear")


def compare(n: int, comparison: Comparison) -> Compare:
    ys = tuple(f"y{c}" for c in range(comparison.copies))
    return Compare("compare", ys, "l", (n,), comparison)


def compositions(bits: int, widest: int = 4) -> Iterator[tuple[int, ...]]:
    """Every way to cut `bits` bits into digits, in every order."""
    if bits == 0:
        yield ()
    for first in range(1, min(bits, widest) + 1):
        for rest in compositions(bits - first, widest):
            yield (first, *rest)


def groupings(n_digits: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every way to combine digits, up to four at a time, level after level, until one is left."""
    if n_digits == 1:
        yield ()
        return
    for sizes in compositions(n_digits):
        if len(sizes) < n_digits:
            for rest in groupings(len(sizes)):
                yield (sizes, *rest)


def chains(bits: int, keep_eq: bool) -> Iterator[Chain]:
    """Every chain there is for so many bits."""
    for widths in compositions(bits):
        for levels in groupings(len(widths)):
            yield Chain(widths, levels, keep_eq)
