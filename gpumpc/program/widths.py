"""How many bits each layer needs: every value only as wide as its bounds ask for.

The bounds of a value do not depend on the rings it is computed in, so they are found once; a width
is then tried by the program's range checks on these bounds, which takes milliseconds. The search is
greedy and goes forward: first comparisons, then products, each to the narrowest ring in which all
later values still fit.
"""

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from gpumpc.cost import Cost
from gpumpc.errors import PlanError
from gpumpc.nn import graph as g
from gpumpc.nn.plaintext import Arrays
from gpumpc.params import Params
from gpumpc.program.bounds.fits import check_fits
from gpumpc.program.bounds.ranges import Interval
from gpumpc.program.lowering import compile_program
from gpumpc.program.program import Program, WeightSpec, Width, Widths
from gpumpc.protocols.step import Step

_COMPARING = (g.ReLU, g.Clamp, g.Function, g.MaxPool, g.Argmax, g.TopK)


class _Search:
    """Tries widths. Most steps of two programs are equal: what a step costs is worked out once."""

    def __init__(
        self, graph: g.Graph, params: Params, bounds: Mapping[str, Interval], output_bits: int
    ) -> None:
        self.graph, self.params, self.output_bits = graph, params, output_bits
        self.bounds = {name: bound.extremes for name, bound in bounds.items()}
        self.costs: dict[Step, Cost] = {}
        self.least_price = math.inf

    def program(self, widths: Widths) -> Program | None:
        """The program with these widths, if every value fits."""
        try:
            program = compile_program(self.graph, self.params, 1, self.output_bits, widths)
            check_fits(program, self.bounds)
        except PlanError:  # RangeTooWide is one
            return None
        return program if program.result.bits == self.output_bits else None

    def price(self, widths: Widths) -> float:
        """Bytes, and of equal ones the rounds; infinite if a value does not fit."""
        if (program := self.program(widths)) is None:
            return math.inf
        cost = sum((self._cost(step) for step in program.steps), Cost())
        return cost.online_bytes + cost.dealer_bytes + 1e-3 * cost.rounds

    def narrowed(self, widths: Widths, layer: str, least: int, guess: int) -> dict[str, Width]:
        """These widths, one layer at the narrowest from `least` on that fits and costs no more.

        Args:
            widths: those of the last call, or of `least_price`.
            guess: tried first, so that a good one needs two trials.
        """

        def at(bits: int) -> dict[str, Width]:
            return {**widths, layer: msgspec.structs.replace(widths[layer], ring_bits=bits)}

        low, high = least, widths[layer].ring_bits
        price = self.least_price
        tries = [guess, guess - 1]
        while low < high:
            middle = tries.pop(0) if tries else (low + high) // 2
            if not low <= middle < high:
                continue
            if (found := self.price(at(middle))) < math.inf:
                high, price = middle, found
            else:
                low = middle + 1
        if price > self.least_price:
            return dict(widths)
        self.least_price = price
        return at(high)

    def _cost(self, step: Step) -> Cost:
        if step not in self.costs:
            self.costs[step] = step.cost
        return self.costs[step]


def plan_widths(
    graph: g.Graph,
    params: Params,
    weights: Arrays,
    bounds: Mapping[str, Interval],
    output_bits: int,
    weight_fracs: Mapping[str, int],
) -> dict[str, Width]:
    """Widths of every product and comparison, for values within these bounds.

    Args:
        weights: real; the size of their integers bounds a ring from below.
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
    if (widest := search.program(widths)) is None:
        hint = "choose a larger k or a smaller f"
        raise PlanError("the network does not fit its widest rings", hint=hint)
    search.least_price = search.price(widths)
    for layer in graph.layers:
        if isinstance(layer, _COMPARING):
            # Most compare what a product has left, and ask for nothing.
            widths = search.narrowed(widths, layer.name, least=1, guess=1)
    for layer in graph.layers:
        if isinstance(layer, (g.Conv2d, g.Linear)):
            least = _least(widest.weights[layer.name], layer.name, weights)
            value = f"{layer.name}/product"
            reached = bounds[value if value in bounds else layer.name].magnitude
            guess = int(reached).bit_length() + 1
            widths = search.narrowed(widths, layer.name, least, guess)
    return widths


def _least(spec: WeightSpec, layer: str, weights: Arrays) -> int:
    """Bits that a layer's weights and the scale of its product need."""
    scales = {"weight": spec.weight_scale, "bias": spec.bias_scale}
    sizes = (
        round(float(np.abs(weights[f"{layer}.{part}"]).max(initial=0)) * scale)
        for part, scale in scales.items()
    )
    return max(max(sizes).bit_length() + 1, round(spec.bias_scale).bit_length())
