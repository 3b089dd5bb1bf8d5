"""Compile a network, and evaluate it in the clear or on shares within this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc import arguments
from gpumpc.errors import (
    BadShape,
    BadValue,
    MissingExtra,
    OutOfRange,
    PlanError,
    UnknownArgument,
)
from gpumpc.local.simulation import LocalSession
from gpumpc.nn.graph import Argmax, Graph, TopK
from gpumpc.nn.plaintext import check_input, evaluate_float
from gpumpc.offline.secret import file_error
from gpumpc.params import Params, one_of
from gpumpc.program import plan as plan_files
from gpumpc.program.compiler import Calibrated, compile_graph, program_of
from gpumpc.program.head import HEAD_PARAMS, Policy, compile_head, with_policy
from gpumpc.program.integers import evaluate_fixed, integer_weights
from gpumpc.program.plan import PlanRecord, Preprocessing, Weights
from gpumpc.program.precision import compile_within
from gpumpc.ring.choose import choose_backend

if TYPE_CHECKING:  # everything but compiling a torch module runs without torch
    import torch

Array = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.floating]]
MAX_BATCH = 1 << 20


class Description(TypedDict, total=False):
    """Texts and a recipe for people and clients; none of it changes the computation.

    Attributes:
        name: names the model in messages; "model" unless given.
        classes: the names of the classes, in the order of the logits. Every party reads them.
        preprocessing: from pixels to the input; without it only arrays can be shared.
    """

    name: str
    classes: Sequence[str]
    preprocessing: Preprocessing | Mapping[str, object] | None


class Plan:
    """A compiled network with its weights, as the model's owner has it.

        plan = gpumpc.compile(model.eval(), torch.zeros(1, 3, 64, 64), input_range=(0, 1))
        plan.save("plan")  # plan.json for every party, weights.safetensors for the owner alone
        plan.evaluate(x)  # float64; x: (B, 64, 64, 3), channels last, values in [0, 1]
        with plan.simulate() as local:
            y = local.run(local.share(x)).reveal()  # on shares, close to plan.evaluate(x)

    Attributes:
        record: what plan.json holds.
        weights: arrays by name.
    """

    def __init__(self, record: PlanRecord, weights: Weights) -> None:
        self.record, self.weights = record, weights

    def __repr__(self) -> str:
        return f"Plan({self.record.name!r}, {self.record.params})"

    @property
    def error(self) -> float | None:
        """Largest error of an output entry, as a part of the outputs' spread between images, as it
        was measured when the plan was compiled; None: it was not.
        """
        return self.record.error

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """Read what `save` wrote. Raises MissingFile, CorruptPlan, ExposedSecret."""
        folder = arguments.path("folder", folder)
        record = plan_files.load(folder)
        return cls(record, plan_files.load_weights(folder, record))

    def save(self, folder: str | Path) -> None:
        """Write `plan.json` for every party and `weights.safetensors` for the owner alone.

        Raises ConfigError if the system does not take the files.
        """
        try:
            plan_files.save(self.record, self.weights, arguments.path("folder", folder))
        except OSError as error:
            raise file_error(f"the plan cannot be saved in {folder}", error) from error

    def evaluate(self, x: npt.ArrayLike, fixed_point: bool = False) -> Array:
        """The network's result (B, ...) for x (B, H, W, C), in the clear.

        With `fixed_point` it is computed with the integers that the servers compute with, else in
        float64. Under a policy the result is a class number, or five of them; `Client.classify`
        names them.

        Raises BadShape, BadValue, OutOfRange for an input that the plan does not admit.
        """
        values = check_input(self.record.graph.input, x)
        if not fixed_point:
            return evaluate_float(self.record.graph, self.weights, values)
        program = program_of(self.record, len(values))
        weights = integer_weights(program, self.weights)
        return evaluate_fixed(program, weights, values, choose_backend())

    def simulate(self, batch_size: int = 8, backend: str | None = None) -> LocalSession:
        """Start dealer and both servers as threads of this process. Use it in a `with` block.

        It protects nothing, since one process holds both shares: it is for trying out. `share(x)`
        and `share_array(x)` return a `SharedTensor`, `run` evaluates the network on one.

        Args:
            batch_size: images a batch; the last batch is padded.
            backend: "numpy", "numba" or "cupy"; the fastest that is installed unless given.

        Raises BadValue, ConfigError, MissingExtra.
        """
        size = arguments.whole("batch_size", batch_size, most=MAX_BATCH)
        return LocalSession(self.record, self.weights, size, choose_backend(backend))

    def head(
        self,
        weight: npt.NDArray[np.floating],
        bias: npt.NDArray[np.floating],
        classes: Sequence[str],
        policy: Policy = "label",
        params: Params = HEAD_PARAMS,
    ) -> Plan:
        """A linear classifier that takes this plan's features as the servers keep them.

        Args:
            weight, bias: (d, C) and (C,), for features of d entries and C classes.
            classes: C names; every party reads them.
            policy: what a user learns of an image: "label", "top5" or "logits".
            params: logits need a wide ring; give more `ring_bits` where they do not fit.

        Raises PlanError, BadShape, RangeTooWide.
        """
        matrix = arguments.real_array(weight, "the head's weight")
        vector, names = arguments.real_array(bias, "the head's bias"), _class_names(classes)
        _check_params(params)
        return Plan(*compile_head(self.record, matrix, vector, names, policy, params))


def compile(  # the verb that users know from re.compile
    model: torch.nn.Module | tuple[Graph, Arrays],
    example: torch.Tensor | None = None,
    *,
    input_range: tuple[float, float] = (-1.0, 1.0),
    bounds: Literal["certified"] | Calibrated = "certified",
    params: Params | None = None,
    policy: Policy | None = None,
    error: float | None = None,
    **description: Unpack[Description],
) -> Plan:
    """Compile a network into a plan that two servers can evaluate on shares.

        plan = gpumpc.compile(model.eval(), torch.zeros(1, 3, 64, 64), input_range=(0, 1))

    Args:
        model: a torch module in evaluation mode.
        example: a tensor (1, C, H, W), of which only the shape matters. Inputs are then shared as
            (B, H, W, C), channels last.
        input_range: the lowest and the highest value that an input may have.
        bounds: "certified": interval arithmetic shows that no input in range overflows; or
            `Calibrated(samples)`.
        params: ring and fraction bits, and whether the weights are private.
        error: plans fraction bits, layer by layer, for this error of the outputs, as a part of
            their spread between images: 0.01. It is measured on samples where `bounds` has some,
            else on made-up images, and `Plan.error` tells it; of `params`, the cipher and the mode
            of the weights then count alone. None: `params` says the bits, and nothing is measured.
        policy: for a network that ends in logits, what a user learns of an image: "label" (the best
            class), "top5" (the five best, without scores) or "logits". None: the network's output.
        name: names the model in messages.
        classes: the names of the classes, in the order of the logits.
        preprocessing: how an image file becomes an input: a mapping with `size` (height, width),
            and `mean` and `std`, one grey level (0 to 255) a channel: (255 pixel - mean) / std.

    Raises:
        UnsupportedOperator: an operator has no private counterpart; names it and its module.
        RangeTooWide: the values of a layer do not fit their ring.
        BadValue: a weight is NaN or infinite.
        PlanError: an option has a value that is not known, or `error` cannot be reached.
        UnknownArgument: an option is not known.
    """
    if unknown := description.keys() - Description.__annotations__.keys():
        what = f"compile() has no argument '{min(unknown)}'"
        options = "input_range, bounds, params, policy, error, name, classes or preprocessing"
        raise UnknownArgument(what, "its options have other names", f"use {options}")
    classes = _class_names(description.get("classes", ()))
    params = Params() if params is None else _check_params(params)
    name, calibration = _name(description.get("name", "model")), _calibrated(bounds)
    graph, weights = _graph_of(model, example, _range(input_range))
    if policy is not None:
        graph = with_policy(graph, policy)
    _check_classes(graph, classes)
    if error is None:
        record, salted = compile_graph(name, graph, weights, params, calibration=calibration)
    else:
        record, salted = compile_within(error, name, graph, weights, params, calibration)
    recipe = _recipe(description.get("preprocessing"))
    return Plan(msgspec.structs.replace(record, classes=classes, preprocessing=recipe), salted)


def _recipe(given: Preprocessing | Mapping[str, object] | None) -> Preprocessing | None:
    try:
        return None if given is None else msgspec.convert(given, Preprocessing)
    except msgspec.ValidationError as error:
        hint = "give size=(height, width), and mean and std with one grey level a channel"
        raise PlanError("the preprocessing cannot be used", str(error), hint) from error


def _name(name: object) -> str:
    if isinstance(name, str) and name:
        return name
    why, hint = "a model is named by a text", "pass name='model'"
    raise BadValue(f"name={arguments.shown(name)} cannot be used", why, hint)


def _class_names(classes: Sequence[str]) -> tuple[str, ...]:
    names = tuple(arguments.texts("classes", classes))
    if len({*names}) == len(names):
        return names
    why = "an answer could not say which of them is meant"
    raise BadValue("two classes have one name", why, "name each class once")


def _check_classes(graph: Graph, names: Sequence[str]) -> None:
    """Raises BadShape unless there are as many names as logits, or none."""
    last = graph.output
    logits = last.inputs[0] if isinstance(last, (Argmax, TopK)) else last.name
    shape = graph.shapes()[logits]
    if names and shape != (len(names),):
        what, why = f"{len(names)} classes are named", f"the network's logits have shape {shape}"
        raise BadShape(what, why, "name each logit once, in order, or leave `classes` out")


def _check_params(params: object) -> Params:
    if isinstance(params, Params):
        return params
    what, why = f"params={arguments.shown(params)} cannot be used", "it takes ring parameters"
    raise BadValue(what, why, "pass gpumpc.Params(ring_bits=40, frac_bits=13)")


def _range(given: tuple[float, float]) -> tuple[float, float]:
    ends = arguments.real_array(given, "input_range")
    if ends.shape == (2,) and np.isfinite(ends).all() and ends[0] < ends[1]:
        return float(ends[0]), float(ends[1])
    what, why = "input_range is no range of values", "it takes two finite numbers, low < high"
    raise OutOfRange(what, why, "pass for example input_range=(0, 1)")


def _calibrated(bounds: Literal["certified"] | Calibrated) -> Calibrated | None:
    if isinstance(bounds, Calibrated):
        arguments.whole("guard_bits", bounds.guard_bits, 0, 30)
        return bounds
    one_of("bounds", bounds, ("certified",), PlanError, "or pass gpumpc.Calibrated(samples)")
    return None


def _graph_of(
    model: torch.nn.Module | tuple[Graph, Arrays],
    example: torch.Tensor | None,
    input_range: tuple[float, float],
) -> tuple[Graph, Arrays]:
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[0], Graph):
        return model
    if not callable(getattr(model, "eval", None)):
        what = f"{arguments.shown(model)} cannot be compiled"
        why = "it is neither a torch module nor a graph with its weights"
        raise PlanError(what, why, "pass model.eval(), not its file or its state_dict")
    if example is None:
        why = "its layers do not say how large an image is"
        hint = "pass for example torch.zeros(1, 3, 64, 64)"
        raise BadShape("a torch module was given without an example input", why, hint)
    if not callable(getattr(example, "detach", None)):
        what = f"example={arguments.shown(example)} is no tensor"
        hint = "pass for example torch.zeros(1, 3, 64, 64)"
        raise BadShape(what, "a torch module is followed on a tensor", hint)
    try:
        from gpumpc.nn.from_torch import graph_from_torch
    except ImportError as error:
        why = f"torch is not installed ({error})"
        what, hint = "a torch module cannot be compiled", "pip install 'gpumpc[torch]'"
        raise MissingExtra(what, why, hint) from error
    return graph_from_torch(model, example, *input_range)
