"""Plans in the clear and on shares, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gpumpc
from gpumpc import Params, Plan
from gpumpc import errors as e
from gpumpc.deploy.config import write_local
from gpumpc.errors import BadShape, BadValue, ConfigError, MissingFile, OutOfRange, PlanError
from gpumpc.local.simulation import LocalSession
from gpumpc.nn.graph import Graph
from gpumpc.program.plan import Preprocessing
from tests.local.small_plan import LAYERS, PARAMS, ULP, compiled_plan, is_close, numbers
from tests.plans import MODES, evaluate, secure

CHACHA = Params(ring_bits=40, frac_bits=10, cipher="chacha20")
PUBLIC = Params(ring_bits=40, frac_bits=10, weights="public")


@pytest.mark.parametrize("params", [PARAMS, CHACHA, PUBLIC])
def test_float_fixed_and_secure_modes_agree(params: Params, tmp_path: Path) -> None:
    compiled = compiled_plan(params=params)
    x = numbers(3, 4, 4, 1)
    real, fixed, on_shares = (evaluate(compiled, x, mode) for mode in MODES)
    assert np.abs(fixed - real).max() < 64 * ULP
    assert is_close(compiled, x, on_shares)
    compiled.save(tmp_path)
    again = Plan.load(tmp_path)
    assert np.array_equal(again.evaluate(x, fixed_point=True), fixed)
    assert repr(again).startswith("Plan('tiny'")


def test_inputs_outside_the_plan_are_refused(compiled: Plan, session: LocalSession) -> None:
    for mode in MODES:
        for x, error in (
            (np.zeros((1, 4, 4, 2)), BadShape),
            (np.full((1, 4, 4, 1), 2.0), OutOfRange),
            (np.full((1, 4, 4, 1), np.inf), BadValue),
        ):
            with pytest.raises(error):
                evaluate(compiled, x, mode)
    with pytest.raises(OutOfRange):
        session.share_array([1e12])
    with pytest.raises(BadValue):
        session.share_array([np.nan])


def test_too_narrow_rings_are_refused() -> None:
    with pytest.raises(e.RangeTooWide):
        compiled_plan(params=Params(ring_bits=22, frac_bits=10))
    with pytest.raises(PlanError):
        Params(ring_bits=20, frac_bits=10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"policy": "lable"}, "policy 'lable' is not known.*use label, top5 or logits"),
        ({"policy": ""}, "policy '' is not known"),
        ({"bounds": "calibrated"}, "use certified or pass gpumpc.Calibrated"),
        ({"preprocessing": {"size": (4, 4)}}, "missing required field `mean`.*give size"),
    ],
)
def test_compile_refuses_an_option_that_is_not_known(options: Any, text: str) -> None:
    graph = Graph(LAYERS)
    weights = {name: np.zeros(shape) for name, shape in graph.weight_shapes().items()}
    with pytest.raises(PlanError, match=text):
        gpumpc.compile((graph, weights), **options)


def test_compile_refuses_an_argument_that_it_does_not_have() -> None:
    unknown: Any = {"low": -1.0}
    with pytest.raises(TypeError, match="no argument 'low'"):
        gpumpc.compile((Graph(LAYERS), {}), **unknown)


def test_params_and_backend_refuse_a_name_that_is_not_known(compiled: Plan) -> None:
    unknown: Any = "secret"
    with pytest.raises(PlanError, match="weights 'secret' is not known.*use private or public"):
        Params(weights=unknown)
    with pytest.raises(PlanError, match="cipher 'secret' is not known"):
        Params(cipher=unknown)
    with pytest.raises(ConfigError, match="no backend 'secret'.*cupy"):
        compiled.simulate(backend="secret")


def test_head_refuses_a_policy_that_is_not_known(compiled: Plan) -> None:
    unknown: Any = "top1"
    with pytest.raises(PlanError, match="use label, top5 or logits"):
        compiled.head(np.zeros((3, 2)), np.zeros(2), ("a", "b"), unknown)


def test_calibrated_bounds_fit_where_certified_do_not() -> None:
    graph, params = Graph(LAYERS), Params(ring_bits=23, frac_bits=10)
    weights = compiled_plan().weights
    with pytest.raises(e.RangeTooWide, match="gpumpc.Calibrated"):
        gpumpc.compile((graph, weights), params=params)
    x = numbers(8, 4, 4, 1)
    bounds = gpumpc.Calibrated(x, guard_bits=0)
    plan = gpumpc.compile((graph, weights), params=params, bounds=bounds)
    assert (plan.record.bounds, plan.record.guard_bits) == ("calibrated", 0)
    assert is_close(plan, x, secure(plan, x))


def test_torch_module_needs_an_example() -> None:
    with pytest.raises(BadShape, match="without an example input"):
        gpumpc.compile(torch.nn.ReLU())


def test_description_of_a_plan(compiled: Plan) -> None:
    recipe = {"size": (4, 4), "mean": (127.0,), "std": (128.0,)}
    model = Graph(LAYERS), dict(compiled.weights)
    plan = gpumpc.compile(model, name="ours", classes=["a", "b", "c"], preprocessing=recipe)
    assert (plan.record.name, plan.record.classes) == ("ours", ("a", "b", "c"))
    assert plan.record.preprocessing == Preprocessing((4, 4), (127.0,), (128.0,))


def test_paths_that_cannot_be_used_are_explained(compiled: Plan, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    setup = write_local(tmp_path / "local", [tmp_path / "plan"], 1)
    attempts: list[tuple[Callable[[], object], type[e.GpumpcError]]] = [
        (lambda: Plan.load(tmp_path / "nowhere"), MissingFile),
        (lambda: Plan.load(str(file)), MissingFile),
        (lambda: compiled.save(file), ConfigError),
        (lambda: gpumpc.connect(tmp_path / "nowhere.toml", compiled), MissingFile),
        (lambda: gpumpc.connect(tmp_path, compiled), ConfigError),
        (lambda: gpumpc.connect(setup.client, tmp_path / "nowhere"), MissingFile),
        (lambda: gpumpc.connect(str(setup.client), str(file)), MissingFile),
    ]
    for attempt, kind in attempts:
        with pytest.raises(kind) as caught:
            attempt()
        assert caught.value.what and caught.value.why and caught.value.hint


def test_clamp_of_the_input_itself_compiles() -> None:
    compiled = gpumpc.compile(torch.nn.ReLU6(), torch.zeros(1, 4, 3, 3), input_range=(-2, 8))
    x = np.linspace(-2, 8, 36).reshape(1, 3, 3, 4)
    error = np.abs(compiled.evaluate(x, fixed_point=True) - x.clip(0, 6)).max()
    assert error < 2.0**-compiled.record.params.frac_bits
