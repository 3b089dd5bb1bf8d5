"""Smooth functions in decimal arithmetic, which rounds alike on every machine.

All parties make the same tables; a library's `exp` in binary would not do.
"""

import dataclasses
import decimal
from collections.abc import Callable
from decimal import Decimal

_CONTEXT = decimal.Context(prec=24)
_SQRT_HALF = _CONTEXT.sqrt(Decimal("0.5"))
_TWO_OVER_SQRT_PI = Decimal("1.128379167095512573896158903")


@dataclasses.dataclass(frozen=True)
class Function:
    """A function that is a constant far below zero, and a constant or its argument far above.

    Attributes:
        value: of a decimal.
        below, above: its limits; of `value - x` above where `is_identity`.
    """

    value: Callable[[Decimal], Decimal]
    below: int
    above: int
    is_identity: bool = False


def _exp(x: Decimal) -> Decimal:
    return _CONTEXT.exp(x)


def sigmoid(x: Decimal) -> Decimal:
    """1 / (1 + e^-x)."""
    return _CONTEXT.divide(Decimal(1), 1 + _exp(-x))


def tanh(x: Decimal) -> Decimal:
    """The hyperbolic tangent."""
    return 2 * sigmoid(2 * x) - 1


def erf(x: Decimal) -> Decimal:
    """2 / sqrt(pi) sum_n 2^n x^(2n+1) e^(-x^2) / (1 3 .. (2n+1)): all terms of one sign."""
    if abs(x) > 6:
        return Decimal(1).copy_sign(x)
    square = _CONTEXT.multiply(x, x)
    term = total = x
    n = 1
    while abs(term) > Decimal("1e-13"):
        term = _CONTEXT.divide(_CONTEXT.multiply(term, 2 * square), Decimal(2 * n + 1))
        total = _CONTEXT.add(total, term)
        n += 1
    return _CONTEXT.multiply(_TWO_OVER_SQRT_PI, _CONTEXT.multiply(_exp(-square), total))


def gelu(x: Decimal) -> Decimal:
    """x (1 + erf(x / sqrt 2)) / 2."""
    return x * (1 + erf(x * _SQRT_HALF)) / 2


def gelu_tanh(x: Decimal) -> Decimal:
    """The approximation of GELU by a hyperbolic tangent."""
    inner = Decimal("0.7978845608028653558798921199") * (x + Decimal("0.044715") * x * x * x)
    return x * (1 + tanh(inner)) / 2


def softplus(x: Decimal) -> Decimal:
    """ln(1 + e^x)."""
    return _CONTEXT.ln(1 + _exp(x))


def elu(x: Decimal) -> Decimal:
    """x, and e^x - 1 below zero."""
    return x if x > 0 else _exp(x) - 1


def exp_of_negative(x: Decimal) -> Decimal:
    """e^x, for x <= 0; beyond zero it stays one, which no reader of this half line sees."""
    return _exp(min(x, Decimal("0.5")))


FUNCTIONS = {
    "sigmoid": Function(sigmoid, 0, 1),
    "tanh": Function(tanh, -1, 1),
    "silu": Function(lambda x: x * sigmoid(x), 0, 0, is_identity=True),
    "gelu": Function(gelu, 0, 0, is_identity=True),
    "gelu_tanh": Function(gelu_tanh, 0, 0, is_identity=True),
    "softplus": Function(softplus, 0, 0, is_identity=True),
    "elu": Function(elu, -1, 0, is_identity=True),
    "exp": Function(exp_of_negative, 0, 0),
}
