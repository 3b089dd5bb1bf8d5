"""Wrong arguments of compile, Params, Plan and the simulation: errors in three parts, at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpumpc
from gpumpc.errors import (
    BadShape,
    BadValue,
    ConfigError,
    GpumpcError,
    MissingFile,
    OutOfRange,
    PlanError,
    UnknownArgument,
)
from tests.processes.cluster import BATCH, GRAPH, images, tiny

PLAN: Any = tiny()
API: Any = gpumpc  # so that wrong types pass the type checker
X = images(2)
NAN, INF = float("nan"), float("inf")


@dataclasses.dataclass
class World:
    """What a call is made on; `folder` holds the files that it may name."""

    folder: Path
    local: Any


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "empty").mkdir()
    (folder / "other.json").write_text("{}")
    with PLAN.simulate(BATCH) as local:
        yield World(folder, local)


def compiled(**options: Any) -> gpumpc.Plan:
    return gpumpc.compile((GRAPH, dict(PLAN.weights)), **options)


Call = Callable[[World], object]
Rows = dict[str, tuple[Call, type[GpumpcError], str]]

COMPILING: Rows = {
    "an unknown option": (lambda w: compiled(low=0), UnknownArgument, "input_range"),
    "too many classes": (
        lambda w: compiled(classes=["a"] * 1 + ["b", "c", "d"]),
        BadShape,
        "4 classes",
    ),
    "compiled classes as one text": (lambda w: compiled(classes="abc"), BadValue, "a list"),
    "compiled classes twice": (lambda w: compiled(classes=["a", "a", "b"]), BadValue, "once"),
    "a name that is none": (lambda w: compiled(name=3), BadValue, "name=3"),
    "a range of one end": (lambda w: compiled(input_range=(0,)), OutOfRange, "low < high"),
    "a range that is empty": (lambda w: compiled(input_range=(1, 0)), OutOfRange, "low < high"),
    "a range without end": (lambda w: compiled(input_range=(0, INF)), OutOfRange, "finite"),
    "a range of texts": (lambda w: compiled(input_range="01"), BadValue, "input_range"),
    "an unknown policy": (lambda w: compiled(policy="best"), PlanError, "top5"),
    "bounds that are an array": (lambda w: compiled(bounds=X), PlanError, "calibrated(samples)"),
    "samples of another shape": (
        lambda w: compiled(bounds=API.Calibrated(X[..., 0])),
        BadShape,
        "channels last",
    ),
    "negative guard bits": (
        lambda w: compiled(bounds=API.Calibrated(X, -1)),
        BadValue,
        "guard_bits=-1",
    ),
    "parameters as a mapping": (lambda w: compiled(params={"k": 40}), BadValue, "gpumpc.params"),
    "preprocessing of no size": (
        lambda w: compiled(preprocessing={"mean": [0]}),
        PlanError,
        "size=(height, width)",
    ),
    "a path as a model": (lambda w: API.compile("model.pt", X), PlanError, "not its file"),
    "a state as a model": (lambda w: API.compile({"w": X}, X), PlanError, "state_dict"),
    "half a graph": (lambda w: API.compile((GRAPH,)), PlanError, "neither a torch module"),
    "an odd ring": (lambda w: API.Params(ring_bits="40"), PlanError, "k = '40'"),
    "a half bit": (lambda w: API.Params(frac_bits=1.5), PlanError, "2f < k"),
    "weights for all": (lambda w: API.Params(weights="Public"), PlanError, "private or public"),
    "load a number": (lambda w: API.Plan.load(3), BadValue, "folder=3"),
    "load a folder without a plan": (
        lambda w: API.Plan.load(w.folder / "empty"),
        MissingFile,
        "plan.save",
    ),
    "save a plan nowhere": (lambda w: PLAN.save(""), BadValue, "folder=''"),
    "save a plan in a file": (lambda w: PLAN.save(w.folder / "other.json"), ConfigError, "saved"),
    "a head of lists of texts": (lambda w: PLAN.head([["a"]], [1], ["x"]), BadValue, "weight"),
    "a head of another shape": (
        lambda w: PLAN.head(np.ones((2, 2)), np.ones(2), ["x", "y"]),
        BadShape,
        "3 entries",
    ),
    "a head with NaN": (
        lambda w: PLAN.head(np.full((3, 2), NAN), np.ones(2), ["x", "y"]),
        BadValue,
        "nan",
    ),
    "evaluate texts": (lambda w: PLAN.evaluate(["x"]), BadValue, "float array"),
}

SIMULATING: Rows = {
    "batches of 0": (lambda w: PLAN.simulate(0), BadValue, "batch_size=0"),
    "negative batches": (lambda w: PLAN.simulate(-8), BadValue, "batch_size=-8"),
    "a half batch": (lambda w: PLAN.simulate(2.5), BadValue, "batch_size=2.5"),
    "a backend as batch": (lambda w: PLAN.simulate("numpy"), BadValue, "batch_size='numpy'"),
    "an unknown backend": (lambda w: PLAN.simulate(2, "tpu"), ConfigError, "numba"),
    "a backend of a number": (lambda w: PLAN.simulate(2, 3), ConfigError, "numba"),
    "run an array": (lambda w: w.local.run(X), BadValue, "local.share"),
    "run another shape": (
        lambda w: w.local.run(w.local.share_array(np.zeros((2, 3)))),
        BadShape,
        "(2, 3)",
    ),
    "share a text here": (lambda w: w.local.share("x"), BadValue, "float array"),
    "share texts here": (lambda w: w.local.share_array(["x"]), BadValue, "float array"),
    "share NaN here": (lambda w: w.local.share_array([NAN]), BadValue, "nan"),
    "share in no bits": (lambda w: w.local.share_array([1.0], bits=0), BadValue, "bits=0"),
    "share at no scale": (lambda w: w.local.share_array([1.0], frac=-1), BadValue, "frac=-1"),
    "deal a negative number": (lambda w: w.local.deal_ahead(-1), BadValue, "n_batches=-1"),
}

ROWS: Rows = {**COMPILING, **SIMULATING}


@pytest.mark.parametrize("name", ROWS)
def test_wrong_argument_is_named_before_work_begins(name: str, world: World) -> None:
    call, kind, word = ROWS[name]
    before = {*world.folder.rglob("*")}, world.local._next_batch
    with pytest.raises(GpumpcError) as caught:
        call(world)
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.what and error.why and error.hint, repr(error)
    assert word.lower() in str(error).lower()
    assert ({*world.folder.rglob("*")}, world.local._next_batch) == before


def test_right_arguments_are_taken(world: World) -> None:
    assert compiled(classes=("a", "b", "c"), policy="label").record.classes == ("a", "b", "c")
    assert world.local.run(world.local.share(X)).shape == (2, 3)
