"""Programs beside a plan's own: an index takes in rows, or answers queries. The same at both servers and at the dealer."""

from __future__ import annotations

import hashlib
import itertools

from gpumpc.errors import PlanError
from gpumpc.program.plan import Plan
from gpumpc.program.program import Program
from gpumpc.protocols.pooling import Add, Concat, Flatten, MaxPool, SumPool
from gpumpc.protocols.truncation import Truncate
from gpumpc.retrieval.index_store import ROWS_PER_BATCH, RowVersion
from gpumpc.retrieval.programs import Geometry, Metric, query_program, rows_program
from gpumpc.roles import messages as m
from gpumpc.wire.frames import encode_record


def geometry_of(program: Program, metric: Metric) -> Geometry:
    """What an index over a plan's results is made for.

    Features are truncated and lifted, so |v| (1 + 1/32) < 2^(bits-2) must hold. `compile_graph` chooses `output_bits` so,
    unless the ring of the result ends below that. A result with all the bits of its ring may be such a one: nobody here
    knows how large values get, so it is refused.

    Raises PlanError for results that are no vectors, or that may not have the two spare bits.
    """
    result = program.result
    if len(result.shape) != 2 or program.result_is_index:
        raise PlanError(
            "this plan's results cannot be indexed", "an index holds vectors", "compile the network up to its features"
        )
    room = _ring_of(program, program.output)
    if not 3 <= result.bits < room:
        raise PlanError(
            f"this plan's results have {result.bits} bits, in a ring of {room}",
            "an index needs results that leave two bits free, and these may not",
            "compile the network anew, with a larger k if that does not help",
        )
    return Geometry(result.shape[1], metric, result.bits, result.frac, result.divisor)


def _ring_of(program: Program, name: str) -> int:
    """Bits that a value would have if its reader wanted as many as there are: what caps `output_bits`."""
    made = {step.output: step for step in program.steps}
    if name not in made:
        return program.inputs[name].bits
    step = made[name]
    match step:
        case Truncate():
            return step.k - step.shift
        case MaxPool():
            return step.bits
        case SumPool() | Add() | Concat() | Flatten():
            return min(_ring_of(program, source) for source in step.inputs)
    # Products, and what is brought up to the ring of the next product by its own last round.
    return program.params.k


def program_of_task(plan: Plan, program: Program, task: m.SideTask) -> Program:
    """The program behind a task. Raises PlanError where it does not fit."""
    geometry = geometry_of(program, task.metric)
    if isinstance(task, m.RowsTask):
        return rows_program(geometry, ROWS_PER_BATCH, plan.params)
    return query_program(geometry, task.n_queries, len(versions_of(task)), task.k, plan.params, task.n_labels)


def binding(task: m.SideTask) -> str:
    """32 hex digits in place of a share pair: the sessions of two tasks are never one."""
    return hashlib.sha256(b"gpumpc side task" + encode_record(task)).hexdigest()[:32]


def segments_of(versions: list[RowVersion]) -> list[m.Segment]:
    """Row versions, in order, as runs of one batch each."""
    runs = itertools.groupby(versions, key=lambda version: (version.session_id, version.batch))
    return [m.Segment(place[0].hex(), place[1], [version.slot for version in run]) for place, run in runs]


def versions_of(task: m.QueryTask) -> list[RowVersion]:
    """The inverse of `segments_of`. Raises PlanError for a slot that no batch has."""
    versions = [
        RowVersion(bytes.fromhex(segment.session), segment.batch, slot)
        for segment in task.segments
        for slot in segment.slots
    ]
    if any(not 0 <= version.slot < ROWS_PER_BATCH for version in versions):
        raise PlanError("a row version names a slot that no batch has", "the request is malformed", "search again")
    return versions
