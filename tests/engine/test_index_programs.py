"""An index accepts features that are vectors with two bits to spare, and none that may be cut."""

import re

import numpy as np
import pytest

from gpumpc import messages as m
from gpumpc.engine import index_programs
from gpumpc.errors import InputError, PlanError, RangeTooWide
from gpumpc.nn import graph as g
from gpumpc.params import Params
from gpumpc.program.compiler import compile_graph, program_of
from gpumpc.program.lowering import compile_program
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.programs import Geometry

K, F = 32, 8
PARAMS = Params(ring_bits=K, frac_bits=F)


def linear_ending(weight: float) -> Program:
    """Results reach 16 `weight` (1 + 2^-8), at scale 2^16, in a ring of 32 bits."""
    return program_of(linear_plan(weight), 2)


def linear_plan(weight: float) -> PlanRecord:
    """The plan behind `linear_ending`."""
    graph = g.Graph((g.Input("x", (), (16,), -1, 1), g.Linear("y", ("x",), 3)))
    weights = {"y.weight": np.full((16, 3), weight), "y.bias": np.zeros(3)}
    plan, _ = compile_graph("features", graph, weights, PARAMS)
    return plan


def test_result_that_fits_keeps_its_bits_and_scale():
    program = linear_ending(1.0)
    assert geometry_of(program, "l2") == Geometry(3, "l2", program.result.bits, program.result.frac)
    assert 16 * 2**16 * 33 / 32 < 2 ** (program.result.bits - 2)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_result_without_two_free_bits_is_refused(metric):
    """16 w 2^16 (33/32) stays below 2^30 up to w = 992; above, the result takes all 32 bits."""
    below, above = linear_ending(450.0), linear_ending(1100.0)
    assert geometry_of(below, metric).bits == below.result.bits == 31
    assert above.result.bits == K
    with pytest.raises(PlanError, match="leave two bits free"):
        geometry_of(above, metric)
    with pytest.raises(RangeTooWide):
        linear_ending(2100.0)


LAYERS: dict[str, list[g.AnyLayer]] = {
    "relu": [g.ReLU("r", ("c",)), g.Flatten("y", ("r",))],
    "truncated": [g.AvgPool("p", ("c",), (2, 2), (2, 2)), g.Flatten("y", ("p",))],
    "max-pool": [g.MaxPool("p", ("c",), (2, 2), (2, 2), (0, 0, 0, 0)), g.Flatten("y", ("p",))],
    "clamp": [
        g.Clamp("r", ("c",), 6.0),
        g.AvgPool("p", ("r",), (4, 4), (4, 4)),
        g.Flatten("y", ("p",)),
    ],
    "added": [g.ReLU("r", ("c",)), g.Add("s", ("r", "c")), g.Flatten("y", ("s",))],
}


@pytest.mark.parametrize("name", LAYERS)
def test_result_of_all_ring_bits_is_refused_for_any_last_layer(name):
    """A result with all bits of its ring may have been cut; one with fewer bits was not."""
    convolution = g.Conv2d("c", ("x",), (3, 3), 2, (1, 1), (1, 1, 1, 1), 1)
    graph = g.Graph((g.Input("x", (), (4, 4, 3), -1, 1), convolution, *LAYERS[name]))
    most = compile_program(graph, PARAMS, 1)
    with pytest.raises(PlanError, match="leave two bits free"):
        geometry_of(most, "ip")
    # The compiler never gives more bits than this, so fewer bits are as many as it needs.
    capped = compile_program(graph, PARAMS, 1, most.result.bits)
    with pytest.raises(PlanError, match="leave two bits free"):
        geometry_of(capped, "ip")
    fewer = compile_program(graph, PARAMS, 1, 16)
    assert fewer.result.bits == 16 and geometry_of(fewer, "ip").bits == 16


def test_results_of_two_bits_are_refused():
    graph = g.Graph((g.Input("x", (), (16,), -1, 1), g.Linear("y", ("x",), 3)))
    assert geometry_of(compile_program(graph, PARAMS, 1, 3), "ip").bits == 3
    with pytest.raises(PlanError, match="leave two bits free"):
        geometry_of(compile_program(graph, PARAMS, 1, 2), "ip")


def test_argmax_and_image_results_cannot_be_indexed():
    last = g.Linear("y", ("x",), 3), g.Argmax("a", ("y",))
    scores = g.Graph((g.Input("x", (), (16,), -1, 1), *last))
    image = g.Graph((g.Input("x", (), (4, 4, 3), -1, 1), g.ReLU("y", ("x",))))
    for graph in (scores, image):
        with pytest.raises(PlanError, match="holds vectors"):
            geometry_of(compile_program(graph, PARAMS, 1), "l2")


def query(n_rows: int, k: int) -> m.QueryTask:
    """One query to an index whose rows came in batches of 32 at most."""
    segments = [
        m.Segment(bytes([0] * 32).hex(), 1 + start // 32, list(range(min(32, n_rows - start))))
        for start in range(0, n_rows, 32)
    ]
    return m.QueryTask("l2", 1, k, segments)


@pytest.mark.parametrize("k", [40, 300, 1000])
def test_costly_search_is_refused_with_a_k_that_fits(k):
    program, plan = linear_ending(1.0), linear_plan(1.0)

    def n_bytes(neighbours: int) -> int:
        task = query(1000, neighbours)
        return index_programs.program_of_task(plan, program, task).cost.dealer_bytes

    whole = n_bytes(k)
    index_programs.refuse_costly(plan, program, query(1000, k), whole, whole)
    with pytest.raises(
        InputError, match=f"{k} neighbours among 1000 rows.* s. Cause: one may"
    ) as caught:
        index_programs.refuse_costly(plan, program, query(1000, k), whole, whole - 1)
    [named] = re.findall(r"ask for at most (\d+) neighbours", caught.value.hint)
    fits, beyond = int(named), int(named) + max(1, int(named) // 8)
    assert fits < k and n_bytes(fits) < whole
    assert any(n_bytes(more) >= whole for more in range(fits + 1, beyond + 1))


def test_no_number_of_neighbours_is_named_where_none_fits():
    program, plan = linear_ending(1.0), linear_plan(1.0)
    with pytest.raises(InputError) as caught:
        index_programs.refuse_costly(plan, program, query(1000, 3), 10_000, 10)
    assert caught.value.hint.startswith("raise `task_limit`")
