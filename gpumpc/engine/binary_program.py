"""Programs that multiply two shared tensors: open both operands, multiply, truncate, extend."""

from typing import Protocol

from gpumpc.errors import BadShape, FracMismatch
from gpumpc.params import Params
from gpumpc.program.program import Program, Value
from gpumpc.protocols.linear import BeaverProduct, Elementwise, MatMul, Open, Operator
from gpumpc.protocols.step import Step
from gpumpc.protocols.truncation import Lift, Truncate


class SharedOperand(Protocol):
    """The public properties of a shared tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """With the batch axis first."""

    @property
    def bits(self) -> int:
        """The value is shared modulo 2^bits."""

    @property
    def frac(self) -> int:
        """Fraction bits."""

    @property
    def divisor(self) -> int:
        """1 unless it is an average."""


def is_local(operator: str) -> bool:
    """Whether the operator needs no message."""
    return operator in "+-"


def binary_program(operator: str, x: SharedOperand, y: SharedOperand, params: Params) -> Program:
    """x * y or x @ y of two shared tensors: 2 rounds to open, 1 to extend the ring.

    The product of scale 2^(fx + fy) is truncated to 2^fx and extended to the smaller operand's
    bits. The caller must know that its real value stays below 2^(bits - fx - fy - 2).

    Raises BadShape where shapes do not fit, FracMismatch for a divisor or for no room.
    """
    bits, shift = min(x.bits, y.bits), y.frac
    if (x.divisor, y.divisor) != (1, 1) or bits <= x.frac + 2 * shift:
        what = f"a product of scales 2^{x.frac} and 2^{y.frac} does not fit {bits} bits"
        why = "its fraction alone fills the ring, or an operand carries an average's divisor"
        raise FracMismatch(what, why, "share the operands with more bits or a smaller frac")
    kind, out_shape = _operator(operator, x.shape, y.shape)
    low = bits - shift
    steps: tuple[Step, ...] = (
        Open("x/open", ("x",), "x/open", x.shape, bits),
        Open("y/open", ("y",), "y/open", y.shape, bits),
        BeaverProduct("product", ("x/open", "y/open"), "product", x.shape, kind, out_shape, bits),
        Truncate("truncated", ("product",), "truncated", out_shape, bits, shift),
        Lift("result", ("truncated",), "result", out_shape, low, bits),
    )
    inputs = {"x": Value(x.shape, x.bits, x.frac), "y": Value(y.shape, y.bits, y.frac)}
    return Program(steps, inputs, "result", Value(out_shape, bits, x.frac), {}, params)


def _operator(
    operator: str, x: tuple[int, ...], y: tuple[int, ...]
) -> tuple[Operator, tuple[int, ...]]:
    if operator == "*" and x == y:
        return Elementwise(), x
    if operator == "@" and len(x) == len(y) == 2 and x[1] == y[0]:
        return MatMul(), (x[0], y[1])
    what = f"{x} {operator} {y} is not defined for shared tensors"
    why = "'*' wants equal shapes, '@' wants (M, K) and (K, N)"
    raise BadShape(what, why, "bring the operands to such shapes before sharing them")
