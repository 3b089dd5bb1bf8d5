"""Every layer is only as wide as it must be, and right at the edges of its range."""

import itertools
import re

import msgspec
import numpy as np
import pytest

from gpumpc import Params, Plan, compile
from gpumpc.errors import RangeTooWide
from gpumpc.nn import graph as g
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.bounds.fits import check_fits
from gpumpc.program.bounds.ranges import bounds_of
from gpumpc.program.compiler import compile_graph, program_of
from gpumpc.program.integers import integer_weights
from gpumpc.program.lowering import compile_program
from gpumpc.program.program import Width
from tests.plans import MODES, evaluate, secure

F = 10
GRAPH = g.Graph(
    (
        g.Input("x", (), (6, 6, 2), -1.0, 1.0),
        g.Conv2d("wide", ("x",), (3, 3), 4, padding=(1, 1, 1, 1)),
        g.Clamp("clamp", ("wide",), 6.0),
        g.MaxPool("pool", ("clamp",), (2, 2), (2, 2)),
        g.Conv2d("left", ("pool",), (1, 1), 3),
        g.Conv2d("right", ("pool",), (3, 3), 3, padding=(1, 1, 1, 1)),
        g.Add("sum", ("left", "right")),
        g.ReLU("relu", ("sum",)),
        g.Flatten("flat", ("relu",)),
        g.Linear("fc", ("flat",), 5),
    )
)


def weights(scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: scale * rng.normal(size=shape) for name, shape in GRAPH.weight_shapes().items()}


def compiled(scale: float = 1.0, **options: dict[str, int]) -> Plan:
    params = Params(ring_bits=40, frac_bits=F)
    return Plan(*compile_graph("model", GRAPH, weights(scale), params, **options))  # type: ignore[arg-type]  # weight_fracs


def corners() -> np.ndarray:
    """Images at the ends of the declared range, where bounds are nearly reached, and inside."""
    rng = np.random.default_rng(2)
    ends = rng.choice([-1.0, 1.0], (12, 6, 6, 2))
    flat = np.array([np.full((6, 6, 2), value) for value in (-1.0, 0.0, 1.0)])
    return np.concatenate([ends, flat, rng.uniform(-1, 1, (9, 6, 6, 2))])


def test_no_planned_width_can_be_smaller() -> None:
    plan = compiled().record
    program = program_of(plan, 1)
    bounds = bounds_of(program, integer_weights(program, weights()), -1.0, 1.0)
    check_fits(program, bounds)
    products = [name for name, width in plan.widths.items() if width.weight_frac]
    assert products == ["wide", "left", "right", "fc"]
    for name in products:
        width = plan.widths[name]
        narrow = {
            **plan.widths,
            name: msgspec.structs.replace(width, ring_bits=width.ring_bits - 1),
        }
        less = compile_program(GRAPH, plan.params, 1, plan.output_bits, narrow)
        too_narrow = less.result.bits < (plan.output_bits or 0)
        with pytest.raises(RangeTooWide):
            if not too_narrow:
                check_fits(less, bounds)
            else:
                raise RangeTooWide("the result would be cut", hint="")


def test_planned_widths_cost_less_than_one_width() -> None:
    plan = compiled().record
    planned = program_of(plan, 4).cost
    flat = compile_program(GRAPH, plan.params, 4, plan.output_bits).cost
    assert planned.online_bytes < 0.9 * flat.online_bytes
    assert planned.dealer_bytes < 0.9 * flat.dealer_bytes
    assert planned.rounds <= flat.rounds


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_results_at_the_edges_are_right(scale: float) -> None:
    network = compiled(scale)
    x = corners()
    clear, fixed, on_shares = (evaluate(network, x, mode) for mode in MODES)
    # A wrong ring would be off by a power of two of it, not by some units in the last place.
    tolerance = 2.0**-F * 64 * max(1.0, scale) ** 3
    assert np.abs(on_shares - fixed).max() < tolerance
    assert np.abs(fixed - clear).max() < 8 * tolerance


