"""The emulator itself: what a GPU does not forgive must not pass here either."""

import subprocess
import sys

import numpy as np
import pytest

from bench.gpu import wrappers
from gpumpc.ring import kernels
from gpumpc.ring.cupy_backend import CupyBackend
from tests.emulator import build
from tests.emulator.device import ORDERS, EmulatedDevice, EmulationError, Mode


@pytest.mark.parametrize("name", wrappers.WRAPPERS)
def test_wrappers_match_their_models(backend, name):
    rng = np.random.default_rng(7)
    assert all(wrappers.WRAPPERS[name](backend, rng, case) for case in range(wrappers.CASES))


def launch(body, monkeypatch, threads=64, mode=ORDERS[0], n=64):
    """Run a kernel of two arrays with this body on words 0 .. n - 1; what it leaves in `out`."""
    head = f'extern "C" __global__ void __launch_bounds__({threads}) k'
    head += "(const u64* x, u64* out, u64* spare)"
    text = kernels.inline(f'#include "ring.cuh"\n{head} {{ {body} }}\n', "k.cu")
    [kernel] = kernels.parse(text, "k")
    monkeypatch.setitem(kernels.catalogue(), "k", kernel)
    backend = CupyBackend(EmulatedDevice(mode, {"k": text}))
    out = backend.new((n,))
    backend.launch("k", 2, backend.upload(np.arange(n, dtype=np.uint64)), out, None)
    return out


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("out[64] = 1;", "outside"),
        ("out[1 << 20] = 1;", "outside"),
        ("((u8*)out)[-1] = 1;", "outside"),
        ("out[0] = x[1 << 20];", "outside its arguments"),
        ("((u64*)x)[0] = 1;", "constant"),
        ("spare[0] = 1;", "outside its arguments"),
        ("if (threadIdx.x) __syncthreads();", "left behind"),
        (
            "if (threadIdx.x & 1) { *out = 1; __syncthreads(); } else { __syncthreads(); out[1] = "
            "1; }",
            "two different",
        ),
        ("if (threadIdx.x & 1) __ballot_sync(~0u, 1); else __syncthreads();", "deadlock"),
        (
            "if (threadIdx.x & 1) __ballot_sync(~0u, 1); else __shfl_xor_sync(~0u, 1, 1);",
            "two different operations",
        ),
        ("if (threadIdx.x < 7) __ballot_sync(~0u, 1);", "deadlock"),
        ("__ballot_sync(1u, 1);", "whole warps"),
        ("cp_async_16(shared_address(dynamic_shared()), x, true);", "copies under way|outside"),
        ("cp_async_16(1, x, true);", "multiple of 16"),
        ("u32 d[4]; ldmatrix_x4(d, 8);", "multiple of 16"),
    ],
)
def test_kernel_mistake_is_reported(body, message, at_end, monkeypatch):
    with pytest.raises(EmulationError, match=message):
        launch(body, monkeypatch, mode=Mode(at_end=at_end))


@pytest.mark.parametrize("mode", [*ORDERS, Mode(races=True)], ids=str)
def test_correct_kernel_passes_in_every_mode(mode, monkeypatch):
    out = launch("if (!blockIdx.x) out[threadIdx.x] = x[threadIdx.x] + 1;", monkeypatch, mode=mode)
    assert out.tolist() == list(range(1, 65))


@pytest.mark.parametrize(("order", "expected"), [(0, 63), (1, 0)])
def test_threads_run_in_the_chosen_order(order, expected, monkeypatch):
    """The last writer of a word, where nothing orders them, tells the order."""
    out = launch("out[0] = threadIdx.x;", monkeypatch, mode=Mode(order))
    assert int(out[0]) == expected


def test_third_thread_order_differs_and_is_repeatable(monkeypatch):
    last = {int(launch("out[0] = threadIdx.x;", monkeypatch, mode=Mode(2))[0]) for _ in range(3)}
    assert len(last) == 1 and not last & {0, 63}


def test_a_block_must_be_whole_warps(monkeypatch):
    with pytest.raises(EmulationError, match="whole number of warps"):
        launch("out[0] = 1;", monkeypatch, threads=33)


def test_unwritten_output_is_poison(monkeypatch):
    out = launch("if (threadIdx.x) out[threadIdx.x] = 0;", monkeypatch)
    assert int(out[0]) == 0xA5A5A5A5A5A5A5A5 and not out[1:].any()


LATE = """
  struct Words { u64 word[64]; };
  SHARED(Words, s);
  s.word[threadIdx.x] = 7;
  __syncthreads();
  if (threadIdx.x < 32)
    cp_async_16(shared_address(s.word + 2 * threadIdx.x), x + 2 * threadIdx.x, true);
  cp_async_commit();
  __syncthreads();
  const u64 before = s.word[threadIdx.x];
  __syncthreads();
  cp_async_wait<0>();
  __syncthreads();
  if (!blockIdx.x) out[threadIdx.x] = before * 1000 + s.word[threadIdx.x];
"""


@pytest.mark.parametrize("late", [False, True])
def test_async_copies_land_early_or_late(late, monkeypatch):
    out = launch(LATE.replace("\n", " "), monkeypatch, mode=Mode(late_copies=late))
    assert out.tolist() == [(7 if late else i) * 1000 + i for i in range(64)]


def test_shared_memory_begins_as_poison(monkeypatch):
    read = "out[threadIdx.x] = s.w[threadIdx.x];"
    out = launch("struct W { u64 w[64]; }; SHARED(W, s); " + read, monkeypatch)
    assert set(out.tolist()) == {0xCDCDCDCDCDCDCDCD}


def test_missing_compiler_is_an_error(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(build.CompilerMissing, match="apt-get install g"):
        build.compiler()


def test_fault_outside_a_kernel_ends_the_process():
    """The emulator's handler is for launches only."""
    code = (
        "import ctypes, numpy as np\n"
        "from gpumpc.ring.cupy_backend import CupyBackend\n"
        "from tests.emulator.device import EmulatedDevice\n"
        "b = CupyBackend(EmulatedDevice()); b.reduce(b.upload([1, 2]), 1)\n"
        "ctypes.string_at(8)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, cwd=build.HERE.parents[1])
    assert done.returncode < 0
