"""A search in the clear: the programs of an index, walked on integers, to compare searches with."""

import numpy as np
import numpy.typing as npt

from gpumpc.params import Params
from gpumpc.protocols.step import Clear
from gpumpc.retrieval.programs import ROWS, Geometry, query_program, rows_program
from gpumpc.ring.choose import choose_backend
from gpumpc.ring.fixed_point import signed

Floats = npt.NDArray[np.float64]


def plain_search(
    geometry: Geometry, params: Params, gallery: Floats, queries: Floats, k: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scores (Q, k), as a user sees them, and positions (Q, k) of the best rows for each query,
    best first.

    Truncations round to nearest here, and up or down on shares: a row may differ in its last bits.

    Args:
        gallery, queries: (N, d) and (Q, d) fixed-point features, as reals.

    Raises PlanError for a k outside 1 to N.
    """
    backend = choose_backend()
    scale = 2.0**geometry.frac * geometry.divisor
    rows, asked = (
        backend.upload(np.rint(values * scale).astype(np.int64).view(np.uint64))
        for values in (gallery, queries)
    )
    rows = rows_program(geometry, len(gallery), params).plain(Clear(backend, {}), rows)
    norms = backend.zeros((len(gallery),))
    if geometry.metric == "l2":
        norms = backend.row_dot(rows, rows, 64)
    operand = backend.scale(rows.T, geometry.weight_factor, 64)
    program = query_program(geometry, len(queries), len(gallery), k, params)
    keys = backend.download(program.plain(Clear(backend, {ROWS: (operand, norms)}), asked))
    found = signed(np.ascontiguousarray(keys), 64)
    positions = found & ((1 << geometry.id_bits(len(gallery))) - 1)
    scores = ((found - positions) >> geometry.id_bits(len(gallery))) / geometry.score_scale
    return (scores if geometry.metric == "l2" else -scores), positions
