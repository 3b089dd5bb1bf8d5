"""The compiled loops against the definition, at sizes on both sides of every block and tile."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumpc.ring.numba_backend import NumbaBackend
from tests.ring import parity, parity_products
from tests.ring.parity import CIPHERS, DEFINITION, SIZES, WIDTHS

COMPILED = NumbaBackend()
FILL, PARTIES = [False, True], [0, 1]
ROWS, TERMS, COLUMNS = (1, 3, 5, 6, 7, 8, 49, 97), (1, 2, 65), (1, 2, 3, 8, 9, 16, 17, 33)
# Each check with the values of its arguments, which meet in every combination.
AGAINST_THE_DEFINITION = [
    (parity.check_words, WIDTHS, SIZES, FILL),
    (parity.check_wire, WIDTHS, SIZES, FILL),
    (parity.check_lanes_of_a_message, [0, 1, 4]),
    (parity.check_select, SIZES),
    (parity.check_look_up_chosen, SIZES),
    (parity.check_add_flipped_part, SIZES),
    *[
        (parity.check_tables, [digits], [width], [1, 64, 989, 16_421, 40_000], FILL)
        for digits, width in [(1, 1), (9, 3), (2, 4), (3, 2), (1, 6)]
    ],
    (parity.check_masked, range(1, 65), [n for n in SIZES if n <= 65], ["chacha20"], FILL),
    (parity.check_masked_views,),
    (parity.check_views_and_axes,),
    (parity.check_in_place,),
    (parity.check_the_stream_is_nist_s,),
    (parity_products.check_matmul_of_nothing, [(0, 3, 4), (3, 0, 4), (3, 4, 0)]),
    (parity_products.check_depthwise, WIDTHS, FILL),
    (parity_products.check_a_convolution_of_a_view,),
    (parity_products.check_row_dot, [32, 40, 64]),
    # the largest products over rows longer than any layer's
    (parity_products.check_matmul, [7], [40_000], [9], [32, 48, 64], [True]),
]
# Of both, against formulas in the checks.
AGAINST_FORMULAS = [
    (parity.check_fused_with_the_stream, [1, 8, 13, 27, 32, 40, 64], SIZES, CIPHERS),
    (parity.check_masked, range(1, 65), SIZES, ["aes128ctr"], FILL),
    (parity.check_adding_what_came, WIDTHS, SIZES),
    (parity.check_lanes_of_constants_and_words, SIZES),
    (parity.check_candidates_and_flips, [1, 27, 40, 64], SIZES),
    *[
        (parity.check_lift, [low], [high], PARTIES, [1, 2], [1, 63, 65, 989, 16_421])
        for low, high in [(27, 40), (1, 64), (44, 62)]
    ],
    (parity.check_masked_products, PARTIES, [1, 65, 989, 40_000]),
    (parity_products.check_beaver, [1, 40, 64], [(0, 3), (1, 1), (7, 3), (2, 9, 9, 20)], PARTIES),
    (parity_products.check_sums, [1, 40, 64], [0, 1, 9]),
]


def cases(table):
    return [
        pytest.param(check, arguments, id=f"{check.__name__[6:]}-{'-'.join(map(str, arguments))}")
        for check, *values in table
        for arguments in itertools.product(*values)
    ]


@pytest.mark.parametrize(("check", "arguments"), cases(AGAINST_THE_DEFINITION))
def test_compiled_equals_the_definition(check, arguments):
    check(COMPILED, *arguments)


@pytest.mark.parametrize(("check", "arguments"), cases(AGAINST_FORMULAS))
def test_both_equal_the_formula(check, arguments):
    for backend in (DEFINITION, COMPILED):
        check(backend, *arguments)


@pytest.mark.parametrize("fill", FILL)
@pytest.mark.parametrize("bits", WIDTHS)
def test_matmul_agrees_for_shapes_around_a_tile(bits, fill):
    for m, k, n in itertools.product(ROWS, TERMS, COLUMNS):
        parity_products.check_matmul(COMPILED, m, k, n, bits, fill)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_conv2d_agrees_for_any_shape(data):
    parity_products.check_conv2d_of_any_shape(COMPILED, data)
