"""Answers on top of a network, which the user learns, and heads on stored features."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, PlanError
from gpumpc.nn.graph import Argmax, Graph, Input, Linear, TopK
from gpumpc.params import Params, one_of
from gpumpc.program.compiler import compile_graph, program_of
from gpumpc.program.plan import PlanRecord, Weights

# label: the best class alone; top5: the five best, in order, without scores; logits: all scores.
Policy = Literal["label", "top5", "logits"]

HEAD_PARAMS = Params(ring_bits=48, frac_bits=13)


def with_policy(graph: Graph, policy: Policy) -> Graph:
    """A graph that ends in logits, with the layer that the policy asks for.

    Raises PlanError where its output is not a vector.
    """
    one_of("policy", policy, get_args(Policy), PlanError)
    [n_classes, *rest] = graph.shapes()[graph.output.name] or [0]
    if rest or n_classes < 2:
        hint = "compile it up to its last linear layer"
        raise PlanError("the network does not end in a vector of logits", hint=hint)
    if policy == "logits":
        return graph
    last = (graph.output.name,)
    top_5 = TopK("top5", last, min(5, n_classes))
    return Graph((*graph.layers, Argmax("label", last) if policy == "label" else top_5))


def compile_head(
    plan: PlanRecord,
    weight: npt.NDArray[np.floating],
    bias: npt.NDArray[np.floating],
    classes: Sequence[str],
    policy: Policy = "label",
    params: Params = HEAD_PARAMS,
    name: str = "",
) -> tuple[PlanRecord, Weights]:
    """A linear head on the results of `plan`, in the form in which the servers store them.

    Args:
        weight, bias: (d, C) and (C,), for results of d entries.
        classes: C names; every party reads them.
        policy: decides what the user learns.

    Raises:
        PlanError: the plan's results are not vectors.
        BadShape: weight, bias and classes do not fit.
        RangeTooWide: logits may not fit the ring; choose a larger k.
    """
    program = program_of(plan, 1)
    result = program.result
    if len(result.shape) != 2 or program.result_is_index:
        why, hint = "a linear head takes vectors", "compile it up to its features"
        raise PlanError("this plan's results are not vectors", why, hint)
    shapes = (tuple(weight.shape), tuple(bias.shape))
    if shapes != ((result.shape[1], len(classes)), (len(classes),)):
        raise BadShape(
            f"a head of weight {shapes[0]} and bias {shapes[1]} for {len(classes)} classes",
            f"the plan's results have {result.shape[1]} entries",
            f"give ({result.shape[1]}, {len(classes)}) and ({len(classes)},)",
        )
    # The bound of a stored share: it is lifted, so one bit less than its ring.
    bound = (2.0 ** (result.bits - 2) - 1) / result.scale
    form = result.bits, result.frac, result.divisor
    source = Input("features", (), result.shape[1:], -bound, bound, *form)
    graph = with_policy(Graph((source, Linear("logits", ("features",), len(classes)))), policy)
    arrays: Mapping[str, npt.NDArray[np.floating]] = {"logits.weight": weight, "logits.bias": bias}
    head, weights = compile_graph(name or f"{plan.name}-{policy}", graph, arrays, params)
    return msgspec.structs.replace(head, classes=tuple(classes)), weights
