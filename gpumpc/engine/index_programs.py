"""The programs of an index over a plan's features, the same at both servers and at the dealer."""

import hashlib
import itertools

import msgspec

from gpumpc import messages as m
from gpumpc.errors import InputError, PlanError
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.index_store import ROWS_PER_BATCH, RowVersion
from gpumpc.retrieval.programs import query_program, rows_program
from gpumpc.wire.frames import encode_record

# Corrections that servers and dealer work off in a second: eight searches for 10,000 of 10,000
# rows, on two shared cores in one process (`python -m bench.topk_failures`).
BYTES_PER_S = 15e6


def program_of_task(plan: PlanRecord, program: Program, task: m.IndexTask) -> Program:
    """The program behind a task. Raises PlanError where it does not fit."""
    geometry = geometry_of(program, task.metric)
    if isinstance(task, m.RowsTask):
        return rows_program(geometry, ROWS_PER_BATCH, plan.params)
    n_rows = len(versions_of(task))
    return query_program(geometry, task.n_queries, n_rows, task.k, plan.params, task.n_labels)


def refuse_costly(
    plan: PlanRecord, program: Program, task: m.IndexTask, n_bytes: int, most_bytes: int
) -> None:
    """Raises InputError where a task's corrections, of `n_bytes`, are above the limit.

    The error names a number of neighbours that is within it.
    """
    if n_bytes <= most_bytes:
        return
    if isinstance(task, m.RowsTask):
        what, fewer = f"adding {ROWS_PER_BATCH} rows", ""
    else:
        n_rows, n_queries = len(versions_of(task)), task.n_queries
        what = f"a search for {task.k} neighbours among {n_rows} rows"
        if n_queries > 1:
            what += f", {n_queries} at a time,"
        k = _neighbours_within(plan, program, task, most_bytes)
        fewer = f"ask for at most {k} neighbours, or " if k else ""
    raise InputError(
        f"{what} takes {_mib(n_bytes)} of correlated randomness, and about "
        f"{n_bytes / BYTES_PER_S:.3g} s",
        f"one may take {_mib(most_bytes)} here",
        f"{fewer}raise `task_limit` in the configurations of both servers and the dealer",
    )


def _neighbours_within(
    plan: PlanRecord, program: Program, task: m.QueryTask, most_bytes: int
) -> int:
    """A k within the limit, an eighth or less below one above it; 0 where halving finds none."""

    def fits(k: int) -> bool:
        fewer = program_of_task(plan, program, msgspec.structs.replace(task, k=k))
        return fewer.cost.dealer_bytes <= most_bytes

    above, k = task.k, task.k // 2
    while k and not fits(k):
        above, k = k, k // 2
    while k and above - k > max(1, k // 8):
        middle = (k + above) // 2
        above, k = (above, middle) if fits(middle) else (middle, k)
    return k


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.3g} MiB"


def task_id(task: m.IndexTask) -> str:
    """32 hex digits in place of a weight sharing id: no two tasks have the same session."""
    return hashlib.sha256(b"gpumpc side task" + encode_record(task)).hexdigest()[:32]


def segments_of(versions: list[RowVersion]) -> list[m.Segment]:
    """Row versions, in order, as segments of one batch each."""
    runs = itertools.groupby(
        versions, key=lambda version: (version.session_id, version.batch_index)
    )
    return [m.Segment(at.hex(), batch, [row.slot for row in run]) for (at, batch), run in runs]


def versions_of(task: m.QueryTask) -> list[RowVersion]:
    """The inverse of `segments_of`. Raises PlanError for a slot that no batch has."""
    versions = [
        RowVersion(bytes.fromhex(segment.session), segment.batch_index, slot)
        for segment in task.segments
        for slot in segment.slots
    ]
    if any(not 0 <= version.slot < ROWS_PER_BATCH for version in versions):
        what = "a row version names a slot that no batch has"
        raise PlanError(what, "the request is malformed", "search again")
    return versions
