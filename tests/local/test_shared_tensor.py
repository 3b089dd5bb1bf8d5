"""Arithmetic on handles, and that nothing but `reveal` gives their value."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import BadShape, ForeignShare, FracMismatch, RevealError
from gpumpc.local.compile import Plan
from gpumpc.local.simulation import LocalSession
from gpumpc.shares import Additive, reconstruct
from tests.local.small_plan import PARAMS, ULP, numbers


def test_add_and_subtract_are_exact(session: LocalSession) -> None:
    x, y = np.round(numbers(3, 5) / ULP) * ULP, np.round(numbers(3, 5, seed=2) / ULP) * ULP
    a, b = session.share_array(x), session.share_array(y)
    assert np.array_equal((a + b).reveal(), x + y) and np.array_equal((a - b).reveal(), x - y)
    assert np.array_equal((a - a).reveal(), np.zeros((3, 5)))


def test_products_are_right_within_rounding(session: LocalSession) -> None:
    x, y = numbers(4, 6), numbers(6, 5, seed=2)
    a, b, c = session.share_array(x), session.share_array(y), session.share_array(x[::-1])
    product = a @ b
    assert product.shape == (4, 5)
    assert (product.frac, product.bits) == (PARAMS.frac_bits, PARAMS.ring_bits)
    # Rounding of the operands, |x|, |y| <= 1, and 1 ulp of the truncation.
    assert np.abs(product.reveal() - x @ y).max() <= (1 + 6 * 1.01) * ULP
    assert np.abs((a * c).reveal() - x * x[::-1]).max() <= 2.1 * ULP
    assert np.abs(((a @ b) + (a @ b)).reveal() - 2 * (x @ y)).max() <= 2 * (1 + 6 * 1.01) * ULP


def test_undefined_products_are_refused(session: LocalSession) -> None:
    a, b = session.share_array(numbers(2, 3)), session.share_array(numbers(2, 3))
    with pytest.raises(BadShape, match="'@' wants"):
        a @ b
    with pytest.raises(BadShape, match="'\\*' wants equal shapes"):
        a * session.share_array(numbers(3))
    wide = session.share_array(numbers(2, 3), bits=20)
    with pytest.raises(FracMismatch, match="does not fit 20 bits"):
        wide * wide


def test_adding_different_scales_is_refused(session: LocalSession) -> None:
    a, b = session.share_array(numbers(2)), session.share_array(numbers(2), frac=3)
    with pytest.raises(FracMismatch):
        a + b


@pytest.mark.parametrize("other", [1.0, 3, np.ones(2), None, "x"])
def test_operators_refuse_public_values(session: LocalSession, other: Any) -> None:
    a = session.share_array(numbers(2))
    for work in (lambda: a + other, lambda: a - other, lambda: a * other, lambda: a @ other):
        with pytest.raises(TypeError, match="share the other operand first"):
            work()
    for reflected in (lambda: other + a, lambda: other * a, lambda: other @ a):
        with pytest.raises(TypeError):
            reflected()


ACCIDENTS: list[Callable[[Any], Any]] = [
    np.asarray, np.array, float, int, bool, len, list, np.sum, np.exp,
    lambda x: x[0], lambda x: [*x], lambda x: not x, lambda x: 1 if x else 0, lambda x: f"{x:.3f}",
    lambda x: np.float64(1) + x, lambda x: np.ones(2) == x, lambda x: x < 1,
    lambda x: x == x, lambda x: x != 0, lambda x: abs(x), lambda x: np.add(x, 1),
]  # fmt: skip


@pytest.mark.parametrize("accident", ACCIDENTS, ids=range(len(ACCIDENTS)))
def test_nothing_reveals_by_accident(session: LocalSession, accident: Callable[[Any], Any]) -> None:
    x = session.share_array(np.array([0.125, 0.75]))
    with pytest.raises(TypeError):
        accident(x)


def test_repr_shows_no_value(session: LocalSession) -> None:
    x = session.share_array(np.array([123.625, -7.5]))
    for text in (repr(x), str(x), f"{x}", f"{x!r}", "%s" % x, repr([x])):  # noqa: UP031  one more way to print
        assert "123.6" not in text and "7.5" not in text
        assert "shape=(2,)" in text and "owner" in text
    assert np.array_equal(x.reveal(), [123.625, -7.5])


def test_shares_of_another_session_are_refused(session: LocalSession, compiled: Plan) -> None:
    with compiled.simulate(batch_size=1) as other:
        foreign = other.share(numbers(1, 4, 4, 1))
        own = session.share_array(numbers(1, 4, 4, 1))
        for work in (session.run, session.reveal, lambda x: own + x):
            with pytest.raises(ForeignShare, match="share the value in this session"):
                work(foreign)


def test_shares_are_freed_with_their_handle(session: LocalSession) -> None:
    gc.collect()
    before = [len(store) for store in session._stores]
    handles = [session.share_array(numbers(2)) for _ in range(5)]
    assert [len(store) for store in session._stores] == [n + 5 for n in before]
    del handles
    gc.collect()
    assert [len(store) for store in session._stores] == before


def test_reconstruct_refuses_unlike_shares(session: LocalSession) -> None:
    words = session.backend.zeros((2,))
    one = Additive(words, 8, 0)
    with pytest.raises(RevealError, match="do not belong together"):
        reconstruct(session.backend, one, Additive(words, 9, 0))
