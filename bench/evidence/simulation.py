"""Part `simulation`: schedules of the whole cluster in virtual time (`bench/simulation`)."""

from collections import Counter
from collections.abc import Iterator, Sequence

from bench.evidence.part import Finding, Part
from bench.simulation.plans import a_user, small_plan
from bench.simulation.schedule import outcome

SCHEDULES = 500
UNITS = 200


def run(units: Sequence[int]) -> Iterator[Finding]:
    """`SCHEDULES` seeds a unit; a fault names the seed that shows it."""
    plan, identity = small_plan(), a_user()
    for unit in units:
        totals, failed = Counter[str](), []
        for seed in range(unit * SCHEDULES, (unit + 1) * SCHEDULES):
            counts, failure = outcome(seed, plan, identity)
            totals.update(counts)
            if failure is not None:
                failed.append(f"seed {seed}: {type(failure).__name__}: {failure}")
        yield Finding({name: float(n) for name, n in totals.items()}, failed)


PART = Part("simulation", f"{SCHEDULES} schedules", UNITS, 0, run)
