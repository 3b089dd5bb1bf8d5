"""Part `simulation`: schedules of the whole cluster in virtual time (`bench/simulation`)."""

import logging
from collections.abc import Iterator, Sequence

from bench.evidence.part import Finding, Part
from bench.simulation.__main__ import a_user, small_plan
from bench.simulation.schedule import Schedule

SCHEDULES = 500
UNITS = 200


def run(units: Sequence[int]) -> Iterator[Finding]:
    """`SCHEDULES` seeds a unit; a fault names the seed that shows it."""
    plan, identity = small_plan(), a_user()
    logging.disable(logging.CRITICAL)
    try:
        for unit in units:
            counts = dict.fromkeys(("schedules", "faults", "answers", "errors", "searches"), 0.0)
            failed = []
            for seed in range(unit * SCHEDULES, (unit + 1) * SCHEDULES):
                schedule = Schedule(seed, plan, identity)
                try:
                    schedule.run()
                except Exception as error:
                    failed.append(f"seed {seed}: {type(error).__name__}: {error}")
                told = schedule.history
                found = 1, schedule.n_faults, told.n_answers, told.n_errors, told.n_searches
                for name, n in zip(counts, found, strict=True):
                    counts[name] += n
            yield Finding(counts, failed)
    finally:
        logging.disable(logging.NOTSET)


PART = Part("simulation", f"{SCHEDULES} schedules", UNITS, 0, run)
