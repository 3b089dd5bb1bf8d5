"""Every kernel under the race check: a barrier must order a write and any access to its bytes."""

import re
from typing import Any

import numpy as np
import pytest

from bench.gpu import wrappers
from gpumpc.ring import kernels
from gpumpc.ring.cupy_backend import CupyBackend
from tests.emulator import build
from tests.emulator.device import EmulatedDevice, EmulationError, Mode
from tests.kernels import contract, fused, three

CONV = contract.CONVOLUTIONS[2]
# Shapes with more than one block, and ends that fill none.
CHECKS = [
    *[(contract.test_matmul_matches_numpy, ((65, 97, 67), bits)) for bits in (32, 40, 44, 64)],
    *[(contract.test_matmul_matches_numpy, (shape, 64)) for shape in ((8, 300, 300), (65, 33, 10))],
    *[(contract.test_conv2d_matches_numpy, (CONV, bits)) for bits in (32, 40, 44, 64)],
    *[(contract.test_conv2d_matches_numpy, (case, 40)) for case in contract.CONVOLUTIONS],
    (contract.test_stream_over_several_blocks_matches_numpy, ()),
    (contract.test_pack_and_unpack_match_numpy, (2500, 27)),
    (contract.test_bit_planes_match_numpy, (2500, 33)),
    (contract.test_single_lane_operations_match_numpy, (2500,)),
    (contract.test_thermometer_and_lookup_match_numpy, (3, 17000)),
    (contract.test_multiply_and_row_dot_match_numpy, (64,)),
    (contract.test_operand_downloads_as_its_words, ()),
    (contract.test_local_operations_match_numpy, (2500,)),
    (contract.test_argmax_and_smallest_match_numpy, ((9, 33),)),
    (contract.test_window_sum_matches_numpy, ((3, 2), (1, 2))),
    (contract.test_gather_take_and_concat_match_numpy, ()),
    (three.test_beaver_shares_add_up_to_the_product, (2500,)),
    (three.test_ring_convolution_matches_the_definition, (three.CONVOLUTIONS[4],)),
    (fused.test_masked_words_are_packed_in_one_pass, (5000, 27)),
    (fused.test_xor_uniform_matches_numpy, (2500,)),
    (fused.test_add_uniform_and_add_packed_match_numpy, ("chacha20", 2500)),
    (fused.test_combine_makes_limb_planes_of_an_opening, ((65, 3), 44)),
    (fused.test_tree_level_matches_the_formula, (4, True, 17000)),
    (fused.test_lift_matches_the_formula, (2500, 2, 0)),
    (fused.test_candidates_and_add_flipped_match_numpy, (2500,)),
    (fused.test_add_matches_the_sum, (2500,)),
]


@pytest.fixture(scope="module")
def checked():
    return CupyBackend(EmulatedDevice(Mode(order=2, races=True)))


@pytest.mark.parametrize(
    ("test", "arguments"), CHECKS, ids=lambda value: getattr(value, "__name__", None)
)
def test_kernels_have_no_race(checked, test, arguments):
    test(checked, *arguments)


def test_every_kernel_is_checked_for_races(checked):
    assert all(agrees for _, agrees in wrappers.check(checked))
    checked.launch("rate_mma", 2, checked.new((512,), np.uint32), 2)
    checked.launch("rate_imad", 2, checked.new((512,)), 2)
    names = {kernel.name for kernel in kernels.catalogue().values()}
    for test, arguments in CHECKS:  # again, if the tests above ran in another process
        if names <= checked.launch.launched.keys():
            break
        test(checked, *arguments)
    assert checked.launch.launched.keys() == kernels.catalogue().keys()


# the instrument itself

RACY = """
#include "ring.cuh"
struct Words { u32 word[64]; };
extern "C" __global__ void __launch_bounds__(64) racy(u32* out, int kind) {
  SHARED(Words, s);
  const int i = threadIdx.x;
  s.word[i] = i;
  if (kind == 1) __syncthreads();
  if (kind == 2) __syncwarp();
  const u32 other = s.word[kind == 2 ? i ^ 1 : 63 - i];
  if (kind == 3) __syncthreads();
  out[kind == 4 ? 0 : blockIdx.x * 64 + i] = other;
}
"""


# No barrier; a barrier; a warp's barrier for a warp's words; a late barrier; all to one word.
RACES = [(0, True), (1, False), (2, False), (3, True), (4, True)]


@pytest.mark.parametrize(("kind", "races"), RACES)
def test_race_check_tells_races_from_ordered_accesses(kind, races, monkeypatch):
    text = kernels.inline(RACY.strip() + "\n", "racy.cu")
    backend = CupyBackend(EmulatedDevice(Mode(races=True), {"racy": text}))
    [kernel] = kernels.parse(text, "racy")
    monkeypatch.setitem(kernels.catalogue(), "racy", kernel)
    out: Any = backend.device.empty((128,), "uint32")
    if races:
        with pytest.raises(EmulationError, match=r"race.*racy\.cu:\d+ and racy\.cu:\d+") as caught:
            backend.launch("racy", 2, out, kind)
        lines = sorted(int(line) for line in re.findall(r"racy\.cu:(\d+)", str(caught.value)))
        assert lines == ([11, 11] if kind == 4 else [6, 9])
    else:
        backend.launch("racy", 2, out, kind)
        assert out[:64].tolist() == [i ^ 1 if kind == 2 else 63 - i for i in range(64)]


def test_sanitizer_runtime_is_not_linked():
    path = build.library(kernels.source("row_dot"), "row_dot", races=True)
    assert b"libtsan" not in path.read_bytes()
