"""Protocol steps with parties on the emulated device: messages and shares are NumPy's."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gpumpc.params import Cipher, Params
from gpumpc.protocols.linear import MatMul
from gpumpc.ring.cupy_backend import CupyBackend
from tests import scripted
from tests.emulator.device import ORDERS, EmulatedDevice
from tests.harness import Words
from tests.protocols import agreement
from tests.protocols.cases import CIPHERS
from tests.scripted import Name

MIXED = agreement.mixtures("emulated")
MATRICES = agreement.Product((20, 50), (50, 20), MatMul(), (20, 20))
PRODUCTS = [MATRICES, *agreement.PRODUCTS[1:3]]


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


@pytest.mark.parametrize("n", [1, 19, 300])
@pytest.mark.parametrize("name", agreement.STEPS)
def test_steps_agree_on_emulated_parties(name, n):
    agreement.check_step(name, n, MIXED)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("weights", ["private", "public"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_products_agree_on_emulated_parties(product, weights, cipher):
    agreement.check_product(product, Params(ring_bits=40, weights=weights, cipher=cipher), MIXED)


def test_beaver_products_agree_on_emulated_parties():
    agreement.check_product_of_two_secrets(MIXED)


def test_comparison_agrees_on_emulated_parties():
    agreement.check_comparison(MIXED)


def test_planted_truncation_bug_is_caught(monkeypatch):
    agreement.check_a_mistake_is_caught(monkeypatch, CupyBackend, MIXED)
