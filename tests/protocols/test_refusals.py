"""What must not be combined, reused or planned, and the error that says so."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from gpumpc import errors
from gpumpc.nn import graph as g
from gpumpc.offline.seeds import SeedTree, session_id, weight_session
from gpumpc.params import Params
from gpumpc.program.bounds.fits import check_fits
from gpumpc.program.bounds.ranges import Interval, bounds_of
from gpumpc.program.integers import Integers
from gpumpc.program.lowering import compile_program
from gpumpc.program.program import Program
from gpumpc.protocols.linear import BeaverProduct, Elementwise, MatMul, Open, PrivateProduct
from gpumpc.protocols.local import Add, Concat
from gpumpc.protocols.step import Clear
from gpumpc.protocols.truncation import LiftBits, PendingLift
from gpumpc.session import OneWay, StaticWeight, Sum, Xor
from gpumpc.shares import Additive, Masked, reconstruct, split
from tests.harness import BACKEND, roots, run_program, run_step, run_steps, share
from tests.protocols.cases import clamp, lift, relu, truncate
from tests.scripted import SESSION_ID

X = np.arange(19)


# bits and scales


def averaged(pair):
    return tuple(dataclasses.replace(part, divisor=49) for part in pair)


ADD = Add("a", ("x", "y"), "z", (19,))
COLUMN = X[:, None]
NARROW = [share(X, 27)]
REFUSED = [
    (lift(19, 28, 40), NARROW, errors.BitsMismatch, "lift it first"),
    (relu(19, 28, 40), NARROW, errors.BitsMismatch, "lift it first"),
    (clamp(19, 28, 40, 96), NARROW, errors.BitsMismatch, "lift it first"),
    (truncate(19, 40, 13), NARROW, errors.BitsMismatch, "lift it first"),
    (Open("o", ("x",), "e", (19,), 40), NARROW, errors.BitsMismatch, None),
    (ADD, [share(X, 40, 13), share(X, 40, 26)], errors.FracMismatch, "truncate or rescale"),
    (ADD, [share(X, 40, 13), averaged(share(X, 40, 13))], errors.FracMismatch, None),
    (
        Concat("c", ("x", "y"), "z", (19, 1)),
        [share(COLUMN, 40, 3), share(COLUMN, 40, 9)],
        errors.FracMismatch,
        None,
    ),
]


@pytest.mark.parametrize(("step", "inputs", "error", "match"), REFUSED)
def test_steps_refuse_narrow_shares_and_other_scales(step, inputs, error, match):
    with pytest.raises(error, match=match):
        run_step(step, *inputs)


def test_40_bit_share_is_refused_where_64_bits_are_needed():
    message = "a share modulo 2\\^40 was used where one modulo 2\\^64 is needed"
    with pytest.raises(errors.BitsMismatch, match=message):
        share(X, 40)[0].at_bits(BACKEND, 64)


def test_sum_of_40_and_64_bit_shares_has_40_bits():
    """The sum is exact in the smaller ring, and claims no more."""
    negative: Any = (-1 - X).view(np.uint64)
    wide = [Additive(words, 64) for words in split(BACKEND, "aes128ctr", bytes(32), negative, 62)]
    for first, second in zip(share(X, 40), wide, strict=True):
        total = first.plus(BACKEND, second)
        assert total.bits == 40 and not np.asarray(total.words >> 40).any()
        with pytest.raises(errors.BitsMismatch):
            total.at_bits(BACKEND, 64)


def test_shares_of_two_owners_are_not_added():
    mine, yours = (dataclasses.replace(share(X, 40)[0], owner=owner) for owner in ("alice", "bob"))
    with pytest.raises(errors.ForeignShare, match="use one session"):
        mine.plus(BACKEND, yours)


@pytest.mark.parametrize("field", [{"bits": 27}, {"frac": 1}, {"divisor": 9}, {"owner": "bob"}])
def test_reconstruct_refuses_unlike_shares(field):
    first, second = share(X, 40)
    with pytest.raises(errors.RevealError, match="do not belong together"):
        reconstruct(BACKEND, first, dataclasses.replace(second, **field))


def test_split_shares_reconstruct_the_words():
    words: Any = np.arange(989, dtype=np.uint64)
    for bits in (1, 40, 64):
        first: Any
        second: Any
        first, second = split(BACKEND, "chacha20", bytes(32), words, bits)
        both = reconstruct(BACKEND, Additive(first, bits), Additive(second, bits))
        assert np.array_equal(BACKEND.download(both), BACKEND.reduce(words, bits))
        assert not np.array_equal(first, words) and not np.array_equal(second, words)


def test_input_of_a_wrong_shape_is_refused():
    program = compile_program(
        g.Graph((g.Input("x", (), (19,), -1, 1), g.ReLU("y", ("x",)))), Params(), 1
    )
    with pytest.raises(errors.BadShape, match="the program wants"):
        run_program(program, [share(X, 40, frac=13)])


def test_input_at_a_wrong_scale_is_refused():
    """The clamp's constant is one at the plan's scale, and nothing later would notice."""
    program = compile_program(
        g.Graph((g.Input("x", (), (19,), -1, 1), g.Clamp("y", ("x",), 6.0))), Params(), 1
    )
    with pytest.raises(errors.FracMismatch, match="encode the input for this plan"):
        run_program(program, [share(X[None], 40, frac=5)])


def test_operand_opened_in_too_small_a_ring_is_refused():
    steps = [
        Open("o", ("x",), "e", (19,), 30),
        Open("p", ("y",), "f", (19,), 40),
        BeaverProduct("b", ("e", "f"), "z", (19,), Elementwise(), (19,), 40),
    ]
    with pytest.raises(errors.BitsMismatch, match="opened modulo 2\\^30"):
        run_steps(steps, {"x": share(X, 40), "y": share(X, 40)})


def test_product_keeps_the_owner_of_its_operand():
    """A product is added to its own operand, but not to a share of another session."""
    shape, w = (1, 19), {"w": (np.eye(19, dtype=np.uint64), np.zeros(19, dtype=np.uint64))}
    steps = [
        Open("o", ("x",), "e", shape, 40),
        PrivateProduct("p", ("e",), "z", shape, "w", MatMul(), shape, 40, 0),
        Add("a", ("z", "y"), "s", shape),
    ]
    first, second = share(X[None], 40)
    mine = (dataclasses.replace(first, owner="alice"), dataclasses.replace(second, owner="alice"))
    assert np.array_equal(run_steps(steps, {"x": mine, "y": mine}, w).values, 2 * X[None])
    with pytest.raises(errors.ForeignShare):
        run_steps(steps, {"x": mine, "y": share(X[None], 40)}, w)
    beaver = [
        steps[0],
        Open("p", ("y",), "f", shape, 40),
        BeaverProduct("b", ("e", "f"), "z", shape, Elementwise(), shape, 40),
    ]
    with pytest.raises(errors.ForeignShare):
        run_steps(beaver, {"x": mine, "y": share(X[None], 40)})


# masks


def test_a_mask_is_not_given_twice():
    tree = SeedTree(roots(0)[0], SESSION_ID, 1)
    tree.key("step", "r")
    with pytest.raises(errors.MaskReused, match="hides one value, ever"):
        tree.key("step", "r")


def test_two_steps_of_one_name_are_refused_by_the_dealer():
    steps = [Open("o", ("x",), "e", (19,), 40), Open("o", ("y",), "f", (19,), 40)]
    with pytest.raises(errors.MaskReused):
        run_steps(steps, {"x": share(X, 40), "y": share(X, 40)})


def test_two_steps_of_one_name_are_refused_by_the_servers(monkeypatch):
    """Also if the dealer did not look."""
    from gpumpc.offline import deal_batch as dealer

    monkeypatch.setattr(
        dealer.Dealing, "sum_words", lambda self, name, shape, bits: BACKEND.zeros(shape)
    )
    steps = [Open("o", ("x",), "e", (19,), 40), Open("o", ("y",), "f", (19,), 40)]
    with pytest.raises(errors.MaskReused):
        run_steps(steps, {"x": share(X, 40), "y": share(X, 40)})


def test_every_field_changes_every_key():
    contexts = itertools.product(roots(0), (SESSION_ID, bytes(16)), (0, 1, 256))
    trees = [SeedTree(*context) for context in contexts]
    names = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "b\x01")]
    names += [("b", "a"), ("a/b", ""), ("a", "/b")]
    keys = [tree.key(*name) for tree in trees for name in names]
    assert len(set(keys)) == len(keys) and {len(key) for key in keys} == {32}


def test_sessions_are_bound_to_program_and_ledgers_and_weights():
    first, second = b"0" * 16, b"1" * 16
    parts = [(b"p" * 32, first, second), (b"q" * 32, first, second), (b"p" * 32, second, first)]
    ids = [session_id(*part) for part in parts]
    sharings = [("v1", "pair"), ("v2", "pair"), ("v1", "pair2"), ("v", "1pair")]
    ids += [weight_session(*sharing) for sharing in sharings]
    assert len(set(ids)) == len(ids) and {len(value) for value in ids} == {16}


# secrets do not print


def test_repr_shows_no_secret():
    secret: Any = np.array([123456789], dtype=np.uint64)
    shares = [Additive(secret, 40), Masked(secret, secret, 40, 13)]
    shares += [StaticWeight(secret, secret, secret), SeedTree(bytes(range(32)), SESSION_ID, 1)]
    assert all("123456789" not in repr(item) and "<secret>" in repr(item) for item in shares)
    pending = PendingLift(LiftBits(1, 27, 40), secret, secret, secret, secret)
    items = [Sum(secret, 40), Xor(secret, 1), OneWay(secret, 1), pending]
    items += [Clear(BACKEND, {"w": (secret, secret)})]
    assert all("123456789" not in repr(item) for item in items)


# ranges


def check_ranges(program: Program, weights: Integers, low: float, high: float) -> Interval:
    """Bounds of the result. Raises RangeTooWide where a value does not fit."""
    bounds = bounds_of(program, weights, low, high)
    check_fits(program, bounds)
    return bounds[program.output]


def planned(layers, low, high, params=None):
    params = params or Params()
    program = compile_program(g.Graph((g.Input("x", (), (4, 4, 1), low, high), *layers)), params, 1)
    return check_ranges(program, {}, low, high)


# The planner's own sums are in float64, and it moves its bounds outward by more than their
# rounding.
SLACK = 16 * 2.0**-13
POOL = g.MaxPool("y", ("x",), (2, 2), (2, 2))
K = 27  # bits after truncation, with 13 of them fraction
UNIT, CLAMP, RELU = 2.0**-13, g.Clamp("y", ("x",), 6.0), g.ReLU("y", ("x",))
FLAT, SUM = g.Flatten("v", ("x",)), g.Add("y", ("x", "x"))
AVERAGE = g.AvgPool("y", ("x",), (4, 4), (1, 1))
RELU_EDGE, POOL_EDGE, EDGE = 2.0 ** (K - 1 - 13), 2.0 ** (K - 2 - 13), 2.0 ** (40 - 2 - 13)
HINT = "choose a larger k or a smaller f"


def up_to(edge):
    return SLACK - edge, edge - SLACK


# Layers, a range that they take, a wider one that they refuse, and the message.
RANGES = [
    ([POOL], up_to(POOL_EDGE), (-POOL_EDGE, POOL_EDGE), "layer 'y' may reach 2\\^25"),
    ([POOL], up_to(POOL_EDGE), (-POOL_EDGE, POOL_EDGE), HINT),
    ([POOL], up_to(POOL_EDGE), (-POOL_EDGE - UNIT, 0.0), HINT),
    ([RELU], up_to(RELU_EDGE), (-RELU_EDGE, RELU_EDGE), HINT),
    ([RELU], up_to(RELU_EDGE), (-RELU_EDGE - UNIT, 0.0), HINT),
    # A clamp needs room for its constant below.
    ([CLAMP], (6 + SLACK - RELU_EDGE, RELU_EDGE - SLACK), (6 - UNIT - RELU_EDGE, 0.0), None),
    # These need that of a difference.
    ([FLAT, g.Argmax("y", ("v",))], up_to(EDGE), (-EDGE, EDGE), None),
    ([FLAT, g.TopK("y", ("v",), 3)], up_to(EDGE), (-EDGE, EDGE), None),
    # A sum in the last layer must fit.
    ([SUM], up_to(EDGE / 8), (-EDGE, EDGE), "layer 'y'"),
    ([AVERAGE], up_to(EDGE / 8), (-EDGE, EDGE), "layer 'y'"),
]


@pytest.mark.parametrize(("layers", "fits", "too_wide", "match"), RANGES)
def test_ranges_are_refused_just_beyond_their_edges(layers, fits, too_wide, match):
    planned(layers, *fits)
    with pytest.raises(errors.RangeTooWide, match=match):
        planned(layers, *too_wide)


def test_top_k_keys_that_do_not_fit_are_refused():
    params = Params(ring_bits=60, frac_bits=13)
    with pytest.raises(errors.PlanError, match="keys of 60 . 4 bits.*at most 58"):
        planned([FLAT, g.TopK("y", ("v",), 3)], -1.0, 1.0, params)


def test_a_product_that_may_outgrow_k_is_refused():
    graph = g.Graph((g.Input("x", (), (4,), -1.0, 1.0), g.Linear("fc", ("x",), 2)))
    program = compile_program(graph, Params(ring_bits=40, frac_bits=13), 1)
    for units, fits in ((2**26 - 16, True), (2**26, False)):
        weights = {
            "fc": (np.full((4, 2), units // 4, dtype=np.uint64), np.zeros(2, dtype=np.uint64))
        }
        weights["fc"][0][0] += np.uint64(units % 4)
        if fits:
            assert check_ranges(program, weights, -1.0, 1.0).magnitude < 2.0**39
        else:
            with pytest.raises(errors.RangeTooWide, match="layer 'fc'"):
                check_ranges(program, weights, -1.0, 1.0)


def test_values_of_different_pixels_do_not_cancel():
    """1x1 convolutions of opposite sign but different strides: their sum is not zero."""
    layers: list[g.AnyLayer] = [
        g.Conv2d("a", ("x",), (1, 1), 1, (2, 2)),
        g.Conv2d("b", ("x",), (1, 1), 1, (3, 3)),
        g.Add("s", ("a", "b")),
        g.ReLU("y", ("s",)),
    ]
    program = compile_program(
        g.Graph((g.Input("x", (), (4, 4, 1), -1.0, 1.0), *layers)), Params(), 1
    )
    one, minus_one = (
        np.array([[[[v]]]]).astype(np.uint64) for v in (1 << 13, (1 << 40) - (1 << 13))
    )
    zero = np.zeros(1, dtype=np.uint64)
    bounds = check_ranges(program, {"a": (one, zero), "b": (minus_one, zero)}, -1.0, 1.0)
    assert bounds.high[0] >= 2 << 13


def test_a_clamp_outside_its_ring_is_refused():
    for high in (0.0, -1.0, 2.0 ** (K - 2 - 13)):
        with pytest.raises(errors.PlanError, match="leave room above it"):
            planned([g.Clamp("y", ("x",), high)], -1.0, 1.0)


@pytest.mark.parametrize(("k", "f"), [(40, 20), (63, 13), (40, 0), (8, 4)])
def test_invalid_ring_parameters_are_refused(k, f):
    with pytest.raises(errors.PlanError, match="do not make a fixed-point ring"):
        Params(ring_bits=k, frac_bits=f)


def test_elementwise_applies_to_any_shape():
    words: Any = X.astype(np.uint64)
    assert np.asarray(Elementwise().apply(BACKEND, words, words, 40)).tolist() == (X * X).tolist()
