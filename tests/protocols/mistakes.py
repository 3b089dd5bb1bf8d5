"""Deliberate mistakes in a protocol: how a test plants one, and that a checker fails on it.

A mistake that no checker noticed would mean that the checkers, not the protocols, are at fault.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gpumpc.errors import GpumpcError
from gpumpc.offline.deal_batch import Dealing
from gpumpc.offline.seeds import SeedTree
from gpumpc.protocols.ranking.argmax import Duel
from gpumpc.ring import selection
from gpumpc.session import Session, Sum

Words = Any  # words and lanes of the NumPy backend are arrays of NumPy
Patch = pytest.MonkeyPatch
Mistake = Callable[[Patch], None]
Checker = Callable[[], None]
Cases = list[tuple[Mistake, Checker]]
Change = Callable[[Words], Words]
# pytest.raises' own failure, where a checker expects an error that does not come, is not an
# AssertionError.
ERRORS = (AssertionError, GpumpcError, pytest.fail.Exception)


def zeroed(values: Words) -> Words:
    return values * np.uint64(0)


def name_of(value: Any) -> str:
    """The id of a case: a function's name, and the party where `partial` fixed it."""
    if isinstance(value, functools.partial):
        return f"{value.func.__name__}_server_{value.args[0]}"
    return str(value.__name__)


def draws(
    name: str, wanted: str, change: Change = zeroed, parties: tuple[int, ...] = (0, 1)
) -> Mistake:
    """The mistake of this name: some parties draw `wanted` as zero, or as `change` makes it."""

    def mistake(patch: Patch) -> None:
        change_draws(patch, wanted, change, parties)

    mistake.__name__ = name
    return mistake


def replaced(name: str, owner: Any, attribute: str, change: Callable[[Any], Any]) -> Mistake:
    """The mistake of this name: an attribute becomes `change(attribute)`."""

    def mistake(patch: Patch) -> None:
        patch.setattr(owner, attribute, change(getattr(owner, attribute)))

    mistake.__name__ = name
    return mistake


def check_caught(
    mistake: Mistake,
    checker: Checker,
    error: type[BaseException] | tuple[type[BaseException], ...] = AssertionError,
) -> None:
    """The checker raises such an error under the mistake."""
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        with pytest.raises(error):
            checker()


def drawn_openly(patch: Patch) -> None:
    """Replace fused steps by their definitions: every draw goes through `words` or `lanes`."""

    def masked(self: Session, words: Words, name: str, bits: int) -> Sum:
        return Sum(words + self.words(name, words.shape, bits), bits)

    def masked_operand(self: Session, words: Words, name: str, bits: int) -> tuple[Words, Sum]:
        drawn = self.words(name, words.shape, bits)
        return drawn, Sum(words - drawn, bits, operand=True)

    def send_masked(self: Session, words: Words, name: str, bits: int) -> None:
        self.send_words(words - self.words(name, words.shape, bits), bits)

    def sum_words(self: Dealing, name: str, shape: Sequence[int], bits: int) -> Any:
        return self.backend.reduce(
            self.words(0, name, shape, bits) + self.words(1, name, shape, bits), bits
        )

    def xor_lanes(self: Dealing, name: str, planes: int, n: int) -> Any:
        return self.lanes(0, name, planes, n) ^ self.lanes(1, name, planes, n)

    def deal_words(self: Dealing, name: str, value: Words, bits: int) -> None:
        self._send_correction(
            self.backend.pack(value - self.words(0, name, value.shape, bits), bits)
        )

    def deal_lanes(self: Dealing, name: str, value: Words, n: int) -> None:
        self._send_correction(self.backend.pack_lanes(value ^ self.lanes(0, name, len(value), n)))

    fused = {
        Session: (masked, masked_operand, send_masked),
        Dealing: (sum_words, xor_lanes, deal_words, deal_lanes),
    }
    for owner, functions in fused.items():
        for function in functions:
            patch.setattr(owner, function.__name__, function)


def change_draws(
    patch: Patch, wanted: str, change: Change, parties: tuple[int, ...] = (0, 1)
) -> None:
    """Change what these parties draw as `wanted` or `x.wanted`, at servers and dealer alike."""

    def is_wanted(name: str, party: int) -> bool:
        return f".{name}".endswith(f".{wanted}") and party in parties

    def at_server(honest: Callable[..., Words]) -> Callable[..., Words]:
        def draw(self: Session, name: str, *shape: Any) -> Words:
            drawn = honest(self, name, *shape)
            return change(drawn) if is_wanted(name, self.party) else drawn

        return draw

    def at_dealer(honest: Callable[..., Words]) -> Callable[..., Words]:
        def draw(self: Dealing, party: int, name: str, *shape: Any) -> Words:
            drawn = honest(self, party, name, *shape)
            return change(drawn) if is_wanted(name, party) else drawn

        return draw

    drawn_openly(patch)
    for kind in ("words", "lanes"):
        patch.setattr(Session, kind, at_server(getattr(Session, kind)))
        patch.setattr(Dealing, kind, at_dealer(getattr(Dealing, kind)))


def first_for_all(values: Words) -> Words:
    return np.full_like(values, values.reshape(-1)[0])


def first_row_for_all(values: Words) -> Words:
    return zeroed(values) + values[:1]


def names_not_remembered(patch: Patch) -> None:
    """A seed tree gives the key of one name twice."""
    honest = SeedTree.key

    def key(self: SeedTree, step: str, name: str) -> bytes:
        self._used.clear()
        return honest(self, step, name)

    patch.setattr(SeedTree, "key", key)


def _less_one_at_server_0(honest: Any) -> Any:
    """d = [a - b > 0]: the right operand wins a tie."""
    return lambda self, s, v, index: honest(self, s, v - np.uint64(s.party == 0), index)


def _first_row_repeated(honest: Any) -> Any:
    return lambda cipher, key, rows, n: honest(cipher, key, 1, n).repeat(rows, axis=0)


tie_goes_right = replaced("tie_goes_right", Duel, "run", _less_one_at_server_0)
one_shuffle = replaced("one_shuffle_for_all", selection, "permutations", _first_row_repeated)


def beta_not_corrected(bits: int) -> Mistake:
    """Server 1 takes the corrections of so many bits for zeros."""

    def change(honest: Any) -> Any:
        return lambda self, n, width: honest(self, n, width) * np.uint64(width != bits)

    return replaced("beta_not_corrected", Session, "correction", change)
