"""Planted bugs: each a small change of a kernel's source that a named test must catch, in some
thread order or by the race check. The same test passes on the source as it stands, which the other
files show.

A change that no test noticed would mean that the tests, not the kernels, are at fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from gpumpc.ring import kernels
from gpumpc.ring.cupy_backend import CupyBackend
from tests.emulator.device import ORDERS, EmulatedDevice, EmulationError, Mode
from tests.kernels import test_contract as contract
from tests.kernels import test_fused as fused
from tests.kernels import test_three as three

CONV, DEPTHWISE = contract.CONVOLUTIONS[2], contract.CONVOLUTIONS[7]


@dataclasses.dataclass(frozen=True)
class Bug:
    """One line that is wrong: `old` stands exactly once in the inlined source of `file`."""

    name: str
    file: str
    old: str
    new: str
    test: Callable[..., None]
    arguments: tuple[Any, ...] = ()
    only_races: bool = False


def matrix(name: str, old: str, new: str, shape: tuple[int, int, int] = (65, 97, 67)) -> Bug:
    return Bug(name, "limb_gemm", old, new, contract.test_matrix_products, (shape, 64))


BARRIER = (
    "    __syncthreads();              // of all threads; and all are done with slice s - "
    "1, "
    "whose stage is filled next\n"
)
BUGS = [
    # tensor-core products
    matrix("no barrier after the copies", BARRIER, ""),
    matrix(
        "one slice too few waited for",
        "cp_async_wait<STAGES - 2>();",
        "cp_async_wait<STAGES - 1>();",
    ),
    matrix(
        "copies never closed into groups",
        "    cp_async_commit();\n    sum.multiply",
        "    sum.multiply",
    ),
    matrix("a stage filled while it is read", "    next = stage;\n", ""),
    matrix(
        "one limb pair short",
        "for (int j = 0; j < L - i; ++j)",
        "for (int j = 0; j < L - i - (i == 3); ++j)",
    ),
    matrix(
        "a fragment of B for another",
        "b[j][2 * n], b[j][2 * n + 1]",
        "b[j][2 * n + 1], b[j][2 * n]",
    ),
    matrix("rows of A from the wrong lanes", "(lane & 15), lane >> 4)", "(lane & 7), lane >> 4)"),
    matrix(
        "swizzled on one side only",
        "PLANE + place(warp % 4",
        "PLANE + (lane & 4) * 4 + place(warp % 4",
    ),
    matrix(
        "accumulators not cleared",
        "  sum.clear();\n  limb::accumulate<L>(sum, source",
        "  limb::accumulate<L>(sum, source",
    ),
    matrix(
        "a row too many copied",
        "const bool inside = row < rows;",
        "const bool inside = row <= rows;",
    ),
    matrix(
        "a column too many stored",
        "row < rows && column + e < columns;",
        "row < rows && column < columns;",
    ),
    Bug(
        "a diagonal taken as signed",
        "limb_gemm",
        "(u64)here(value",
        "(u64)(i64)(int)here(value",
        contract.test_the_longest_sum,
        (64, 16512),
    ),
    matrix(
        "a diagonal shifted short",
        "<< (8 * d);\n          const i64 row",
        "<< (8 * d - (d == 7));\n          const i64 row",
    ),
    matrix(
        "not reduced",
        "out[at] = total[e] & keep",
        "out[at] = total[e] | (keep ^ keep) | 1",
        (64, 32, 64),
    ),
    Bug(
        "the second pair never reached",
        "limb_gemm",
        "if (--left == 0) from",
        "if (left == 0) from",
        fused.test_beaver_products,
        (1,),
    ),
    Bug(
        "the dealer's term left out",
        "limb_gemm",
        "inside && addend",
        "!inside && addend",
        fused.test_beaver_products,
        (0,),
    ),
    Bug(
        "padding read as data",
        "limb_conv",
        "(z + v) < (u32)W",
        "(z + v) <= (u32)W",
        contract.test_convolutions,
        (CONV, 40),
    ),
    Bug(
        "lines of the window run on",
        "limb_conv",
        "(W - KW) * CP",
        "W * CP",
        contract.test_convolutions,
        (CONV, 64),
    ),
    Bug(
        "channels step over a tap",
        "limb_conv",
        "+= limb::SLICE) == CP",
        "+= limb::SLICE) > CP",
        contract.test_convolutions,
        (CONV, 32),
    ),
    Bug(
        "the square not complete when it is turned",
        "limb_planes",
        "  __syncthreads();\n",
        "",
        contract.test_matrix_products,
        ((20, 40, 40), 40),
    ),
    Bug(
        "bytes of two words exchanged",
        "limb_planes",
        "column[1] = __byte_perm(ab, cd, 0x7632)",
        "column[1] = __byte_perm(ab, cd, 0x7623)",
        contract.test_matrix_products,
        ((20, 40, 40), 40),
    ),
    Bug(
        "a window's columns never checked",
        "limb_planes",
        "column >= 0 && column < W",
        "column < W",
        contract.test_convolutions,
        (contract.CONVOLUTIONS[0], 64),
    ),
    # integer pipe
    Bug(
        "slices overwritten while they are read",
        "ring_gemm",
        "multiply(sum, s);\n    __syncthreads();",
        "multiply(sum, s);",
        contract.test_matrix_products,
        ((65, 33, 10), 64),
    ),
    Bug(
        "the last slice read past its end",
        "ring_gemm",
        "first_row + r < M && k < K",
        "first_row + r < M",
        contract.test_matrix_products,
        ((9, 40, 5), 44),
    ),
    Bug(
        "top and left exchanged",
        "ring_conv",
        "tap / KW - top",
        "tap / KW - left",
        three.test_int64_ring_convolution,
        (three.CONVOLUTIONS[2],),
    ),
    Bug(
        "the bias of another group",
        "ring_conv",
        "bias ? bias + offset",
        "bias ? bias",
        three.test_int64_ring_convolution,
        (three.CONVOLUTIONS[4],),
    ),
    Bug(
        "a window beyond the right edge",
        "depthwise",
        "column < W)",
        "column <= W)",
        contract.test_convolutions,
        (DEPTHWISE, 40),
    ),
    Bug(
        "queries overwritten while they are read",
        "distances",
        "      }\n    __syncthreads();\n",
        "      }\n",
        contract.test_matrix_products,
        ((8, 700, 5), 64),
    ),
    Bug(
        "half a warp forgotten",
        "row_dot",
        "int step = 16",
        "int step = 8",
        contract.test_element_wise_products,
        (64,),
    ),
    # local steps
    Bug(
        "rounded by the wrong party",
        "truncate",
        "x[i] + round",
        "x[i] - round",
        three.test_truncation,
        (65, 0),
    ),
    Bug(
        "shifted before it is reduced",
        "truncate",
        "((x[i] + round) & keep) >> shift",
        "((x[i] + round) >> shift) & keep",
        three.test_truncation,
        (65, 0),
    ),
    Bug(
        "both parties add e f",
        "beaver",
        "public_part * g",
        "g",
        three.test_beaver_multiplication,
        (65,),
    ),
    Bug(
        "elements past the end",
        "truncate",
        "threadIdx.x; i < (i64)(n))",
        "threadIdx.x; i <= (i64)(n))",
        three.test_truncation,
        (65, 1),
    ),
    Bug(
        "an argument written that is constant",
        "beaver",
        "EACH(i, n) {",
        "EACH(i, n) {\n    ((u64*)e)[i] = 0;",
        three.test_beaver_multiplication,
        (65,),
    ),
    Bug(
        "a tie goes to the higher index",
        "argmax",
        "value == best && j < index)) best = value, index = j;\n    }",
        "value == best && j > index)) best = value, index = j;\n    }",
        contract.test_order,
        ((3, 40),),
    ),
    Bug(
        "every row gathers from the first",
        "gather",
        "x[i / picked * row + index[i]]",
        "x[index[i]]",
        contract.test_places,
    ),
    Bug(
        "strides exchanged",
        "pool",
        "y * stride_y + u",
        "y * stride_x + u",
        contract.test_window_sums,
        ((3, 2), (1, 2)),
    ),
    # streams and the wire
    Bug(
        "every block draws the same stream",
        "chacha",
        "(u32)(first + threadIdx.x)",
        "threadIdx.x",
        contract.test_a_long_stream,
    ),
    Bug(
        "a rotation by another number",
        "chacha",
        "b = rotate_left(b ^ c, 12)",
        "b = rotate_left(b ^ c, 11)",
        contract.test_words_of_a_stream,
        ("chacha20", 64),
    ),
    Bug(
        "a stream read before it is there",
        "chacha",
        "word[w * STRIDE + threadIdx.x] = x[w];\n    __syncthreads();",
        "word[w * STRIDE + threadIdx.x] = x[w];",
        contract.test_words_of_a_stream,
        ("chacha20", 64),
    ),
    Bug(
        "padding bits of lanes not cleared",
        "chacha",
        "word & tail",
        "word",
        contract.test_lanes_of_a_stream,
        ("chacha20", 65),
    ),
    Bug(
        "lanes written past their end",
        "pack",
        "!(threadIdx.x & 1) && first / 8 < lane_bytes(n)",
        "!(threadIdx.x & 1)",
        contract.test_the_wire,
        (65, 27),
    ),
    Bug(
        "what follows the last element leaves too",
        "pack",
        "first + e < n ? x[first + e] : 0",
        "x[first + e < n ? first + e : n - 1]",
        contract.test_the_wire,
        (65, 27),
    ),
    Bug(
        "a mask of zeros",
        "mask",
        "? x[first + e] + sign * mask",
        "? x[first + e] + 0 * mask",
        fused.test_a_masked_value_leaves_in_one_pass,
        (65, 40),
    ),
    Bug(
        "the masked value left in place of its mask",
        "mask",
        "= mask & keep;",
        "= v[e] & keep;",
        fused.test_a_masked_value_leaves_in_one_pass,
        (65, 40),
    ),
    Bug(
        "an opening not reduced",
        "combine",
        "+ v[e]) & keep",
        "+ v[e])",
        fused.test_an_opening_becomes_limb_planes,
        ((3, 33), 44),
    ),
    # bits and comparisons
    Bug(
        "tiles stored before they are whole",
        "transpose",
        "back << 32;\n    }\n  }\n  __syncthreads();",
        "back << 32;\n    }\n  }",
        contract.test_planes,
        (2500, 64),
    ),
    Bug(
        "halves of a lane word exchanged",
        "transpose",
        "front | (u64)back << 32",
        "back | (u64)front << 32",
        contract.test_planes,
        (65, 27),
    ),
    Bug(
        "a choice the wrong way round",
        "select",
        "? if_one[i] : if_zero[i]",
        "? if_zero[i] : if_one[i]",
        contract.test_one_lane,
        (65,),
    ),
    Bug(
        "[v <= r] for [v < r]",
        "thermometer",
        "u64 less = 0;",
        "u64 less = ~0ull;",
        contract.test_leaves,
        (3, 64),
    ),
    Bug(
        "an entry read past a table",
        "lookup",
        "first < all ? table[first * lanes] : 0",
        "table[first * lanes]",
        contract.test_leaves,
        (4, 64),
    ),
    Bug(
        "nobody below zero",
        "lookup",
        "first ? table[(first - 1) * lanes] : below",
        "first ? table[(first - 1) * lanes] : 0",
        contract.test_leaves,
        (3, 2500),
    ),
    Bug(
        "products of masks in another order",
        "tree",
        "a & differ & -differ",
        "b & differ & -differ",
        fused.test_a_level_of_a_tree,
        (3, True, 65),
    ),
    Bug(
        "both parties add the public product",
        "tree",
        "ones ? ~0ull : 0",
        "~0ull",
        fused.test_a_level_of_a_tree,
        (2, False, 65),
    ),
    Bug(
        "a lift without its mask",
        "lift",
        "half ^ masks[at / 32]",
        "half",
        fused.test_a_lift,
        (65, 2, 0),
    ),
    Bug(
        "one top bit told of both candidates",
        "lift",
        "(row ? second : first)",
        "first",
        fused.test_a_lift,
        (65, 2, 0),
    ),
    Bug(
        "a lift of the other candidate",
        "lift",
        "products[c * n + i]",
        "products[i]",
        fused.test_a_lift,
        (65, 2, 1),
    ),
    Bug(
        "an odd entry lost",
        "max_level",
        "row < pairs ?",
        "row <= pairs ?",
        fused.test_a_level_of_a_maximum,
        ((5, 700),),
    ),
    Bug(
        "the clamp's constant added twice",
        "choose",
        "public_part * bit",
        "bit",
        fused.test_candidates_and_clamp,
        (65,),
    ),
    # only the race check sees these: every order happens to give the right words
    Bug(
        "a race that no order shows",
        "gather",
        "EACH32(i, n) out[i] = x[i / picked",
        "EACH32(i, n) out[0 * i] = 0, out[i] = x[i / picked",
        contract.test_places,
        (),
        True,
    ),
]


def fails(bug: Bug, text: str, mode: Mode) -> bool:
    """Whether the named test fails on this source."""
    try:
        bug.test(CupyBackend(EmulatedDevice(mode, {bug.file: text})), *bug.arguments)
    except (AssertionError, EmulationError):
        return True
    return False


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_is_caught(bug):
    text = kernels.source(bug.file)
    assert text.count(bug.old) == 1, (
        f"{bug.name}: '{bug.old}' stands {text.count(bug.old)} times in {bug.file}"
    )
    modes = [Mode(races=True)] if bug.only_races else [*ORDERS, Mode(races=True)]
    assert any(fails(bug, text.replace(bug.old, bug.new), mode) for mode in modes)


def test_shared_memory_declared_too_small_is_caught():
    class Short(EmulatedDevice):
        def launch(self, kernel: kernels.Kernel, *arguments: Any) -> None:
            super().launch(
                dataclasses.replace(kernel, shared_bytes=kernel.shared_bytes // 3 * 2), *arguments
            )

    contract.test_matrix_products(CupyBackend(EmulatedDevice()), (65, 97, 67), 64)
    with pytest.raises(EmulationError, match="outside its arguments"):
        contract.test_matrix_products(CupyBackend(Short()), (65, 97, 67), 64)


def test_there_are_enough():
    assert len(BUGS) >= 20 and len({bug.name for bug in BUGS}) == len(BUGS)
