"""A search to be measured: an index's program, whose queries and rows are results of a plan.

The rows are static operands, as weights are: each server holds a share and the public rows under
their masks, opened once before any query. Here the owner shares all rows at once and the dealer
draws their masks once; an index adds rows batch by batch, and its dealer draws the masks for each
request.
"""

import numpy as np
import numpy.typing as npt

from gpumpc.program.compiler import program_of
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.plain import plain_search
from gpumpc.retrieval.programs import ROWS, Geometry, Metric, query_program

Array = npt.NDArray[np.float64]
NEAREST = "nearest"
METRIC: Metric = "l2"
N_BEST = 10


def geometry_for(plan: PlanRecord) -> Geometry:
    """The geometry of an index over this plan's results. Raises PlanError unless it admits them."""
    return geometry_of(program_of(plan, 1), METRIC)


def search_program(plan: PlanRecord, n_queries: int, n_rows: int) -> Program:
    """Queries (n_queries, dim) -> keys (n_queries, N_BEST) of the nearest of so many rows."""
    return query_program(geometry_for(plan), n_queries, n_rows, N_BEST, plan.params)


def rows_at_rest(plan: PlanRecord, rows: Array) -> dict[str, Array]:
    """Real rows (N, dim) as the program's static operand: -2 V^T and |v|^2 of quantised rows."""
    geometry = geometry_for(plan)
    v = _units(geometry, rows)
    return {f"{ROWS}.weight": geometry.weight_factor * v.T, f"{ROWS}.bias": (v * v).sum(axis=1)}


def quantised(plan: PlanRecord, features: Array) -> Array:
    """Features as an index keeps them, as reals: their truncation on shares is exact."""
    geometry = geometry_for(plan)
    return np.asarray(_units(geometry, features) / np.sqrt(geometry.score_scale))


def _units(geometry: Geometry, features: Array) -> Array:
    # A score is a product of two features.
    return np.asarray(np.rint(features * np.sqrt(geometry.score_scale)))


def differences(plan: PlanRecord, queries: Array, rows: Array, keys: Array) -> tuple[float, int]:
    """The largest difference of a distance from a search in the clear, and wrong positions."""
    geometry = geometry_for(plan)
    scores, positions = plain_search(geometry, plan.params, rows, queries, N_BEST)
    found_scores, found = np.divmod(keys, 2.0 ** geometry.id_bits(len(rows)))
    error = np.abs(found_scores / geometry.score_scale - scores).max()
    return float(error), int((found != positions).sum())
