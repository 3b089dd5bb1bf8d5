"""One object, three modes: a compiled network evaluated in float64, in fixed point in the clear, or
on shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.errors import MissingExtra
from gpumpc.local.simulation import LocalSession
from gpumpc.nn.graph import Graph
from gpumpc.nn.plaintext import check_input, evaluate_float
from gpumpc.params import Params
from gpumpc.program import plan as plan_files
from gpumpc.program.compiler import GUARD_BITS, Calibration, compile_graph, program_of
from gpumpc.program.head import HEAD_PARAMS, Policy, compile_head, with_policy
from gpumpc.program.integers import evaluate_fixed, integer_weights
from gpumpc.program.plan import Bounds, PlanRecord, Preprocessing, Weights
from gpumpc.ring.choose import choose_backend

Mode = Literal["float", "fixed", "secure"]
Array = npt.NDArray[np.float64]
BATCH = 8


class Plan:
    """A plan with its weights: what the model's owner has in hand.

    Call it as `compiled(x, mode="float" | "fixed" | "secure")` with x (B, H, W, C) in the input's
    declared range.
    """

    def __init__(self, record: PlanRecord, weights: Weights) -> None:
        self.record, self.weights = record, weights

    def __repr__(self) -> str:
        return f"Plan({self.record.name!r}, {self.record.params})"

    def __call__(self, x: npt.ArrayLike, mode: Mode = "secure", batch_size: int = BATCH) -> Array:
        """Real result (B, ..).

        Raises BadShape, BadValue, OutOfRange for an input the plan does not admit.
        """
        values = check_input(self.record.graph.input, x)
        if mode == "float":
            return evaluate_float(self.record.graph, self.weights, values)
        if mode == "fixed":
            program = program_of(self.record, len(values))
            return evaluate_fixed(
                program, integer_weights(program, self.weights), values, choose_backend()
            )
        with self.session(batch_size) as session:
            return session.run(session.share(values)).reveal()

    def session(self, batch_size: int = BATCH, backend: str | None = None) -> LocalSession:
        """Dealer and both servers in this process, ready to share, run and reveal."""
        return LocalSession(self.record, self.weights, batch_size, choose_backend(backend))

    def save(self, folder: str | Path) -> None:
        """Write `plan.json` for every party and `weights.safetensors` for the owner alone."""
        plan_files.save(self.record, self.weights, Path(folder))

    def head(
        self,
        weight: npt.NDArray[np.floating],
        bias: npt.NDArray[np.floating],
        classes: Sequence[str],
        policy: Policy = "label",
        params: Params = HEAD_PARAMS,
    ) -> Plan:
        """A linear classifier on this plan's kept results, see
        `gpumpc.program.head.compile_head`."""
        return Plan(*compile_head(self.record, weight, bias, classes, policy, params))

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """Read both files. Raises MissingFile, CorruptPlan, ExposedSecret."""
        plan = plan_files.load(Path(folder))
        return cls(plan, plan_files.load_weights(Path(folder), plan))


def compile(  # the verb the user knows, as in re.compile
    model: Any,
    example: Any = None,
    *,
    name: str = "model",
    low: float = -1.0,
    high: float = 1.0,
    params: Params | None = None,
    bounds: Bounds = "certified",
    samples: npt.NDArray[np.floating] | None = None,
    guard_bits: int = GUARD_BITS,
    preprocessing: Preprocessing | None = None,
    policy: Policy | None = None,
    classes: Sequence[str] = (),
    weight_fracs: Mapping[str, int] | None = None,
) -> Plan:
    """Compile a network for private evaluation.

    Args:
        model: a torch module, or (Graph, weights) of records and arrays.
        example: a tensor (1, C, H, W) for a torch module.
        low, high: the range every input value is promised to lie in.
        params: ring, fraction bits, cipher, private or public weights.
        policy: of a network that ends in logits, what the user learns: `label`, `top5` or `logits`;
            None: its output.
        classes: names of what an index means; every party reads them.
        weight_fracs: fraction bits of a layer's weights, where they are not f.
        bounds: `certified` by interval arithmetic, or `calibrated` on `samples` (B, H, W, C) with
            `guard_bits` to spare.

    Raises:
        UnsupportedOperator: names the operator, its module and what to do.
        RangeTooWide: a layer's values do not fit its ring.
        BadValue: NaN or infinity in a weight.
    """
    graph, weights = model if _is_graph(model) else _import_torch(model, example, low, high)
    plan, salted = compile_graph(
        name,
        with_policy(graph, policy) if policy else graph,
        weights,
        params or Params(),
        calibration=Calibration(samples, guard_bits) if bounds == "calibrated" else None,
        preprocessing=preprocessing,
        weight_fracs=weight_fracs,
    )
    return Plan(msgspec.structs.replace(plan, classes=tuple(classes)), salted)


def _is_graph(model: Any) -> bool:
    return isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], Graph)


def _import_torch(
    model: Any, example: Any, low: float, high: float
) -> tuple[Graph, dict[str, Array]]:
    try:
        # Only here: the servers, the dealer and the clients run without torch.
        from gpumpc.nn.from_torch import graph_from_torch
    except ImportError as error:
        raise MissingExtra(
            "a torch module cannot be compiled",
            f"torch is not installed ({error})",
            "pip install 'gpumpc[torch]'",
        ) from error
    return graph_from_torch(model, example, low, high)
