"""gpumpc on the same cases: its programs, run by three processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.peers.engines import Measured
from bench.peers.peer_workloads import Array, Layer, Workload
from gpumpc.local.compile import Plan
from gpumpc.local.named_networks import compile_named
from gpumpc.measure import ProcessBenchmark
from gpumpc.nn.graph import Concat, Conv2d, Graph, Input, Linear, MaxPool, ReLU
from gpumpc.params import Params
from gpumpc.program.plan import make_plan

# Above three fractions: what `binary_program` asks for; it leaves 2^15 for a product at f = 16, and
# the inputs make 64.
_ROOM_BITS = 1
MODULE = "bench.peers.our_party"


def model_arrays(work: Workload) -> dict[str, Array]:
    """The arrays of a network's model in `models/`, as torch has them."""
    from gpumpc.models.named import named

    module, _ = named(work.name, 64, lambda: None)  # type: ignore[arg-type, return-value]  # no checkpoint is asked for
    parts = [array.detach().double().numpy() for array in module.state_dict().values()]
    weighted = (i for i, layer in enumerate(work.layers) if layer.weight and layer.has_bias)
    names = [f"{i}.{part}" for i in weighted for part in ("weight", "bias")]
    return dict(zip(names, parts, strict=True))


def channels_last(x: Array) -> Array:
    """(B, C, H, W) -> (B, H, W, C); other arrays as they are."""
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def as_torch(y: Array) -> Array:
    """The inverse of `channels_last`."""
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


def ring_of_product(params: Params) -> Params:
    """A product is lifted back to its operands' ring: that needs room for three fractions."""
    ring_bits = max(params.ring_bits, 3 * params.frac_bits + _ROOM_BITS)
    return Params(ring_bits=ring_bits, frac_bits=params.frac_bits)


def plan_of(work: Workload, arrays: Mapping[str, Array], params: Params) -> Plan:
    """The workload as a plan."""
    if work.is_network:
        return compile_named(work.name, params=params)
    # An elementwise value is one item of many numbers; a product's rows and an image are items of a
    # batch.
    turned = channels_last(np.empty(work.shape, dtype=bool)).shape
    shape = turned if len(turned) == 1 else turned[1:]
    graph, weights = _single(work.layers[0], Input("x", (), shape, -work.high, work.high), arrays)
    return Plan(*make_plan(work.name, graph, weights, params))


def _single(
    layer: Layer, source: Input, arrays: Mapping[str, Array]
) -> tuple[Graph, dict[str, Array]]:
    weight = arrays.get("0.weight")
    if layer.kind == "pool":
        return Graph((source, MaxPool("y", ("x",), (2, 2), (2, 2)))), {}
    if weight is None or layer.kind == "multiply":
        # Of a product of two operands only the ring of the plan is used.
        return Graph((source, ReLU("y", ("x",)))), {}
    if layer.kind == "matmul":
        return _read(source, Linear("p", ("x",), layer.weight[1])), _with_bias(weight)
    edge = (layer.padding,) * 4
    conv = Conv2d("p", ("x",), layer.weight[2:], layer.weight[0], padding=edge)  # type: ignore[arg-type]  # two and four
    return _read(source, conv), _with_bias(weight.transpose(2, 3, 1, 0))


def _read(source: Input, product: Conv2d | Linear) -> Graph:
    """A layer that reads the product: then it is truncated, as the peers' products are."""
    return Graph((source, product, Concat("y", ("p",))))


def _with_bias(weight: Array) -> dict[str, Array]:
    return {"p.weight": np.ascontiguousarray(weight), "p.bias": np.zeros(weight.shape[-1])}


class Ours:
    """A benchmark of one case; after each timed run follows one with corrections dealt before."""

    def __init__(
        self,
        work: Workload,
        arrays: Mapping[str, Array],
        params: Params,
        network: str = "loopback",
        backend: str | None = None,
    ) -> None:
        if work.layers[0].kind == "multiply":
            params = ring_of_product(params)
        compiled = plan_of(work, arrays, params)
        self.bounds, self.params = compiled.record.bounds, params
        x = arrays["x"] if len(work.shape) > 1 else arrays["x"][None]
        operands, operator = [channels_last(x)], ""
        if work.layers[0].kind == "multiply":
            operands, operator = [arrays["x"], arrays["0.weight"]], "*"
        self._shape = work.shape if len(work.shape) == 1 else ()
        self._benchmark = ProcessBenchmark(
            compiled, operands, operator=operator, network=network, backend=backend, module=MODULE
        )

    @property
    def backend(self) -> str:
        """The backend of all three processes."""
        return self._benchmark.backend.name

    def run(self) -> Measured:
        """One run from empty pools, and one after the dealer."""
        total = self._benchmark.run()
        online = self._benchmark.run(dealt_before=True)
        value = total.value.reshape(self._shape) if self._shape else as_torch(total.value)
        first, second = (answer["traffic"] for answer in total.answers)
        return Measured(
            seconds_total=total.seconds,
            seconds_online=online.seconds,
            online_bytes=max(first["server1"]) or self._benchmark.cost.online_bytes,
            offline_bytes=second["dealer"][1] or self._benchmark.cost.dealer_bytes,
            opened_digest=total.opened_digest,
            output=value,
            peak_memory_bytes=total.peak_memory_bytes,
        )

    def rounds(self) -> int:
        """Of one run."""
        return self._benchmark.cost.rounds

    @property
    def payload_bytes(self) -> dict[str, int]:
        """Without any framing: the program's declared bytes, checked at every run."""
        cost = self._benchmark.cost
        return {"online_bytes": cost.online_bytes, "offline_bytes": cost.dealer_bytes}

    def stop(self) -> None:
        """End the processes."""
        self._benchmark.close()

    @property
    def extra(self) -> dict[str, Any]:
        """Columns of a row that this engine alone has."""
        return {"bounds": self.bounds, "payload": self.payload_bytes}
