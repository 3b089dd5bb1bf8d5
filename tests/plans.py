"""A plan evaluated in the ways that must agree with each other."""

import numpy as np
import numpy.typing as npt

from gpumpc import Plan

MODES = ("float", "fixed", "secure")


def secure(plan: Plan, x: npt.ArrayLike, batch_size: int = 8) -> npt.NDArray[np.float64]:
    """On shares, with all three parties in this process."""
    with plan.simulate(batch_size) as local:
        return local.run(local.share(x)).reveal()


def evaluate(plan: Plan, x: npt.ArrayLike, mode: str) -> npt.NDArray[np.float64]:
    """In one of the MODES."""
    return secure(plan, x) if mode == "secure" else plan.evaluate(x, mode == "fixed")
