"""The programs of an index over a plan's features, the same at both servers and at the dealer."""

import hashlib
import itertools

from gpumpc import messages as m
from gpumpc.errors import PlanError
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.index_store import ROWS_PER_BATCH, RowVersion
from gpumpc.retrieval.programs import query_program, rows_program
from gpumpc.wire.frames import encode_record


def program_of_task(plan: PlanRecord, program: Program, task: m.IndexTask) -> Program:
    """The program behind a task. Raises PlanError where it does not fit."""
    geometry = geometry_of(program, task.metric)
    if isinstance(task, m.RowsTask):
        return rows_program(geometry, ROWS_PER_BATCH, plan.params)
    n_rows = len(versions_of(task))
    return query_program(geometry, task.n_queries, n_rows, task.k, plan.params, task.n_labels)


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
