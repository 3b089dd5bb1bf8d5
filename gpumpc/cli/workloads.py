"""What `gpumpc bench` measures: each workload as a thing that can be run, with its dealing before or beside it."""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumpc.cli import models
from gpumpc.cost import Cost
from gpumpc.nn.graph import AnyLayer, Clamp, Concat, Conv2d, Graph, Input, Linear, MaxPool, ReLU
from gpumpc.nn.plan import make_plan
from gpumpc.params import Params
from gpumpc.roles.compiled import CompiledPlan
from gpumpc.roles.local import LocalSession
from gpumpc.roles.operations import binary_program

Array = npt.NDArray[np.float64]
BATCH = {"relu": 1, "relu6": 1, "mul": 1, "matmul": 1024, "conv": 16, "maxpool": 16, "lenet": 32, "vgg": 8, "lite0": 8}
WORKLOADS = tuple(BATCH)
# Side of the square matrices; images, channels and kernel of the convolution and of the pool.
_SIDE = 1024
_IMAGE, _KERNEL = (32, 32, 64), (3, 3, 64, 64)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One workload in one session.

    Attributes:
        n_items: what `items_per_second` counts.
        bounds: how a network's ranges were shown to fit; empty where this file chooses inputs that do.
    """

    session: LocalSession
    cost: Cost
    n_items: int
    bounds: str
    runner: Runner


class Runner(abc.ABC):
    """Runs one workload again and again, each time under fresh masks."""

    @abc.abstractmethod
    def total(self) -> float:
        """Seconds from the first dealt byte, with nothing dealt before, to output shares."""

    @abc.abstractmethod
    def online(self) -> float:
        """Seconds to output shares where the dealer has finished before."""

    @abc.abstractmethod
    def max_error(self) -> float:
        """Of the last result, against float64."""


class _Network(Runner):
    def __init__(self, session: LocalSession, compiled: CompiledPlan, x: Array) -> None:
        self.session, self.compiled, self.x = session, compiled, x
        self.shared = session.share(x)

    def _run(self) -> float:
        return _timed(lambda: setattr(self, "result", self.session.run(self.shared)))

    def total(self) -> float:
        return self._run()

    def online(self) -> float:
        self.session.deal_ahead(1)
        return self._run()

    def max_error(self) -> float:
        result: Any = self.result  # type: ignore[attr-defined]  # set by _run
        return float(np.abs(result.reveal() - self.compiled(self.x, "float")).max())


class _Multiplication(Runner):
    """Two secret vectors, element by element, truncated and lifted."""

    def __init__(self, session: LocalSession, x: Array, y: Array) -> None:
        self.session, self.product = session, x * y
        self.operands = session.share_array(x), session.share_array(y)

    def total(self) -> float:
        return _timed(lambda: setattr(self, "result", self.session.combine("*", *self.operands)))

    def online(self) -> float:
        begun: list[float] = []
        self.result = self.session.combine("*", *self.operands, on_dealt=lambda: begun.append(time.perf_counter()))
        return time.perf_counter() - begun[0]

    def max_error(self) -> float:
        return float(np.abs(self.result.reveal() - self.product).max())


@dataclasses.dataclass(frozen=True)
class Case:
    """One workload with its operands; a plan without an operator, or an operator in the plan's ring."""

    compiled: CompiledPlan
    inputs: tuple[Array, ...]
    operator: str
    n_items: int
    bounds: str

    def exact(self) -> Array:
        """In float64."""
        return self.inputs[0] * self.inputs[1] if self.operator else self.compiled(self.inputs[0], "float")


def case_of(name: str, n: int, batch: int, params: Params) -> Case:
    """The workload. Raises ConfigError for an unknown one."""
    models.one_of(name, *WORKLOADS)
    if name == "mul":
        # As many bits above the product's fraction as below one operand's, the sign and the lift's bit among them.
        high = 2.0 ** ((params.k - 3 * params.f - 2) / 2) if params.k > 3 * params.f + 2 else 0.5
        grey = models.sample_inputs((2, n), -high, high)
        return Case(_compiled("relu", 1, params), (grey[0], grey[1]), "*", n, "")
    compiled = _compiled(name, n, params)
    batch = batch or BATCH[name]
    source = compiled.plan.graph.input
    x = models.sample_inputs((batch, *source.shape), source.low, source.high)
    n_items = batch * (n if name in ("relu", "relu6") else 1)
    bounds = str(compiled.plan.bounds) if name in ("lenet", "vgg", "lite0") else ""
    return Case(compiled, (x,), "", n_items, bounds)


def open_workload(name: str, n: int, batch: int, params: Params, backend: str | None) -> Measured:
    """The workload, ready to run; its session must be closed. Raises ConfigError for an unknown one."""
    case = case_of(name, n, batch, params)
    if case.operator:
        session = case.compiled.session(1, backend)
        runner = _Multiplication(session, *case.inputs)
        return Measured(session, binary_program("*", *runner.operands, params).cost, n, "", runner)
    [x] = case.inputs
    session = case.compiled.session(len(x), backend)
    network = _Network(session, case.compiled, x)
    return Measured(session, session.program.cost, case.n_items, case.bounds, network)


def _compiled(name: str, n: int, params: Params) -> CompiledPlan:
    if name in ("lite0", "lenet", "vgg"):
        return models.compile_named(name, k=params.k, f=params.f)
    if name in ("matmul", "conv"):
        return CompiledPlan(*make_plan(name, *_product(name), params))
    # Inputs over half the range a truncated product may span; a difference of two needs a bit more.
    high = 2.0 ** (params.k - 2 * params.f - (3 if name == "maxpool" else 2))
    layers: dict[str, AnyLayer] = {
        "relu": ReLU("y", ("x",)),
        "relu6": Clamp("y", ("x",), 6.0),
        "maxpool": MaxPool("y", ("x",), (2, 2), (2, 2)),
    }
    shape = _IMAGE if name == "maxpool" else (n,)
    graph = Graph((Input("x", (), shape, -high, high), layers[name]))
    # No output_bits: the result of an activation is lifted to k, as inside a network.
    return CompiledPlan(*make_plan(name, graph, {}, params))


def _product(name: str) -> tuple[Graph, dict[str, Array]]:
    """A product under static weights; that something reads it makes it a truncated one, as inside a network."""
    matmul: tuple[AnyLayer, tuple[int, ...], tuple[int, ...]] = Linear("p", ("x",), _SIDE), (_SIDE,), (_SIDE, _SIDE)
    convolution = Conv2d("p", ("x",), _KERNEL[:2], _KERNEL[3], padding=(1, 1, 1, 1)), _IMAGE, _KERNEL
    layer, shape, weight = matmul if name == "matmul" else convolution
    n_terms = int(np.prod(weight[:-1]))
    weights = {"p.weight": models.sample_inputs(weight) * (4.0 / n_terms), "p.bias": np.zeros(weight[-1])}
    return Graph((Input("x", (), shape, -1.0, 1.0), layer, Concat("y", ("p",)))), weights


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
