"""The workloads of `gpumpc bench`, ready to run with the dealer before or during the run."""

from __future__ import annotations

import abc
import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpumpc.cost import Cost
from gpumpc.engine.binary_program import binary_program
from gpumpc.errors import ConfigError
from gpumpc.local import named_networks as models
from gpumpc.local.compile import Plan, compile
from gpumpc.local.shared_tensor import SharedTensor
from gpumpc.local.simulation import LocalSession
from gpumpc.measure.search_workload import (
    NEAREST,
    differences,
    quantised,
    rows_at_rest,
    search_program,
)
from gpumpc.nn.graph import AnyLayer, Clamp, Concat, Conv2d, Graph, Input, Linear, MaxPool, ReLU
from gpumpc.params import Params, one_of
from gpumpc.program.plan import make_plan
from gpumpc.ring.choose import choose_backend

Array = npt.NDArray[np.float64]
BATCH = {
    "relu": 1,
    "relu6": 1,
    "mul": 1,
    "matmul": 1024,
    "conv": 16,
    "maxpool": 16,
    "lenet": 32,
    "vgg": 8,
    "lite0": 8,
    "resnet18": 4,
    "retrieval": 1,
}
WORKLOADS = tuple(BATCH)
NETWORKS = ("lenet", "vgg", "lite0", "resnet18")
# Elements of a vector, rows of an archive.
N, N_ROWS = 1_000_000, 10_000
# Side of the square matrices; images, channels and kernel of the convolution and of the pool.
_SIDE = 1024
_IMAGE, _KERNEL = (32, 32, 64), (3, 3, 64, 64)
# Length of the vectors that are searched.
_DIM = 128


@dataclasses.dataclass(frozen=True)
class Measured:
    """One workload in one session, ready to run."""

    session: LocalSession
    cost: Cost
    runner: Runner


class Runner(abc.ABC):
    """Runs one workload again and again, each time under fresh masks."""

    result: SharedTensor

    @abc.abstractmethod
    def total(self) -> float:
        """Seconds from the first dealt byte, with nothing dealt before, to output shares."""

    @abc.abstractmethod
    def online(self) -> float:
        """Seconds to output shares where the dealer has finished before."""


class _Batches(Runner):
    """The program of the session, on one batch."""

    def __init__(self, session: LocalSession, x: Array) -> None:
        self.session, self.shared = session, session.share(x)

    def total(self) -> float:
        start = time.perf_counter()
        self.result = self.session.run(self.shared)
        return time.perf_counter() - start

    def online(self) -> float:
        self.session.deal_ahead(1)
        return self.total()


class _Multiplication(Runner):
    """Two secret vectors, element by element, truncated and lifted."""

    def __init__(self, session: LocalSession, x: Array, y: Array) -> None:
        self.session = session
        self.operands = session.share_array(x), session.share_array(y)

    def total(self) -> float:
        start = time.perf_counter()
        self.result = self.session.combine("*", *self.operands)
        return time.perf_counter() - start

    def online(self) -> float:
        reserved: list[float] = []
        self.result = self.session.combine(
            "*", *self.operands, on_dealt=lambda: reserved.append(time.perf_counter())
        )
        return time.perf_counter() - reserved[0]


@dataclasses.dataclass(frozen=True)
class Case:
    """One workload with its operands.

    Attributes:
        batch_size: images, rows or queries a batch.
        operator: of a product or a search, see `Spec`; empty for a network.
        n_items: what `items_per_second` counts.
        bounds: how a network's ranges were shown to fit; empty where this file chooses inputs that
            do.
    """

    workload: str
    batch_size: int
    compiled: Plan
    inputs: tuple[Array, ...]
    operator: str
    n_items: int
    bounds: str

    def errors(self, value: Array) -> dict[str, float]:
        """`max_error` against float64; of a search, against one in the clear, `wrong` ranks."""
        if self.operator == NEAREST:
            queries, rows = self.inputs
            error, wrong = differences(self.compiled.record, queries, rows, value)
            return {"max_error": error, "wrong": wrong}
        x = self.inputs[0]
        exact = x * self.inputs[1] if self.operator else self.compiled.evaluate(x)
        return {"max_error": float(np.abs(value - exact).max())}


