"""A handle to a value that two servers hold as shares."""

from __future__ import annotations

import dataclasses
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt


class Holder(Protocol):
    """The session that holds a tensor's shares."""

    def reveal(self, x: SharedTensor) -> npt.NDArray[np.float64]:
        """Both shares of a value, added, as reals."""

    def combine(self, operator: str, x: SharedTensor, y: SharedTensor) -> SharedTensor:
        """x (operator) y for + - * @."""


@dataclasses.dataclass(frozen=True, eq=False)
class SharedTensor:
    """A handle to a value that the two servers of a simulation hold as shares.

        with plan.simulate() as local:
            a, b = local.share_array([1.5, -2.0]), local.share_array([4.0, 0.25])
            (a * b + a).reveal()  # [7.5, -2.5]; also -, and @ of matrices

    Only `reveal` gives the value: no conversion, comparison or indexing does (TypeError). Operands
    must be of one session (ForeignShare) and one scale (FracMismatch), with shapes that fit
    (BadShape).

    Attributes:
        shape: with the batch axis first.
        bits, frac, divisor: it is shared modulo 2^bits, and stands for value / (2^frac * divisor).
        owner: the id of the session it belongs to.
    """

    shape: tuple[int, ...]
    bits: int
    frac: int
    divisor: int
    owner: str
    _key: int = dataclasses.field(repr=False)
    _is_index: bool = dataclasses.field(repr=False)
    _session: Holder = dataclasses.field(repr=False)

    def reveal(self) -> npt.NDArray[np.float64]:
        """Add both servers' shares: the value, as reals."""
        return self._session.reveal(self)

    def __add__(self, other: SharedTensor) -> SharedTensor:
        return self._session.combine("+", self, other)

    def __sub__(self, other: SharedTensor) -> SharedTensor:
        return self._session.combine("-", self, other)

    def __mul__(self, other: SharedTensor) -> SharedTensor:
        return self._session.combine("*", self, other)

    def __matmul__(self, other: SharedTensor) -> SharedTensor:
        return self._session.combine("@", self, other)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        what = "a SharedTensor has no value in the clear; reveal() asks both servers for it"
        raise TypeError(what)

    # Nothing reveals by accident, and nothing branches on a secret.
    __array__ = __float__ = __int__ = __bool__ = __iter__ = __len__ = __getitem__ = _refuse
    # Two handles are not compared: whether their values are equal is as secret as they are.
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = object.__hash__
    # NumPy must not take over a binary operation and treat the handle as a scalar.
    __array_ufunc__ = None
