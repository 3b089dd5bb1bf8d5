"""Do the range-limited steps ever leave their law? `python -m bench.comparison_ranges --n 10000000
--json`.

n random values each, over the whole range a step states and at its edges, at k = 40, 44 and 62 for
truncation, lift, ReLU, clamp and maximum; both servers and the dealer run in this process.
`outside_law` counts results that a law does not allow.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.command import command_line, show
from bench.schema import row
from gpumpc.cost import Cost
from gpumpc.protocols.pooling import MaxPool, Window
from gpumpc.protocols.relu import Clamp, ReLU
from gpumpc.protocols.step import Step
from gpumpc.protocols.truncation import Lift, Truncate
from tests.harness import run_step, share

Ints = npt.NDArray[np.int64]
RINGS = ((40, 13), (44, 16), (62, 20))
BATCH = 1 << 18


@dataclasses.dataclass(frozen=True)
class Law:
    """A step, the ring and half-open range of its values, and which results it may not give.

    Attributes:
        step: makes the step for so many values.
        bits: values are shared modulo 2^bits.
        low, high: low <= value < high.
        outside: from values and results, which results break the law.
    """

    name: str
    step: Callable[[int], Step]
    bits: int
    low: int
    high: int
    outside: Callable[[Ints, Ints], npt.NDArray[np.bool_]]


def laws(k: int, f: int) -> Iterator[Law]:
    """The five laws in one ring."""
    bits, top, names = k - f, 6 << f, ("step", ("x",), "y")
    half, whole, windows = 1 << (bits - 1), 1 << (k - 1), (Window(2, 2, 2, 0, 0),)

    def wrong_quotient(x: Ints, got: Ints) -> Any:
        """Neither floor nor, where x is not a multiple of 2^f, floor + 1."""
        return (got != x >> f) & ((got != (x >> f) + 1) | (x >> f << f == x))

    def wrong_maximum(x: Ints, got: Ints) -> Any:
        return got.reshape(-1) != x.max(axis=2).reshape(-1)

    def truncate(n: int) -> Step:
        return Truncate(*names, (n,), k, f)

    def lift(n: int) -> Step:
        return Lift(*names, (n,), bits, k)

    def relu(n: int) -> Step:
        return ReLU(*names, (n,), bits, k)

    def clamp(n: int) -> Step:
        return Clamp(*names, (n,), bits, k, top)

    def maximum(n: int) -> Step:
        return MaxPool(*names, (n, 1, 2, 1), bits, windows)

    yield Law("truncate", truncate, k, -whole, whole - (1 << f) + 1, wrong_quotient)
    yield Law("lift", lift, bits, -(half // 2), half // 2, lambda x, got: got != x)
    yield Law("relu", relu, bits, -half, half, lambda x, got: got != np.maximum(x, 0))
    yield Law("clamp", clamp, bits, top - half, half, lambda x, got: got != np.clip(x, 0, top))
    yield Law("max", maximum, bits, -(half // 2), half // 2, wrong_maximum)


def draw(law: Law, n: int, rng: np.random.Generator) -> Ints:
    """n values: a quarter near the edges and zero, the others uniform over the range."""
    x = rng.integers(law.low, law.high, n)
    near = rng.choice(np.array([law.low, law.high - 1, 0]), n) + rng.integers(-3, 4, n)
    return np.where(rng.random(n) < 0.25, np.clip(near, law.low, law.high - 1), x)


def check(law: Law, n: int, seed: int) -> tuple[int, Cost]:
    """How many of n results are outside the law, and what all batches cost."""
    rng = np.random.default_rng(seed)
    n_outside, cost = 0, Cost()
    for batch_index, start in enumerate(range(0, n, BATCH)):
        step = law.step(min(BATCH, n - start))
        x = draw(law, step.n, rng).reshape(step.shape)
        first = rng.integers(0, 1 << law.bits, step.shape, dtype=np.uint64)
        pair = share(x, law.bits, first=first)
        outcome = run_step(step, pair, seed=seed, batch_index=batch_index)
        n_outside += int(law.outside(x, outcome.values).sum())
        cost = cost + outcome.cost
    return n_outside, cost


def check_all(n: int) -> tuple[dict[str, int], Cost]:
    """Results outside each law in each ring, and the whole cost; reports on standard error."""
    outside, total = dict[str, int](), Cost()
    for seed, (k, f) in enumerate(RINGS):
        for law in laws(k, f):
            begun = time.monotonic()
            n_outside, cost = check(law, n, seed)
            outside[f"{law.name}_k{k}"], total = n_outside, total + cost
            text = f"{law.name:>8} k={k} f={f}: {n_outside} of {n} outside"
            print(f"{text}, {time.monotonic() - begun:.1f} s", file=sys.stderr)
    return outside, total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all laws in all rings; the exit status is 1 if any result is outside its law."""
    parser = command_line("comparison_ranges", "Count results outside the law.")
    parser.add_argument("--n", type=int, default=10_000_000, help="results a law and ring")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    outside, total = check_all(options.n)
    measured = row(
        seconds_total=time.monotonic() - start,
        online_bytes=total.online_bytes,
        offline_bytes=total.dealer_bytes,
        rounds=total.rounds,
        backend="numpy",
        n_threads=2,
        n=options.n,
        outside_law=sum(outside.values()),
        outside_law_by_step=outside,
    )
    show(measured, options.json, f"{measured['outside_law']} results outside the law")
    return int(measured["outside_law"] > 0)


if __name__ == "__main__":
    sys.exit(main())
