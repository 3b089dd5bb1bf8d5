"""The types of a backend's values: words, lanes, and operands of products.

No object is made of these classes: the arrays are NumPy's or CuPy's. A type checker sees the
classes instead, and rejects lanes where words are wanted.
"""

from collections.abc import Iterator
from types import EllipsisType
from typing import Protocol, Self

_Entry = int | slice | EllipsisType | None
_Index = _Entry | tuple[_Entry, ...]


class Shaped(Protocol):
    """Arrays and operands."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""


class _Array(Shaped, Protocol):
    """Indexing, and the operators that act on single bits."""

    @property
    def size(self) -> int: ...

    @property
    def ndim(self) -> int: ...

    @property
    def T(self) -> Self: ...

    def reshape(self, *shape: int | tuple[int, ...]) -> Self: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Self]: ...

    def __getitem__(self, index: _Index) -> Self: ...

    def __and__(self, other: Self) -> Self: ...

    def __xor__(self, other: Self) -> Self: ...

    def __invert__(self) -> Self: ...


class Numbers(_Array, Protocol):
    """Operators that wrap modulo 2^64."""

    def __add__(self, other: Self) -> Self: ...

    def __sub__(self, other: Self) -> Self: ...

    def __mul__(self, other: Self) -> Self: ...

    def __lshift__(self, other: Self | int) -> Self: ...

    def __rshift__(self, other: Self | int) -> Self: ...


class Words(Numbers):
    """Unsigned 64-bit ring elements of any shape."""


class Lanes(_Array):
    """Bits, 64 elements to a word: (planes, n_lanes(n)), or (n_lanes(n),) of a single bit."""


class Operand(Shaped):
    """A matrix in the form that the backend's products read; nothing else looks inside it."""
