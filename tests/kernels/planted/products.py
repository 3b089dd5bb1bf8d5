"""Bugs of matrix products and convolutions."""

from tests.kernels import contract, fused, three
from tests.kernels.planted import Planted, bugs

BARRIER = (
    "    __syncthreads();              // of all threads; and all are done with slice s - 1, "
    "whose stage is filled next\n"
)
CONV, DEPTHWISE = contract.CONVOLUTIONS[2], contract.CONVOLUTIONS[7]
PLANTED: Planted = {
    ("limb_gemm", contract.test_matmul_matches_numpy, (65, 97, 67), 64): [
        ("no barrier after the copies", BARRIER, ""),
        ("one slice too few waited for", "wait<STAGES - 2>", "wait<STAGES - 1>"),
        ("copies never closed into groups", "    cp_async_commit();\n    sum.", "    sum."),
        ("a stage filled while it is read", "    next = stage;\n", ""),
        ("one limb pair short", "j < L - i;", "j < L - i - (i == 3);"),
        ("a fragment of B for another", "[2 * n], b[j][2 * n + 1]", "[2 * n + 1], b[j][2 * n]"),
        ("rows of A from the wrong lanes", "(lane & 15), lane >> 4)", "(lane & 7), lane >> 4)"),
        ("swizzled on one side only", "+ place(warp % 4", "+ (lane & 4) * 4 + place(warp % 4"),
        ("accumulators not cleared", "  sum.clear();\n  limb::acc", "  limb::acc"),
        ("a row too many copied", "inside = row < rows;", "inside = row <= rows;"),
        ("a column too many stored", "&& column + e < columns;", "&& column < columns;"),
        (
            "a diagonal shifted short",
            "<< (8 * d);\n          const",
            "<< (8 * d - (d == 7));\n          const",
        ),
    ],
    ("limb_gemm", contract.test_longest_sum_of_largest_values_is_exact, 64, 16512): [
        ("a diagonal taken as signed", "(u64)here(value", "(u64)(i64)(int)here(value")
    ],
    ("limb_gemm", contract.test_matmul_matches_numpy, (64, 32, 64), 64): [
        ("not reduced", "out[at] = total[e] & mask", "out[at] = total[e] | (mask ^ mask) | 1")
    ],
    ("limb_gemm", fused.test_beaver_products_match_the_formula, 1): [
        ("the second pair never reached", "if (--left == 0) from", "if (left == 0) from")
    ],
    ("limb_gemm", fused.test_beaver_products_match_the_formula, 0): [
        ("the dealer's term left out", "inside && addend", "!inside && addend")
    ],
    ("limb_conv", contract.test_conv2d_matches_numpy, CONV, 40): [
        ("padding read as data", "(z + v) < (u32)W", "(z + v) <= (u32)W")
    ],
    ("limb_conv", contract.test_conv2d_matches_numpy, CONV, 64): [
        ("lines of the window run on", "(W - KW) * CP", "W * CP")
    ],
    ("limb_conv", contract.test_conv2d_matches_numpy, CONV, 32): [
        ("channels step over a tap", "+= limb::SLICE) == CP", "+= limb::SLICE) > CP")
    ],
    ("limb_planes", contract.test_matmul_matches_numpy, (20, 40, 40), 40): [
        ("the square not complete when it is turned", "  __syncthreads();\n", ""),
        ("bytes of two words exchanged", "cd, 0x7632)", "cd, 0x7623)"),
    ],
    ("limb_planes", contract.test_conv2d_matches_numpy, contract.CONVOLUTIONS[0], 64): [
        ("a window's columns never checked", "column >= 0 && column < W", "column < W")
    ],
    ("ring_gemm", contract.test_matmul_matches_numpy, (65, 33, 10), 64): [
        ("slices overwritten while they are read", "(sum, s);\n    __syncthreads();", "(sum, s);")
    ],
    ("ring_gemm", contract.test_matmul_matches_numpy, (9, 40, 5), 44): [
        ("the last slice read past its end", "first_row + r < M && k < K", "first_row + r < M")
    ],
    ("ring_conv", three.test_ring_convolution_matches_the_definition, three.CONVOLUTIONS[2]): [
        ("top and left exchanged", "tap / KW - top", "tap / KW - left")
    ],
    ("ring_conv", three.test_ring_convolution_matches_the_definition, three.CONVOLUTIONS[4]): [
        ("the bias of another group", "bias ? bias + offset", "bias ? bias")
    ],
    ("depthwise", contract.test_conv2d_matches_numpy, DEPTHWISE, 40): [
        ("a window beyond the right edge", "column < W)", "column <= W)")
    ],
    ("distances", contract.test_matmul_matches_numpy, (8, 700, 5), 64): [
        ("queries overwritten while they are read", "      }\n    __syncthreads();\n", "      }\n")
    ],
    ("row_dot", contract.test_multiply_and_row_dot_match_numpy, 64): [
        ("half a warp forgotten", "int step = 16", "int step = 8")
    ],
}
BUGS = bugs(PLANTED)
