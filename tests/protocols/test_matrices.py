"""Products of many pairs of shared matrices: exact modulo 2^k, at the declared cost."""

import numpy as np
import pytest

from gpumpc.cost import Cost
from gpumpc.errors import BitsMismatch
from gpumpc.protocols.matrices import MatrixProducts, OpenMatrices
from gpumpc.protocols.step import Step
from gpumpc.ring.backend import packed_bytes
from tests.harness import run_steps, share
from tests.protocols import checkers


def steps_of(shapes: list[tuple[int, int, int]], bits: int) -> list[Step]:
    (count, rows, _), (_, _, columns) = shapes
    opened: list[Step] = [
        OpenMatrices(f"{name}/open", (name,), f"{name}/open", shape, bits)
        for name, shape in zip("xy", shapes, strict=True)
    ]
    place = "z", ("x/open", "y/open"), "z", shapes[0]
    return [*opened, MatrixProducts(*place, (count, rows, columns), bits, 1.0)]


@pytest.mark.parametrize("bits", [20, 40, 62])
@pytest.mark.parametrize("shapes", [[(1, 1, 1), (1, 1, 1)], [(3, 5, 7), (3, 7, 2)]])
def test_every_pair_is_multiplied(shapes, bits):
    rng = np.random.default_rng(bits)
    x, y = (rng.integers(-64, 64, shape) for shape in shapes)
    pairs = {"x": share(x, bits, frac=3), "y": share(y, bits, frac=4, seed=1)}
    got = run_steps(steps_of(shapes, bits), pairs)
    assert np.array_equal(got.values, x @ y)
    assert (got.shares[0].bits, got.shares[0].frac) == (bits, 7)
    sizes = [packed_bytes(values.size, bits) for values in (x, y)]
    dealt = packed_bytes(got.values.size, bits)
    assert got.cost == Cost.both_ways(2, sum(sizes), dealt)


def test_narrow_operand_is_refused():
    shapes = [(2, 3, 3), (2, 3, 3)]
    ones = np.ones((2, 3, 3), dtype=np.int64)
    pairs = {"x": share(ones, 30), "y": share(ones, 40, seed=1)}
    with pytest.raises(BitsMismatch):
        run_steps(steps_of(shapes, 40), pairs)


def test_openings_are_uniform():
    shapes = [(4, 64, 64), (4, 64, 64)]
    zeros = np.zeros(shapes[0], dtype=np.int64)
    pairs = {"x": share(zeros, 40), "y": share(zeros, 40, seed=1)}
    checkers.check_opened(run_steps(steps_of(shapes, 40), pairs))
