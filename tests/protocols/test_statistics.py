"""What the servers see says nothing: every opened byte lane uniform for constant secrets, every bit
of a party's whole view independent of every other and of the secret, and the same law for two
different inputs. Seeds are fixed; for the rate of false alarms see `checkers`.
"""

from typing import Any

import numpy as np
import pytest

from gpumpc.protocols.linear import Convolution
from tests.harness import Cell, Outcome, Words, opened_cells, run_step, run_steps, share, unsigned
from tests.protocols import checkers
from tests.protocols.cases import Ints, argmax, clamp, lift, max_pool, pair_max, product_steps, relu

N = 1 << 15
BITS, K = 27, 40
TOP = 6 << 13

STEPS = {
    "relu": (relu(N, BITS, K), BITS - 1),
    "relu-unlifted": (relu(N, BITS, BITS), BITS - 1),
    "clamp": (clamp(N, BITS, K, TOP), BITS - 1),
    "max": (pair_max(N, BITS), BITS - 2),
    "lift": (lift(N, BITS, K), BITS - 2),
    "argmax": (argmax((N, 2), BITS), BITS - 2),
    "pool": (max_pool((2, 17, 17, 256), BITS, (3, 3), (2, 2), (0, 0, 0, 0)), BITS - 2),
}


def constant(kind: str, shape: tuple[int, ...], bits: int) -> Ints:
    """Secrets that show any leak: all zero, all extreme, or the two extremes in turn."""
    top = TOP if bits == BITS - 1 else 0  # the clamp's lower edge
    highest, lowest = (1 << bits) - 1, -(1 << bits) + top
    values = {"zero": [0], "highest": [highest], "lowest": [lowest], "minus one": [-1]}
    values |= {"apart": [highest, lowest]}
    return np.resize(np.array(values[kind], dtype=np.int64), shape)


def run_on(name: str, kind: str, seed: int) -> Outcome:
    step, bits = STEPS[name]
    return run_step(step, share(constant(kind, step.shape, bits), BITS, seed=seed), seed=seed)


@pytest.mark.parametrize("kind", ["zero", "highest", "lowest", "minus one", "apart"])
@pytest.mark.parametrize("name", STEPS)
def test_every_opened_byte_lane_is_uniform(name, kind):
    checkers.check_opened(run_on(name, kind, seed=11))


@pytest.mark.parametrize("name", STEPS)
def test_two_inputs_give_transcripts_of_one_distribution(name):
    first, second = run_on(name, "lowest", seed=12), run_on(name, "highest", seed=13)
    for party in (0, 1):
        checkers.check_same_law(opened_cells(first, party), opened_cells(second, party))


def columns(label: str, words: Words) -> list[Cell]:
    """One element of each row a cell."""
    return [Cell(label, BITS, N, column) for column in words.reshape(N, -1).T]


@pytest.mark.parametrize("name", ["relu", "relu-unlifted", "clamp", "lift", "max", "argmax"])
@pytest.mark.parametrize("party", [0, 1])
def test_view_of_a_server_is_independent_of_the_secret(name, party):
    """Openings, own masks, dealt shares and the input share, against each other and the value."""
    step, bits = STEPS[name]
    rng = np.random.default_rng(14)
    x = rng.integers(-(1 << bits) + TOP, 1 << bits, step.shape)
    pair: Any = share(x, BITS, seed=15)
    got = run_step(step, pair, seed=16)
    inputs, peer = columns("input share", pair[party].words), columns("peer", pair[1 - party].words)
    secret = columns("x", unsigned(x))
    if name in ("max", "argmax"):
        difference = x.reshape(N, 2)[:, 0] - x.reshape(N, 2)[:, 1]
        secret.append(Cell("a - b", BITS, N, unsigned(difference)))
    checkers.check_view(got, party, N, secret + peer)
    checkers.check_independent(inputs + opened_cells(got, party), secret)


@pytest.mark.parametrize("kind", ["zero", "highest"])
def test_a_convolution_opens_uniform_bytes(kind):
    shape = (2, 32, 64, 8)
    w = np.random.default_rng(1).integers(0, 1 << K, (3, 3, 8, 2), dtype=np.uint64)
    weights = {"layer": (w, np.zeros(2, dtype=np.uint64))}
    operator = Convolution((3, 3), (1, 1), (1, 1, 1, 1), 1)
    steps = product_steps(operator, shape, (*shape[:3], 2), K, 26)
    got = run_steps(steps, {"x": share(constant(kind, shape, K - 1), K)}, weights, seed=17)
    checkers.check_opened(got)


def test_shares_are_uniform():
    for kind in ("zero", "highest"):
        for party, part in enumerate(share(constant(kind, (N,), 39), K, seed=18)):
            checkers.check_uniform([Cell(f"share {party}", K, N, part.words)])


def test_each_result_share_alone_is_uniform():
    """What a server keeps afterwards, too: the lifted result of a ReLU of zeros."""
    got = run_on("relu", "zero", seed=19)
    for party in (0, 1):
        checkers.check_uniform(
            [Cell("result", K, N, np.ascontiguousarray(got.shares[party].words))]
        )


def test_a_biased_lane_is_noticed():
    """The power of the tests: one bit in a hundred set too often."""
    rng = np.random.default_rng(20)
    words = rng.integers(0, 1 << K, N, dtype=np.uint64)
    checkers.check_uniform([Cell("fair", K, N, words)])
    words |= np.where(rng.random(N) < 0.1, np.uint64(1 << 39), np.uint64(0))
    with pytest.raises(AssertionError, match="not uniform"):
        checkers.check_uniform([Cell("biased", K, N, words)])
    with pytest.raises(AssertionError, match="dependent"):
        checkers.check_independent([Cell("biased", K, N, words)])
