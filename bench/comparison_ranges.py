"""Do the range-limited steps ever leave their law? `python -m bench.comparison_ranges --n 10000000
--json`.

n random values each, over the whole range a step states and at its edges, at k = 40, 44 and 62 for
truncation, lift, ReLU, clamp and maximum; both servers and the dealer run in this process.
`outside_law` counts results that a law does not allow.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

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
    bits, top = k - f, 6 << f
    half = 1 << (bits - 1)
    yield Law(
        "truncate",
        lambda n: Truncate("step", ("x",), "y", (n,), k, f),
        k,
        -(1 << (k - 1)),
        (1 << (k - 1)) - (1 << f) + 1,
        lambda x, got: (got != x >> f) & ((got != (x >> f) + 1) | (x >> f << f == x)),
    )
    yield Law(
        "lift",
        lambda n: Lift("step", ("x",), "y", (n,), bits, k),
        bits,
        -(half // 2),
        half // 2,
        lambda x, got: got != x,
    )
    yield Law(
        "relu",
        lambda n: ReLU("step", ("x",), "y", (n,), bits, k),
        bits,
        -half,
        half,
        lambda x, got: got != np.maximum(x, 0),
    )
    yield Law(
        "clamp",
        lambda n: Clamp("step", ("x",), "y", (n,), bits, k, top),
        bits,
        top - half,
        half,
        lambda x, got: got != np.clip(x, 0, top),
    )
    yield Law(
        "max",
        lambda n: MaxPool("step", ("x",), "y", (n, 1, 2, 1), bits, (Window(2, 2, 2, 0, 0),)),
        bits,
        -(half // 2),
        half // 2,
        lambda x, got: got.reshape(-1) != x.max(axis=2).reshape(-1),
    )


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
        outcome = run_step(
            step, share(x, law.bits, first=first), seed=seed, batch_index=batch_index
        )
        n_outside += int(law.outside(x, outcome.values).sum())
        cost = cost + outcome.cost
    return n_outside, cost


def check_all(n: int) -> tuple[dict[str, int], Cost]:
    """Results outside each law in each ring, and the cost of everything; progress goes to standard
    error.
    """
    outside, total = dict[str, int](), Cost()
    for seed, (k, f) in enumerate(RINGS):
        for law in laws(k, f):
            begun = time.monotonic()
            n_outside, cost = check(law, n, seed)
            outside[f"{law.name}_k{k}"], total = n_outside, total + cost
            seconds = time.monotonic() - begun
            print(
                f"{law.name:>8} k={k} f={f}: {n_outside} of {n} outside, {seconds:.1f} s",
                file=sys.stderr,
            )
    return outside, total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all laws in all rings; the exit status is 1 if any result is outside its law."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.comparison_ranges", description="Count results outside the law."
    )
    parser.add_argument("--n", type=int, default=10_000_000, help="results a law and ring")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line"
    )
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
    if options.json:
        print(json.dumps(measured))
    else:
        print(f"{measured['outside_law']} results outside the law")
    return int(measured["outside_law"] > 0)


if __name__ == "__main__":
    sys.exit(main())
