"""Every step of a protocol with one party, or all, on the emulated device: messages, corrections
and shares are NumPy's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from gpumpc.params import Cipher
from gpumpc.protocols.linear import Convolution, MatMul
from gpumpc.ring.cupy_backend import CupyBackend
from tests import scripted
from tests.emulator.device import ORDERS, EmulatedDevice
from tests.harness import Words, run_step, share
from tests.protocols import test_backends_agree as agree
from tests.protocols.cases import truncate
from tests.scripted import Name

MIXED = [
    ("emulated", "numpy", "numpy"),
    ("numpy", "emulated", "numpy"),
    ("numpy", "numpy", "emulated"),
    ("emulated",) * 3,
]


class ScriptedEmulated(CupyBackend):
    """What the harness asks of a backend: every draw is written down."""

    def __init__(self, names: Mapping[bytes, Name], script: Mapping[Name, Words]) -> None:
        super().__init__(EmulatedDevice(ORDERS[2]))
        self._names = names
        self.drawn: dict[Name, tuple[int, Words]] = {}

    def expand_words(self, cipher: Cipher, key: bytes, shape: Sequence[int], bits: int) -> Any:
        words: Any = super().expand_words(cipher, key, shape, bits)
        self.drawn[self._names[key]] = (bits, words.copy())
        return words

    def expand_lanes(self, cipher: Cipher, key: bytes, planes: int, n: int) -> Any:
        lanes: Any = super().expand_lanes(cipher, key, planes, n)
        self.drawn[self._names[key]] = (0, lanes.copy())
        return lanes


@pytest.fixture(autouse=True)
def with_the_emulated_backend(monkeypatch):
    monkeypatch.setitem(scripted.SCRIPTED, "emulated", ScriptedEmulated)
    monkeypatch.setattr(agree, "MIXED", MIXED)


@pytest.mark.parametrize("n", [1, 19, 300])
@pytest.mark.parametrize("name", agree.STEPS)
def test_steps(name, n):
    agree.test_steps(name, n)


@pytest.mark.parametrize("cipher", agree.CIPHERS)
@pytest.mark.parametrize("weights", ["private", "public"])
@pytest.mark.parametrize(
    ("shape", "weight", "operator", "out"),
    [
        ((20, 50), (50, 20), MatMul(), (20, 20)),
        ((2, 9, 9, 3), (3, 3, 3, 20), Convolution((3, 3), (2, 2), (0, 1, 0, 1), 1), (2, 4, 4, 20)),
        (
            (2, 9, 9, 12),
            (5, 5, 1, 12),
            Convolution((5, 5), (1, 1), (2, 2, 2, 2), 12),
            (2, 9, 9, 12),
        ),
    ],
)
def test_products(shape, weight, operator, out, weights, cipher):
    agree.test_products(shape, weight, operator, out, weights, cipher)


def test_products_of_two_secrets():
    agree.test_products_of_two_secrets()


def test_a_comparison():
    agree.test_a_comparison()


def test_a_kernel_with_a_mistake_is_caught(monkeypatch):
    """Planted: the kernel of party 0's truncation forgets 2^shift - 1; a plain result may still be
    off by one only.
    """
    honest = CupyBackend.truncate
    wrong = lambda self, words, k, shift, party, out=None: honest(self, words, k, shift, 1, out)  # noqa: E731  one line
    monkeypatch.setattr(CupyBackend, "truncate", wrong)
    x = share(np.arange(989), 40, frac=26)
    with pytest.raises(AssertionError, match="a share differs"):
        agree.check_same(lambda backends: run_step(truncate(989, 40, 13), x, backends=backends))
