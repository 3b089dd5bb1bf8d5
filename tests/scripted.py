"""Backends, dealer and sessions that write down all they learn, with draws a test replaces."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpumpc.offline import deal_batch as dealer
from gpumpc.offline.seeds import SeedTree
from gpumpc.params import Cipher
from gpumpc.ring import selection
from gpumpc.ring.numba_backend import NumbaBackend
from gpumpc.ring.numpy_backend import NumpyBackend
from gpumpc.session import OneWay, Session, Sum

Words = Any  # words and lanes of the NumPy backend are arrays of NumPy
Name = tuple[int, str, str]  # party, step, name
SESSION_ID = b"a test's session"


class NamedTree(SeedTree):
    """A seed tree that says which name each key belongs to."""

    def __init__(
        self, root: bytes, batch_index: int, party: int, session_id: bytes = SESSION_ID
    ) -> None:
        super().__init__(root, session_id, batch_index)
        self._party = party
        self.names: dict[bytes, Name] = {}

    def key(self, step: str, name: str) -> bytes:
        key = super().key(step, name)
        self.names[key] = (self._party, step, name)
        return key


class Scripted(NumpyBackend):
    """A backend that replaces some draws and writes down all, with their bits (0: lanes)."""

    def __init__(self, names: Mapping[bytes, Name], script: Mapping[Name, Words]) -> None:
        self._names, self._script = names, script
        self.drawn: dict[Name, tuple[int, Words]] = {}

    def expand_words(self, cipher: Cipher, key: bytes, shape: Sequence[int], bits: int) -> Words:
        name = self._names[key]
        if name in self._script:
            words = self.reduce(self._script[name].reshape(shape), bits)
        else:
            words = super().expand_words(cipher, key, shape, bits)
        self.drawn[name] = (bits, words.copy())  # what is added to a draw may be added in place
        return words

    def expand_lanes(self, cipher: Cipher, key: bytes, planes: int, n: int) -> Words:
        name = self._names[key]
        if name in self._script:
            lanes = self._script[name].reshape(planes, -1).copy()
        else:
            lanes = super().expand_lanes(cipher, key, planes, n)
        self.drawn[name] = (0, lanes.copy())
        return lanes


class ScriptedNumba(Scripted, NumbaBackend):
    """The same over the compiled loops."""


SCRIPTED: dict[str, type[Scripted]] = {"numpy": Scripted, "numba": ScriptedNumba}
NUMPY = ("numpy", "numpy", "numpy")


class ScriptedDealing(dealer.Dealing):
    """The dealer, with some permutations replaced."""

    script: Mapping[Name, Any]

    def permutations(self, party: int, name: str, rows: int, n: int) -> selection.Index:
        honest = super().permutations(party, name, rows, n)
        scripted: selection.Index = self.script.get((party, self._step, name), honest)
        return scripted


@dataclasses.dataclass(frozen=True)
class Opening:
    """One opened item: `bits` valid bits of `values`, or 0 for lanes."""

    step: str
    round: int
    bits: int
    n: int
    values: Words


class RecordingSession(Session):
    """A session that writes down what it learns from each opening, and from the dealer."""

    def __init__(self, script: Mapping[Name, Any], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._script = script
        self.openings: list[Opening] = []
        self.dealt: dict[Name, tuple[int, Words]] = {}

    @property
    def known(self) -> dict[Name, tuple[int, Words]]:
        """What this server drew, and what server 1 was dealt."""
        scripted: Any = self.backend
        drawn: dict[Name, tuple[int, Words]] = scripted.drawn
        return drawn | (self.dealt if self.party else {})

    def dealt_words(self, name: str, shape: Sequence[int], bits: int) -> Words:
        words: Words = super().dealt_words(name, shape, bits)
        self.dealt[self.party, self._step, name] = (bits, words)
        return words

    def plus_dealt(self, words: Words, name: str, bits: int) -> Any:
        """Not in one pass, so that what was dealt is seen."""
        return self.backend.reduce(words + self.dealt_words(name, words.shape, bits), bits)

    def dealt_lanes(self, name: str, planes: int, n: int) -> Words:
        lanes: Words = super().dealt_lanes(name, planes, n)
        self.dealt[self.party, self._step, name] = (0, lanes)
        return lanes

    def permutations(self, name: str, rows: int, n: int) -> selection.Index:
        honest = super().permutations(name, rows, n)
        scripted: selection.Index = self._script.get((self.party, self._step, name), honest)
        return scripted

    def correction(self, shape: Sequence[int], bits: int) -> Words:
        words: Words = super().correction(shape, bits)
        number = sum(
            name.startswith("correction") for _, step, name in self.dealt if step == self._step
        )
        self.dealt[self.party, self._step, f"correction{number}"] = (bits, words)
        return words

    def receive_words(self, shape: Sequence[int], bits: int) -> Words:
        words: Words = super().receive_words(shape, bits)
        rounds = self.channel.measured().rounds
        self.openings.append(
            Opening(f"{self._step} sent", rounds, bits, words.size, np.array(words))
        )
        return words

    def open_many(self, *items: Any) -> list[Any]:
        values = super().open_many(*items)
        rounds = self.channel.measured().rounds
        for item, value in zip(items, values, strict=True):
            bits, n = (item.bits, item.words.size) if isinstance(item, Sum) else (0, item.n)
            label = f"{self._step} one way" if isinstance(item, OneWay) else self._step
            self.openings.append(
                Opening(label, rounds, bits, n, np.array(self.backend.download(value)))
            )
        return values
