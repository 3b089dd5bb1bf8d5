"""Part `law`: truncations and comparisons against the error law that each step states.

A unit draws values for every law of `bench/comparison_ranges.py` in one ring; 10^9 results take
hundreds of units, of which each has a seed of its own.
"""

from collections.abc import Iterator, Sequence

from bench.comparison_ranges import RINGS, check, laws
from bench.evidence.part import Finding, Part

PER_LAW = 1 << 20
N_LAWS = 5
RESULTS = 1_000_000_000
UNITS = -(-RESULTS // (PER_LAW * N_LAWS))


def one_ring(unit: int, n: int = PER_LAW) -> Finding:
    """All laws in the ring that goes round with the unit."""
    k, f = RINGS[unit % len(RINGS)]
    counts: dict[str, float] = {}
    faults = []
    for law in laws(k, f):
        n_outside, _ = check(law, n, seed=unit)
        counts[f"{law.name} k={k}"] = n
        counts["results"] = counts.get("results", 0) + n
        if n_outside:
            faults.append(f"{law.name} at k = {k}: {n_outside} of {n} results outside the law")
    return Finding(counts, faults)


def run(units: Sequence[int]) -> Iterator[Finding]:
    """One ring after another."""
    for unit in units:
        yield one_ring(unit)


PART = Part("law", f"{PER_LAW * N_LAWS:,} results in one ring", UNITS, 1, run)
