"""Part `machine`: sequences of requests and faults that Hypothesis chooses, against a plain model
(`bench/simulation/state_machine.py`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from bench.evidence.part import SEED, Finding, Part
from bench.simulation.state_machine import Machine

EXAMPLES, STEPS = 100, 50


def examples(n: int, n_steps: int, machine: type[Machine], **more: Any) -> None:
    """Run n sequences of steps. Raises what the first, shortened, failure raised.

    Args:
        more: settings of Hypothesis, such as `derandomize`.
    """
    budget = settings(
        max_examples=n,
        stateful_step_count=n_steps,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=[*HealthCheck],
        **more,
    )
    run_state_machine_as_test(machine, settings=budget)


def _counted(into: Counter[str]) -> type[Machine]:
    class Counted(Machine):
        counts = into

    return Counted


def run(units: Sequence[int]) -> Iterator[Finding]:
    """`EXAMPLES` sequences a unit; a fault holds the shortest sequence that shows it."""
    for unit in units:
        counts, faults = Counter[str](), []
        try:
            examples(EXAMPLES, STEPS, seed(SEED + unit)(_counted(counts)))
        except Exception as error:
            steps = getattr(error, "__notes__", [])
            faults.append("\n".join((f"{type(error).__name__}: {error}", *steps)))
        yield Finding({name: float(n) for name, n in counts.items()}, faults)


PART = Part("machine", f"{EXAMPLES} sequences of up to {STEPS} steps", 60, 0, run)
