"""Bugs of matrix products and convolutions."""

from tests.kernels import contract, fused, three
from tests.kernels.planted import Bug

CONV, DEPTHWISE = contract.CONVOLUTIONS[2], contract.CONVOLUTIONS[7]


def matrix(name: str, old: str, new: str, shape: tuple[int, int, int] = (65, 97, 67)) -> Bug:
    return Bug(name, "limb_gemm", old, new, contract.test_matmul_matches_numpy, (shape, 64))


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
        contract.test_longest_sum_of_largest_values_is_exact,
        (64, 16512),
    ),
    matrix(
        "a diagonal shifted short",
        "<< (8 * d);\n          const i64 row",
        "<< (8 * d - (d == 7));\n          const i64 row",
    ),
    matrix(
        "not reduced",
        "out[at] = total[e] & mask",
        "out[at] = total[e] | (mask ^ mask) | 1",
        (64, 32, 64),
    ),
    Bug(
        "the second pair never reached",
        "limb_gemm",
        "if (--left == 0) from",
        "if (left == 0) from",
        fused.test_beaver_products_match_the_formula,
        (1,),
    ),
    Bug(
        "the dealer's term left out",
        "limb_gemm",
        "inside && addend",
        "!inside && addend",
        fused.test_beaver_products_match_the_formula,
        (0,),
    ),
    Bug(
        "padding read as data",
        "limb_conv",
        "(z + v) < (u32)W",
        "(z + v) <= (u32)W",
        contract.test_conv2d_matches_numpy,
        (CONV, 40),
    ),
    Bug(
        "lines of the window run on",
        "limb_conv",
        "(W - KW) * CP",
        "W * CP",
        contract.test_conv2d_matches_numpy,
        (CONV, 64),
    ),
    Bug(
        "channels step over a tap",
        "limb_conv",
        "+= limb::SLICE) == CP",
        "+= limb::SLICE) > CP",
        contract.test_conv2d_matches_numpy,
        (CONV, 32),
    ),
    Bug(
        "the square not complete when it is turned",
        "limb_planes",
        "  __syncthreads();\n",
        "",
        contract.test_matmul_matches_numpy,
        ((20, 40, 40), 40),
    ),
    Bug(
        "bytes of two words exchanged",
        "limb_planes",
        "column[1] = __byte_perm(ab, cd, 0x7632)",
        "column[1] = __byte_perm(ab, cd, 0x7623)",
        contract.test_matmul_matches_numpy,
        ((20, 40, 40), 40),
    ),
    Bug(
        "a window's columns never checked",
        "limb_planes",
        "column >= 0 && column < W",
        "column < W",
        contract.test_conv2d_matches_numpy,
        (contract.CONVOLUTIONS[0], 64),
    ),
    # integer pipe
    Bug(
        "slices overwritten while they are read",
        "ring_gemm",
        "multiply(sum, s);\n    __syncthreads();",
        "multiply(sum, s);",
        contract.test_matmul_matches_numpy,
        ((65, 33, 10), 64),
    ),
    Bug(
        "the last slice read past its end",
        "ring_gemm",
        "first_row + r < M && k < K",
        "first_row + r < M",
        contract.test_matmul_matches_numpy,
        ((9, 40, 5), 44),
    ),
    Bug(
        "top and left exchanged",
        "ring_conv",
        "tap / KW - top",
        "tap / KW - left",
        three.test_ring_convolution_matches_the_definition,
        (three.CONVOLUTIONS[2],),
    ),
    Bug(
        "the bias of another group",
        "ring_conv",
        "bias ? bias + offset",
        "bias ? bias",
        three.test_ring_convolution_matches_the_definition,
        (three.CONVOLUTIONS[4],),
    ),
    Bug(
        "a window beyond the right edge",
        "depthwise",
        "column < W)",
        "column <= W)",
        contract.test_conv2d_matches_numpy,
        (DEPTHWISE, 40),
    ),
    Bug(
        "queries overwritten while they are read",
        "distances",
        "      }\n    __syncthreads();\n",
        "      }\n",
        contract.test_matmul_matches_numpy,
        ((8, 700, 5), 64),
    ),
    Bug(
        "half a warp forgotten",
        "row_dot",
        "int step = 16",
        "int step = 8",
        contract.test_multiply_and_row_dot_match_numpy,
        (64,),
    ),
]