def case_of(name: str, n: int, batch_size: int, params: Params) -> Case:
    """The workload; n or batch 0 stand for the usual number. Raises ConfigError if unknown."""
    one_of("workload", name, WORKLOADS, ConfigError)
    n, batch_size = n or (N_ROWS if name == "retrieval" else N), batch_size or BATCH[name]
    if name == "mul":
        # As many bits above the product's fraction as below one operand's, sign and lift's bit too.
        n_high = params.ring_bits - 3 * params.frac_bits - 2
        high = 2.0 ** (n_high / 2) if n_high > 0 else 0.5
        grey = models.sample_inputs((2, n), -high, high)
        plan = _compiled("relu", 1, params)
        return Case(name, batch_size, plan, (grey[0], grey[1]), "*", n, "")
    compiled = _compiled(name, n, params)
    if name == "retrieval":
        vectors = quantised(compiled.record, models.sample_inputs((batch_size + n, _DIM)))
        operands = vectors[:batch_size], vectors[batch_size:]
        return Case(name, batch_size, compiled, operands, NEAREST, batch_size, "")
    source = compiled.record.graph.input
    x = models.sample_inputs((batch_size, *source.shape), source.low, source.high)
    n_items = batch_size * (n if name in ("relu", "relu6") else 1)
    bounds = str(compiled.record.bounds) if name in NETWORKS else ""
    return Case(name, batch_size, compiled, (x,), "", n_items, bounds)


def row_of(
    case: Case, cost: Cost, seconds: Sequence[tuple[float, float]], value: Array
) -> dict[str, Any]:
    """The printed row of a workload, whether threads or processes ran it.

    Args:
        seconds: (total, online) of each run.
        value: the last result.
    """
    totals, onlines = zip(*seconds, strict=True)
    params = case.compiled.record.params
    return {
        "workload": case.workload,
        "batch_size": case.batch_size,
        "seconds_total": statistics.median(totals),
        "seconds_online": statistics.median(onlines),
        "online_bytes": cost.online_bytes,
        "offline_bytes": cost.dealer_bytes,
        "rounds": cost.rounds,
        "k": params.ring_bits,
        "f": params.frac_bits,
        "n_runs": len(seconds),
        "seconds_total_fastest": min(totals),
        "seconds_online_fastest": min(onlines),
        "online_bytes_per_image": cost.online_bytes // case.batch_size,
        "offline_bytes_per_image": cost.dealer_bytes // case.batch_size,
        "items_per_second": case.n_items / statistics.median(totals),
        "bounds": case.bounds,
        **case.errors(value),
    }


def open_workload(case: Case, backend: str | None) -> Measured:
    """A workload in this process; its session must be closed."""
    plan, x = case.compiled.record, case.inputs[0]
    if case.operator == "*":
        session = case.compiled.simulate(1, backend)
        product = _Multiplication(session, *case.inputs)
        return Measured(session, binary_program("*", *product.operands, plan.params).cost, product)
    if case.operator == NEAREST:
        rows = case.inputs[1]
        program, at_rest = search_program(plan, len(x), len(rows)), rows_at_rest(plan, rows)
        session = LocalSession(plan, at_rest, len(x), choose_backend(backend), program)
    else:
        session = case.compiled.simulate(len(x), backend)
    return Measured(session, session.program.cost, _Batches(session, x))


def _compiled(name: str, n: int, params: Params) -> Plan:
    if name in NETWORKS:
        return models.compile_named(name, params=params)
    if name in ("matmul", "conv"):
        return Plan(*make_plan(name, *_product(name), params))
    if name == "retrieval":
        # A search only needs the range of its features.
        graph = Graph((Input("x", (), (_DIM,), -1.0, 1.0), Concat("y", ("x",))))
        return compile((graph, {}), name=name, params=params)
    # Half the range of a truncated product; a difference of two inputs needs one bit more.
    high = 2.0 ** (params.ring_bits - 2 * params.frac_bits - (3 if name == "maxpool" else 2))
    layers: dict[str, AnyLayer] = {
        "relu": ReLU("y", ("x",)),
        "relu6": Clamp("y", ("x",), 6.0),
        "maxpool": MaxPool("y", ("x",), (2, 2), (2, 2)),
    }
    shape = _IMAGE if name == "maxpool" else (n,)
    graph = Graph((Input("x", (), shape, -high, high), layers[name]))
    # No output_bits: the result of an activation is lifted to k, as inside a network.
    return Plan(*make_plan(name, graph, {}, params))


def _product(name: str) -> tuple[Graph, dict[str, Array]]:
    """A product under static weights, truncated as inside a network because a layer reads it."""
    layer: AnyLayer = Linear("p", ("x",), _SIDE)
    shape: tuple[int, ...] = (_SIDE,)
    weight: tuple[int, ...] = (_SIDE, _SIDE)
    if name == "conv":
        layer = Conv2d("p", ("x",), _KERNEL[:2], _KERNEL[3], padding=(1, 1, 1, 1))
        shape, weight = _IMAGE, _KERNEL
    scaled = models.sample_inputs(weight) * (4.0 / int(np.prod(weight[:-1])))
    weights = {"p.weight": scaled, "p.bias": np.zeros(weight[-1])}
    return Graph((Input("x", (), shape, -1.0, 1.0), layer, Concat("y", ("p",)))), weights
