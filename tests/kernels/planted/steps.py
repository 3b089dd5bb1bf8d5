"""Bugs of local steps, streams, the wire, bits and comparisons."""

from tests.kernels import contract, fused, three
from tests.kernels.planted import Planted, bugs

PLANTED: Planted = {
    ("truncate", three.test_truncation_matches_the_formula, 65, 0): [
        ("rounded by the wrong party", "x[i] + round", "x[i] - round"),
        (
            "shifted before it is reduced",
            "((x[i] + round) & mask) >> shift",
            "((x[i] + round) >> shift) & mask",
        ),
    ],
    ("beaver", three.test_beaver_shares_add_up_to_the_product, 65): [
        ("both parties add e f", "public_part * g", "g"),
        (
            "an argument written that is constant",
            "EACH(i, n) {",
            "EACH(i, n) {\n    ((u64*)e)[i] = 0;",
        ),
    ],
    ("truncate", three.test_truncation_matches_the_formula, 65, 1): [
        ("elements past the end", "threadIdx.x; i < (i64)(n))", "threadIdx.x; i <= (i64)(n))")
    ],
    ("argmax", contract.test_argmax_and_smallest_match_numpy, (3, 40)): [
        (
            "a tie goes to the higher index",
            "j < index)) best = value, index = j;\n    }",
            "j > index)) best = value, index = j;\n    }",
        )
    ],
    ("gather", contract.test_gather_take_and_concat_match_numpy): [
        ("every row gathers from the first", "x[i / picked * row + index[i]]", "x[index[i]]")
    ],
    ("pool", contract.test_window_sum_matches_numpy, (3, 2), (1, 2)): [
        ("strides exchanged", "y * stride_y + u", "y * stride_x + u")
    ],
    ("chacha", contract.test_stream_over_several_blocks_matches_numpy): [
        ("every block draws the same stream", "(u32)(first + threadIdx.x)", "threadIdx.x")
    ],
    ("chacha", contract.test_expand_words_matches_numpy, "chacha20", 64): [
        ("a rotation by another number", "(b ^ c, 12)", "(b ^ c, 11)"),
        ("a stream read before it is there", "= x[w];\n    __syncthreads();", "= x[w];"),
    ],
    ("chacha", contract.test_expand_lanes_matches_numpy, "chacha20", 65): [
        ("padding bits of lanes not cleared", "word & tail", "word")
    ],
    ("pack", contract.test_pack_and_unpack_match_numpy, 65, 27): [
        ("lanes written past their end", " && first / 8 < lane_bytes(n)", ""),
        (
            "what follows the last element leaves too",
            "first + e < n ? x[first + e] : 0",
            "x[first + e < n ? first + e : n - 1]",
        ),
    ],
    ("mask", fused.test_masked_words_are_packed_in_one_pass, 65, 40): [
        ("a mask of zeros", "? x[first + e] + sign * mask", "? x[first + e] + 0 * mask"),
        ("the masked value left in place of its mask", "= mask & bit_mask;", "= v[e] & bit_mask;"),
    ],
    ("combine", fused.test_combine_makes_limb_planes_of_an_opening, (3, 33), 44): [
        ("an opening not reduced", "+ v[e]) & mask", "+ v[e])")
    ],
    ("transpose", contract.test_bit_planes_match_numpy, 2500, 64): [
        (
            "tiles stored before they are whole",
            "32;\n    }\n  }\n  __syncthreads();",
            "32;\n    }\n  }",
        )
    ],
    ("transpose", contract.test_bit_planes_match_numpy, 65, 27): [
        ("halves of a lane word exchanged", "front | (u64)back << 32", "back | (u64)front << 32")
    ],
    ("select", contract.test_single_lane_operations_match_numpy, 65): [
        ("a choice the wrong way round", "? if_one[i] : if_zero[i]", "? if_zero[i] : if_one[i]")
    ],
    ("thermometer", contract.test_thermometer_and_lookup_match_numpy, 3, 64): [
        ("[v <= r] for [v < r]", "u64 less = 0;", "u64 less = ~0ull;")
    ],
    ("lookup", contract.test_thermometer_and_lookup_match_numpy, 4, 64): [
        (
            "an entry read past a table",
            "first < all ? table[first * lanes] : 0",
            "table[first * lanes]",
        )
    ],
    ("lookup", contract.test_thermometer_and_lookup_match_numpy, 3, 2500): [
        ("nobody below zero", "* lanes] : below", "* lanes] : 0")
    ],
    ("tree", fused.test_tree_level_matches_the_formula, 3, True, 65): [
        ("products of masks in another order", "a & differ & -differ", "b & differ & -differ")
    ],
    ("tree", fused.test_tree_level_matches_the_formula, 2, False, 65): [
        ("both parties add the public product", "ones ? ~0ull : 0", "~0ull")
    ],
    ("lift", fused.test_lift_matches_the_formula, 65, 2, 0): [
        ("a lift without its mask", "half ^ masks[at / 32]", "half"),
        ("one top bit sent for both candidates", "(row ? second : first)", "first"),
    ],
    ("lift", fused.test_lift_matches_the_formula, 65, 2, 1): [
        ("a lift of the other candidate", "products[c * n + i]", "products[i]")
    ],
    ("choose", fused.test_candidates_and_add_flipped_match_numpy, 65): [
        ("the clamp's constant added twice", "public_part * bit", "bit")
    ],
}
# Only the race check sees this one: every order happens to give the right words.
RACES: Planted = {
    ("gather", contract.test_gather_take_and_concat_match_numpy): [
        (
            "a race that no order shows",
            ") out[i] = x[i / picked",
            ") out[0 * i] = 0, out[i] = x[i / picked",
        )
    ]
}
BUGS = [*bugs(PLANTED), *bugs(RACES, only_races=True)]
