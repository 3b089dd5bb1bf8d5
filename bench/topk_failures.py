"""Is the opened search right, and silent? `python -m bench.topk_failures --queries 1000 --n 2000
--json`.

Both servers and the dealer run in this process. `wrong` counts queries whose k keys are not those
of an exact integer top-k, ties by lowest id; databases of all kinds take turns. With `--law`, two
databases are searched instead, a random one and one of nothing but duplicates of the query;
`outside_law` counts statistics of what was opened that tell them apart.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from bench.command import command_line, show
from bench.schema import row
from gpumpc.cost import Cost
from gpumpc.errors import SelectionFailed
from gpumpc.protocols.ranking.shuffle import Shuffle
from gpumpc.protocols.ranking.topk import TopK
from tests.harness import Outcome, run_steps, share

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
BITS = 26
K = 5
BATCH = 50
# How often an honest search fails the whole of `check_law`, over the random choice of masks.
FALSE_ALARMS = 1e-6


def id_bits(n: int) -> int:
    """Bits of a position among n."""
    return max(1, (n - 1).bit_length())


def steps(shape: tuple[int, int], k: int, bits: int = BITS) -> list[Shuffle | TopK]:
    """Distances -> the k smallest keys of each row."""
    places = id_bits(shape[1])
    return [
        Shuffle("shuffled", ("x",), "shuffled", shape, bits, places),
        TopK("best", ("shuffled",), "best", shape, bits + places, k),
    ]


def search(
    distances: Ints,
    k: int,
    seed: int,
    batch_index: int = 1,
    bits: int = BITS,
    script: Mapping[Any, Any] | None = None,
) -> Outcome:
    """One run on shares of the distances (Q, N). Raises SelectionFailed."""
    rows, n = distances.shape
    inputs, parts = {"x": share(distances, bits, seed=seed)}, steps((rows, n), k, bits)
    return run_steps(parts, inputs, seed=seed, batch_index=batch_index, script=script)


def exact(distances: Ints, k: int) -> Ints:
    """The k smallest of distance * 2^b + id of each row, ascending."""
    keys = (distances << id_bits(distances.shape[1])) + np.arange(distances.shape[1])
    return np.sort(keys, axis=1)[:, :k]


def databases(
    shape: tuple[int, int], rng: np.random.Generator, bits: int = BITS
) -> Iterator[tuple[str, Ints]]:
    """Distances of every kind, over and over; all within the range that a search declares."""
    top = (1 << (bits - 2)) - 1
    while True:
        yield "random", rng.integers(-top, top + 1, shape)
        yield "duplicates", rng.integers(0, 8, shape)
        yield "all equal", np.full(shape, rng.integers(-top, top + 1))
        yield "extremes", rng.choice(np.array([-top, -1, 0, top]), shape)
        yield "descending", np.broadcast_to(np.arange(shape[1])[::-1], shape).copy()


@dataclasses.dataclass
class Tally:
    """What a run of searches came to."""

    queries: int = 0
    wrong: int = 0
    retries: int = 0
    cost: Cost = dataclasses.field(default_factory=Cost)


def count_wrong(n_queries: int, n: int, k: int, seed: int) -> Tally:
    """Searches by batches; a failed batch is repeated under new masks, as the servers do."""
    tally, rng, batch_index = Tally(), np.random.default_rng(seed), 0
    kinds = databases((BATCH, n), rng)
    while tally.queries < n_queries:
        distances = next(kinds)[1][: n_queries - tally.queries]
        while True:
            batch_index += 1
            try:
                outcome = search(distances, k, seed, batch_index)
                break
            except SelectionFailed:
                tally.retries += 1
        tally.wrong += int((outcome.values != exact(distances, k)).any(axis=1).sum())
        tally.queries, tally.cost = tally.queries + len(distances), tally.cost + outcome.cost
    return tally


# what is opened, and its law


def opened_signs(outcome: Outcome, rows: int) -> dict[str, Bools]:
    """The comparison bits (rows, comparisons) of each step: the lanes it opened last."""
    lanes = {o.step: o for o in outcome.openings[0] if not o.bits}
    return {name: _host_bits(o.values, o.n).reshape(rows, -1) for name, o in lanes.items()}


def _host_bits(lanes: npt.NDArray[np.uint64], n: int) -> Bools:
    octets = np.ascontiguousarray(lanes[0]).view(np.uint8)
    return np.unpackbits(octets, count=n, bitorder="little").view(bool)


def transcripts(distances: Ints, n_queries: int, k: int, seed: int) -> dict[str, Bools]:
    """The comparison bits of many searches over the same distances.

    Raises AssertionError where most of them fail.
    """
    parts: list[dict[str, Bools]] = []
    wanted = -(-n_queries // len(distances))
    for batch_index in range(1, 2 * wanted + 20):
        with contextlib.suppress(SelectionFailed):
            parts.append(opened_signs(search(distances, k, seed, batch_index), len(distances)))
        if len(parts) == wanted:
            whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            return {name: bits[:n_queries] for name, bits in whole.items()}
    raise AssertionError(f"{len(parts)} of {2 * wanted + 20} batches succeeded")


def statistics(signs: dict[str, Bools]) -> Iterator[tuple[str, Ints]]:
    """(label, one small number a query): what a law of orders is recognised by."""
    for name, bits in signs.items():
        count = bits.sum(axis=1)
        yield f"{name}: ones", count
        yield f"{name}: first one", np.where(bits.any(axis=1), bits.argmax(axis=1), -1)
        yield f"{name}: like the query before", (bits[1:] == bits[:-1]).sum(axis=1)
        for i in range(bits.shape[1]):
            yield f"{name}: bit {i}", bits[:, i].astype(np.int64)
        for i in range(bits.shape[1] - 1):
            yield f"{name}: bits {i}, {i + 1}", 2 * bits[:, i].astype(np.int64) + bits[:, i + 1]


def p_value(first: Ints, second: Ints) -> float:
    """Two-sample chi-square of small numbers, those that are rare taken together."""
    low = min(first.min(), second.min())
    size = int(max(first.max(), second.max()) - low) + 1
    counts = np.stack([np.bincount(sample - low, minlength=size) for sample in (first, second)])
    together: list[npt.NDArray[np.int64]] = [np.zeros(2, dtype=np.int64)]
    for column in counts.T:
        if together[-1].sum() >= 40:
            together.append(np.zeros(2, dtype=np.int64))
        together[-1] = together[-1] + column
    if len(together) > 1 and together[-1].sum() < 40:
        together[-2:] = [together[-2] + together[-1]]
    table = np.array(together).T.astype(float)
    expected = table.sum(axis=0) * (table.sum(axis=1) / table.sum())[:, None]
    filled = expected > 0
    statistic = ((table - expected)[filled] ** 2 / expected[filled]).sum()
    return float(chi2.sf(statistic, max(1, table.shape[1] - 1)))


def check_law(first: dict[str, Bools], second: dict[str, Bools]) -> tuple[list[str], int, float]:
    """Statistics that differ beyond `FALSE_ALARMS`, how many there were, the least p-value."""
    pairs = zip(statistics(first), statistics(second), strict=True)
    found = [(label, p_value(one, other)) for (label, one), (_, other) in pairs]
    outside = [label for label, p in found if p < FALSE_ALARMS / len(found)]
    return outside, len(found), min(p for _, p in found)


def two_laws(n_queries: int, n: int, k: int, seed: int) -> tuple[list[str], int, float]:
    """The law of a random database against that of nothing but duplicates of the query."""
    random = np.random.default_rng(seed).integers(0, 1 << (BITS - 2), n)
    rows = min(n_queries, 200)
    both = [
        np.broadcast_to(kind, (rows, n)).copy() for kind in (random, np.zeros(n, dtype=np.int64))
    ]
    first, second = (transcripts(kind, n_queries, k, seed + i) for i, kind in enumerate(both))
    return check_law(first, second)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count wrong queries, or with --law differing statistics; the exit status is 1 if any."""
    parser = command_line("topk_failures", "Check the search.")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--n", type=int, default=2000, help="rows of the database")
    parser.add_argument("--k", type=int, default=K, help="neighbours asked for")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--law", action="store_true", help="compare openings of two databases")
    options = parser.parse_args(arguments)
    start, found = time.monotonic(), dict[str, Any]()
    if options.law:
        outside, n_statistics, least = two_laws(options.queries, options.n, options.k, options.seed)
        bad = len(outside)
        found |= {"outside_law": bad, "statistics": n_statistics}
        found |= {"p_value_least": least, "false_alarms": FALSE_ALARMS}
        text = f"{bad} of {n_statistics} statistics differ, least p-value {least:.3g}"
        print(text, *outside[:8], file=sys.stderr)
    else:
        tally = count_wrong(options.queries, options.n, options.k, options.seed)
        bad, cost = tally.wrong, tally.cost
        found |= {"wrong": bad, "retries": tally.retries, "rounds": cost.rounds}
        found |= {"online_bytes": cost.online_bytes, "offline_bytes": cost.dealer_bytes}
        print(f"{bad} of {tally.queries} wrong, {tally.retries} batches repeated", file=sys.stderr)
    measured = row(
        seconds_total=time.monotonic() - start,
        n_threads=2,
        queries=options.queries,
        n=options.n,
        neighbours=options.k,
        backend="numpy",
        **found,
    )
    show(measured, options.json)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