def test_one_opening_serves_products_of_two_widths() -> None:
    """It is as wide as the widest of them; a narrower one reads its low bits."""
    layers = (
        g.Input("x", (), (6, 6, 2), -1.0, 1.0),
        g.Conv2d("left", ("x",), (1, 1), 3),
        g.Conv2d("right", ("x",), (3, 3), 3),
        g.MaxPool("small", ("left",), (3, 3), (3, 3)),
        g.MaxPool("large", ("right",), (2, 2), (2, 2)),
        g.Concat("both", ("small", "large")),
        g.Flatten("flat", ("both",)),
    )
    graph = g.Graph((*layers, g.ReLU("relu", ("flat",))))
    rng = np.random.default_rng(3)
    arrays = {name: rng.normal(size=shape) for name, shape in graph.weight_shapes().items()}
    arrays["right.weight"] = 16 * arrays["right.weight"]
    network = compile((graph, arrays), params=Params(ring_bits=40, frac_bits=F))
    widths = network.record.widths
    assert widths["left"].ring_bits < widths["right"].ring_bits
    opened = [step for step in program_of(network.record, 1).steps if step.name == "x/open"]
    assert len(opened) == 1 and getattr(opened[0], "bits", 0) == widths["right"].ring_bits
    assert np.abs(secure(network, corners()) - network.evaluate(corners())).max() < 0.2


def test_weights_may_have_fewer_fraction_bits() -> None:
    finer, coarser = compiled(), compiled(weight_fracs=dict.fromkeys(("wide", "left", "right"), 6))
    for name in ("wide", "left", "right"):
        width = coarser.record.widths[name]
        assert width.weight_frac == 6 and width.ring_bits < finer.record.widths[name].ring_bits
    x = corners()
    assert np.abs(secure(coarser, x) - coarser.evaluate(x, fixed_point=True)).max() < 0.1
    # Weights are rounded to 1/64.
    assert np.abs(coarser.evaluate(x, fixed_point=True) - coarser.evaluate(x)).max() < 2.0
    cost, less = program_of(finer.record, 1).cost, program_of(coarser.record, 1).cost
    assert less.online_bytes < cost.online_bytes


def test_pool_after_a_clamp_has_room_for_a_difference() -> None:
    """Ring by ring, at both ends of the clamp."""
    program = program_of(compiled().record, 1)
    steps = {step.name: step for step in program.steps}
    clamp, pool = steps["clamp"], steps["pool"]
    assert getattr(pool, "bits", 0) <= getattr(clamp, "out_bits", 0)
    assert 6 * 2**F < 2 ** (getattr(pool, "bits", 0) - 2)


def test_the_handshake_names_widths() -> None:
    plan = compiled().record
    other = msgspec.structs.replace(plan, widths={**plan.widths, "fc": Width(39, F)})
    ours, theirs = (agreed_fields(p, program_of(p, 1)) for p in (plan, other))
    assert "fc=39/10" in theirs["widths"]
    assert list(ours) == list(theirs)
    assert next(name for name in ours if ours[name] != theirs[name]) == "widths"


def test_products_in_all_small_rings_match_plaintext() -> None:
    """A tiny product in every ring it fits, over all inputs of a coarse grid."""
    first = g.Input("x", (), (2,), -1.0, 1.0), g.Linear("a", ("x",), 2)
    graph = g.Graph((*first, g.ReLU("r", ("a",)), g.Linear("b", ("r",), 1)))
    grid = np.array(list(itertools.product(np.linspace(-1, 1, 9), repeat=2)))
    for size in (0.25, 1.0, 7.75):
        arrays = {"a.weight": np.full((2, 2), size), "a.bias": np.zeros(2)}
        arrays |= {"b.weight": np.full((2, 1), -size), "b.bias": np.ones(1)}
        network = compile((graph, arrays), params=Params(ring_bits=32, frac_bits=6))
        difference = np.abs(secure(network, grid) - network.evaluate(grid))
        assert difference.max() < 0.05 * max(1.0, size**2)


def test_a_refusal_names_the_k_that_is_enough_and_all_layers() -> None:
    """Or says that none is: then calibrated bounds are left."""
    with pytest.raises(RangeTooWide, match=r"these do not fit either.*: ") as refusal:
        compiled(2.0**14)
    [enough] = re.findall(r"k = (\d+) is enough", refusal.value.hint)
    for k, fits in ((int(enough) - 1, False), (int(enough), True)):
        params = Params(ring_bits=k, frac_bits=F)
        if fits:
            compile_graph("model", GRAPH, weights(2.0**14), params)
        else:
            with pytest.raises(RangeTooWide):
                compile_graph("model", GRAPH, weights(2.0**14), params)
    with pytest.raises(RangeTooWide, match="no k up to 62 is enough at f = 10"):
        compiled(2.0**17)
