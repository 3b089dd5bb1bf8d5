"""Kernels in machine code: no spill, registers and memory within bounds, tensor cores busy.

A missing compiler is an error, never a skip.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.disassembly import Code, Instruction, disassemble
from gpumpc.errors import ConfigError
from gpumpc.ring import kernels
from tests.emulator import build

BUDGET = json.loads(Path(__file__).with_name("registers.json").read_text())
# Another release of the compiler may want a few registers more.
SLACK = 1.05
# Shared memory of a block: CUDA C++ Programming Guide, table of compute capabilities.
SHARED_KB = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_90a": 227, "sm_100": 227}
SHARED_KB["sm_120"] = 99
# Least share of tensor-core instructions in the hot loop, by limbs.
GEMM_SHARE = {8: 0.45, 6: 0.45, 5: 0.45, 4: 0.43}
CONV_SHARE = {8: 0.38, 6: 0.38, 5: 0.38, 4: 0.32}
FLOAT = ("FADD", "FMUL", "FFMA", "DADD", "DMUL", "DFMA")  # HFMA2 moves constants


@pytest.mark.parametrize("architecture", kernels.ARCHITECTURES)
@pytest.mark.parametrize("file", kernels.files())
def test_kernels_keep_their_resource_budget(file, architecture):
    resources = kernels.compiled(file, architecture).resources()
    declared = {kernel.name: kernel for kernel in kernels.parse(kernels.source(file), file)}
    assert resources.keys() == declared.keys()
    for name, found in resources.items():
        kernel = declared[name]
        assert found.spill_bytes == 0, f"{name} spills {found.spill_bytes} bytes on {architecture}"
        assert found.registers * kernel.threads <= 65536, f"{name} on {architecture}"
        assert found.shared_bytes + kernel.shared_bytes <= SHARED_KB[architecture] << 10
        assert found.shared_bytes <= 48 << 10
        assert found.registers <= SLACK * BUDGET[name], f"{name} on {architecture}"


def test_budget_names_every_kernel():
    assert BUDGET.keys() == kernels.catalogue().keys()


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("file", "least"), [("limb_gemm", GEMM_SHARE), ("limb_conv", CONV_SHARE)])
def test_hot_loops_are_mostly_tensor_core_instructions(file, least, architecture):
    codes = disassemble(kernels.compiled(file, architecture))
    assert codes.keys() == {f"{file}_l{limbs}" for limbs in least}
    for limbs, share in least.items():
        code = codes[f"{file}_l{limbs}"]
        found = [i for i in code.hot_loop() if i.opcode.startswith("IMMA.16832.U8.U8")]
        # all limb pairs of a 32x16 tile by one slice of 32, four products each, and not one more
        assert len(found) == 4 * limbs * (limbs + 1) // 2
        assert code.tensor_share >= share, f"{file}_l{limbs} on {architecture}"
        assert code.count("LDL", "STL") == 0


@pytest.mark.parametrize("file", kernels.files())
def test_kernels_use_no_float_arithmetic(file):
    """Nothing that rounds: results are equal bit for bit on every machine.

    Divisions of integers begin with an estimate.
    """
    for name, code in disassemble(kernels.compiled(file, "sm_90")).items():
        rounding = {i.opcode for i in code.instructions if i.opcode.startswith(FLOAT)}
        assert not rounding, f"{name}: {rounding}"


# the instruments themselves


def test_register_spill_is_detected():
    """Sixty-four words in a loop that indexes them: local memory, in log and disassembly."""
    text = (
        'extern "C" __global__ void __launch_bounds__(1024) spill(unsigned* x, int n) {'
        " unsigned v[64]; for (int i = 0; i < 64; ++i) v[i] = x[i];"
        " for (int i = 0; i < n; ++i) v[x[i] & 63] += i; for (int i = 0; i < 64; ++i) x[i] = v[i]; "
        "}"
    )
    cubin = kernels.nvrtc().compile(text, "spill.cu", "sm_80")
    assert cubin.resources()["spill"].spill_bytes > 0
    assert disassemble(cubin)["spill"].count("LDL", "STL") > 0


def test_the_hot_loop_is_the_innermost_with_tensor_cores():
    def code(*names):
        return tuple(Instruction(*name.partition(" ")[::2]) for name in names)

    body = code("MOV", "IADD", "IMMA.1", "IMMA.1", "BRA a", "IADD", "BRA b", "EXIT", "BRA c", "NOP")
    found = Code(body, {"a": 1, "b": 0, "c": 8})
    assert found.hot_loop() == body[1:5] and found.tensor_share == 0.5
    assert len(found.loops()) == 2  # a jump to itself, after the end, is padding


def test_compile_error_names_its_line():
    with pytest.raises(ConfigError, match=r"broken\.cu\(1\)"):
        kernels.nvrtc().compile(kernels.inline("int x = ;\n", "broken.cu"), "broken.cu", "sm_90")


def test_cache_returns_the_compiled_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv(kernels.CACHE, str(tmp_path))
    first = kernels.compiled("truncate", "sm_90")
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(kernels.Nvrtc, "compile", None)  # a second compilation would fail
    assert kernels.compiled("truncate", "sm_90") == first


def test_threads_may_compile_the_same_source_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv(kernels.CACHE, str(tmp_path))
    build.runtime()  # before its place is changed: it is linked to by its path
    monkeypatch.setattr(build, "CACHE", tmp_path)
    text = kernels.source("truncate")

    def compiled(_: int) -> tuple[bytes, Path]:
        return kernels.compiled("truncate", "sm_80").code, build.library(text, "truncate")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(compiled, range(8)))
    assert len(set(found)) == 1 and not list(tmp_path.glob("*.part"))


def test_uncheckable_kernel_declaration_is_refused():
    declaration = 'extern "C" __global__ void __launch_bounds__(256) bad({}) {{}}'
    for parameters in ("float x", "u64 *x", "const long* x", "u64** x"):
        with pytest.raises(ConfigError, match="cannot be checked"):
            kernels.parse(declaration.format(parameters), "bad")
    with pytest.raises(ConfigError, match="not declared"):
        kernels.parse('extern "C" __global__ void bad(u64* x) {}', "bad")


def test_every_source_has_the_four_headings():
    """The head comment of each kernel: shapes, launch, largest legal sizes, why it is fast."""
    for file in kernels.files():
        head = (kernels.FOLDER / f"{file}.cu").read_text().split("#include")[0]
        for heading in ("Shapes", "Launch:", "Largest", "Fast because"):
            assert heading in head, f"{file}.cu does not say '{heading}'"


def test_inline_ptx_stands_in_one_header():
    for path in [*kernels.FOLDER.glob("*.cu"), *kernels.FOLDER.glob("*.cuh")]:
        assert path.name == "ptx.cuh" or "asm" not in path.read_text(), path.name


def test_headers_are_inlined_once_and_lines_keep_their_names():
    text = kernels.source("limb_gemm")
    assert text.count("constexpr int PER_THREAD") == 1 and "#include" not in text
    assert '#line 1 "limb_gemm.cu"' in text and '#line 1 "ptx.cuh"' in text
