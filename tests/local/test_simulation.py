"""A network run by dealer and both servers in one process."""

from typing import Any
from unittest import mock

import numpy as np
import pytest

from gpumpc.errors import BadShape
from gpumpc.local.compile import Plan
from gpumpc.local.shared_tensor import SharedTensor
from gpumpc.local.simulation import LocalSession
from gpumpc.nn.graph import Argmax
from gpumpc.shares import Additive
from tests.local.small_plan import ULP, compiled_plan, is_close, numbers
from tests.plans import secure


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_any_batch_size_runs(session: LocalSession, compiled: Plan, n: int) -> None:
    x = numbers(n, 4, 4, 1)
    result = session.run(session.share(x))
    assert isinstance(result, SharedTensor) and result.shape == (n, 3)
    assert is_close(compiled, x, result.reveal())


def test_result_is_usable_as_a_shared_tensor(session: LocalSession, compiled: Plan) -> None:
    x = numbers(2, 4, 4, 1)
    result = session.run(session.share(x))
    assert np.abs((result - result).reveal()).max() == 0
    with pytest.raises(BadShape, match="the plan takes"):
        session.run(result)


def test_argmax_reveals_the_index_only() -> None:
    compiled = compiled_plan(Argmax("top", ("fc",)))
    x = numbers(5, 4, 4, 1)
    logits = compiled_plan().evaluate(x)
    sorted_logits = np.sort(logits, axis=1)
    assert (sorted_logits[:, -1] - sorted_logits[:, -2]).min() > 20 * ULP  # no tie within the error
    assert np.array_equal(secure(compiled, x, 2), logits.argmax(axis=1))
    assert np.array_equal(compiled.evaluate(x, fixed_point=True), logits.argmax(axis=1))
    assert compiled.evaluate(x).shape == (5,)


def test_released_shares_are_rerandomised(session: LocalSession, compiled: Plan) -> None:
    """The dealer knows the masks of a step's output share, but not those added on release."""
    inside: dict[int, Additive] = {}
    run = type(session.program).run

    def recording(program: Any, running: Any, *shares: Additive) -> Additive:
        inside[running.party] = run(program, running, *shares)
        return inside[running.party]

    with mock.patch.object(type(session.program), "run", recording):
        result = session.run(session.share(numbers(*session.program.input.shape, seed=9)))
    bits = session.program.result.bits
    keep = np.uint64((1 << bits) - 1)
    released: list[Any] = [store[result._key].words for store in session._stores]
    added = [(after - inside[party].words) & keep for party, after in enumerate(released)]
    assert not ((added[0] + added[1]) & keep).any()  # the value is the same
    assert len(np.unique(added[0])) == added[0].size  # and no share is what it was
    other = session.run(session.share(numbers(*session.program.input.shape, seed=9)))
    again: Any = session._stores[0][other._key].words
    assert (again != released[0]).all()
