"""The program of a benchmark: a plan's, the product of two shared operands, or a search."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from gpumpc.engine.binary_program import binary_program
from gpumpc.measure.search_workload import NEAREST, search_program
from gpumpc.program import plan as plan_files
from gpumpc.program.compiler import program_of
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program, Value


@dataclasses.dataclass(frozen=True)
class Spec:
    """Names a program, so that all three processes make the same.

    Attributes:
        batch_size: images a batch; ignored for an operator.
        operator: empty for the plan's own network; `*` or `@` for a product of two shared operands
            in the plan's ring; `nearest` for a search of the first operand's rows, which are
            results of the plan, among those of the second.
        shapes: of the two operands.
    """

    folder: str
    batch_size: int
    operator: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Spec:
        """From JSON."""
        return cls(**fields | {"shapes": tuple(map(tuple, fields["shapes"]))})

    def load(self) -> tuple[PlanRecord, Program]:
        """Raises MissingFile, CorruptPlan, BadShape, FracMismatch, PlanError."""
        plan = plan_files.load(Path(self.folder))
        if not self.operator:
            return plan, program_of(plan, self.batch_size)
        if self.operator == NEAREST:
            queries, rows = self.shapes
            return plan, search_program(plan, queries[0], rows[0])
        x, y = (Value(shape, plan.params.ring_bits, plan.params.frac_bits) for shape in self.shapes)
        return plan, binary_program(self.operator, x, y, plan.params)
