"""How many bits each layer needs: every value only as wide as its bounds ask for.

The bounds of a value do not depend on the rings it is computed in, so they are found once; a width
is then tried by the program's range checks on these bounds, which takes milliseconds. The search is
greedy and goes forward: first comparisons, then products, each to the narrowest ring in which all
later values still fit.
"""

import dataclasses
from collections.abc import Mapping

import msgspec
import numpy as np

from gpumpc.errors import PlanError
from gpumpc.nn import graph as g
from gpumpc.params import Params
from gpumpc.program.integers import Integers
from gpumpc.program.lowering import compile_program
from gpumpc.program.program import Program, Width, Widths
from gpumpc.program.ranges import Interval, check_fits
from gpumpc.ring.fixed_point import signed

_COMPARING = (g.ReLU, g.Clamp, g.Function, g.MaxPool, g.Argmax, g.TopK)


@dataclasses.dataclass(frozen=True)
class _Search:
    graph: g.Graph
    params: Params
    bounds: Mapping[str, Interval]
    output_bits: int

    def program(self, widths: Widths) -> Program | None:
        """The program with these widths, if every value fits."""
        try:
            program = compile_program(self.graph, self.params, 1, self.output_bits, widths)
            check_fits(program, self.bounds)
        except PlanError:  # RangeTooWide is one
            return None
        return program if program.result.bits == self.output_bits else None

    def narrowed(self, widths: Widths, layer: str, width: Width, least: int) -> dict[str, Width]:
        """These widths, one layer at the narrowest from `least` on that fits and costs no more."""
        low, high = least, width.ring_bits
        while low < high:
            middle = (low + high) // 2
            if self.program({**widths, layer: msgspec.structs.replace(width, ring_bits=middle)}):
                high = middle
            else:
                low = middle + 1
        narrow = {**widths, layer: msgspec.structs.replace(width, ring_bits=high)}
        return narrow if self._price(narrow) <= self._price(widths) else dict(widths)

    def _price(self, widths: Widths) -> float:
        program = self.program(widths)
        if program is None:
            return float("inf")
        cost = program.cost
        return cost.online_bytes + cost.dealer_bytes + 1e-3 * cost.rounds


def plan_widths(
    graph: g.Graph,
    params: Params,
    weights: Integers,
    bounds: Mapping[str, Interval],
    output_bits: int,
    weight_fracs: Mapping[str, int],
) -> dict[str, Width]:
    """Widths of every product and comparison, for values within these bounds.

    Args:
        weights: integers at the scales of `weight_fracs`; their own size bounds a ring from below.
        weight_fracs: fraction bits of a layer's weights; f where none are given.

    Raises PlanError where the widest rings do not fit either.
    """
    search = _Search(graph, params, bounds, output_bits)
    widths: dict[str, Width] = {}
    for layer in graph.layers:
        if isinstance(layer, (g.Conv2d, g.Linear)):
            frac = weight_fracs.get(layer.name, params.frac_bits)
            widths[layer.name] = Width(params.ring_bits, frac)
        elif isinstance(layer, _COMPARING):
            widths[layer.name] = Width(params.ring_bits - params.frac_bits, 0)
    if search.program(widths) is None:
        hint = "choose a larger k or a smaller f"
        raise PlanError("the network does not fit its widest rings", hint=hint)
    for layer in graph.layers:
        if isinstance(layer, _COMPARING):
            widths = search.narrowed(widths, layer.name, widths[layer.name], least=1)
    for layer in graph.layers:
        if isinstance(layer, (g.Conv2d, g.Linear)):
            least = _least(weights, layer.name, params)
            widths = search.narrowed(widths, layer.name, widths[layer.name], least)
    return widths


def _least(weights: Integers, layer: str, params: Params) -> int:
    """Bits that a layer's weights and a scale of 2f need."""
    values = (signed(array, params.ring_bits) for array in weights[layer])
    magnitude = max(int(np.abs(array).max(initial=0)) for array in values)
    return max(magnitude.bit_length() + 1, 2 * params.frac_bits + 1)
