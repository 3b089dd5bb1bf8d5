"""A server on NumPy, the other on compiled loops: all messages and shares are the same."""

import pytest

from gpumpc.params import Params
from gpumpc.ring.numba_backend import NumbaBackend
from tests.protocols import agreement
from tests.protocols.cases import CIPHERS, SIZES

MIXED = agreement.mixtures("numba")


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", agreement.STEPS)
def test_steps_agree_on_mixed_backends(name, n):
    agreement.check_step(name, n, MIXED)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("weights", ["private", "public"])
@pytest.mark.parametrize("product", agreement.PRODUCTS)
def test_products_agree_on_mixed_backends(product, weights, cipher):
    agreement.check_product(product, Params(ring_bits=40, weights=weights, cipher=cipher), MIXED)


def test_beaver_products_agree_on_mixed_backends():
    agreement.check_product_of_two_secrets(MIXED)


def test_comparison_agrees_on_mixed_backends():
    agreement.check_comparison(MIXED)


def test_planted_truncation_bug_is_caught(monkeypatch):
    agreement.check_a_mistake_is_caught(monkeypatch, NumbaBackend, MIXED)
