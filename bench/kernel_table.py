"""The table of docs/kernels.md, computed from the machine code: `python -m bench.kernel_table
[--write | --json]`.

Registers are the most over all architectures; the rest is read from the code for sm_90. Predicted
times are for an H100 (132 multiprocessors, 3.35 TB/s, of which nine tenths are counted on; 128
instructions a clock and multiprocessor at 1.755 GHz; 1.2 P byte operations a second through
mma.sync): predictions, not measurements.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import Any

from bench.command import command_line, show
from bench.disassembly import Code, disassemble
from bench.machine import ROOT
from bench.schema import row
from gpumpc.ring import kernels

DOCUMENT = ROOT / "docs" / "kernels.md"
BEGIN = "<!-- computed: python -m bench.kernel_table --write -->"
END = "<!-- end of what is computed -->"
BYTES_PER_S = 0.9 * 3.35e12
INSTRUCTIONS_PER_S = 132 * 128 * 1.755e9
MULTIPLY_ADDS_PER_S = 17.0e12 * 36  # of bytes, by mma.sync
# Bytes that one element moves, at 40 bits, 27 planes, 5 limbs, 3-bit digits; an element of a
# bit-sliced kernel is 64 bits of one digit or node.
BYTES: dict[str, float] = {
    "truncate": 16, "affine": 16, "signed_shift": 16, "add": 24, "product": 24, "beaver": 48,
    "select_words": 24.125, "from_bit": 8.125, "take_bit": 8.125, "pack": 13, "unpack": 13,
    "to_planes": 11.375, "split_rows": 13, "split_windows": 13, "join_rows":
    13, "combine": 18, "chacha_words": 8, "chacha_lanes": 8, "mask_words": 13, "mask_lanes": 16,
    "candidates": 48, "clamp_finish": 24.125,
    "lift_finish": 24.75, "lift_mask": 8.375, "gather": 24, "take_axis": 24, "window_sum": 16,
    "depthwise": 16, "row_dot": 16, "distances": 8, "thermometer": 80, "lookup": 96, "tree_finish":
    176, "tree_deal": 104, "split_columns": 13, "argmax_signed": 8, "add_packed": 21, "mask_add":
    16, "from_lanes": 8.125,
}  # fmt: skip
MEMORY = ("LD", "ST")
# Kernels with a body for each width or fan-in, those that draw a stream, and those whose threads
# take one element.
CASES = {"lookup", "tree_finish", "tree_deal"}
STREAMS = {"chacha_words", "chacha_lanes", "mask_words", "mask_add", "mask_lanes"}
ONE_A_THREAD = {"take_bit", "lift_mask"}
# M, K, N of the products' predicted times: 56x56x8 images, 256 channels, 3x3
SHAPE = (25088, 2304, 256)
MILLION = 1e6


@dataclasses.dataclass(frozen=True)
class Line:
    """One kernel."""

    name: str
    registers: int
    shared_kb: float
    share: float | None
    n_bytes: float | None
    instructions: str
    predicted: str


def _instructions(code: Code, kernel: kernels.Kernel) -> tuple[float | None, str]:
    """Instructions an element where the code has no loop, else those of its hot loop."""
    if kernel.name in CASES:
        return None, f"{len(code.instructions)} in six cases"
    if kernel.name in STREAMS:
        # Ten double rounds, two a turn of the loop that touches no memory, make 64 bytes.
        loops = (
            body for body in code.loops() if not any(i.opcode.startswith(MEMORY) for i in body)
        )
        per_word = 5 * max(map(len, loops)) / 8
        return per_word, f"{per_word:.0f}"
    if not code.loops():
        per_thread = 1 if kernel.name in ONE_A_THREAD else 4
        last = max(i for i, x in enumerate(code.instructions) if x.opcode.startswith("EXIT"))
        return last / per_thread, f"{last / per_thread:.0f}"
    return None, f"loop of {len(code.hot_loop())}"


def _predicted(name: str, share: float | None, per_element: float | None) -> str:
    if share is not None:
        limbs = int(name[-1])
        m, depth, n = SHAPE
        return f"{m * depth * n * limbs * (limbs + 1) / 2 / MULTIPLY_ADDS_PER_S * 1e3:.2f} ms"
    if name not in BYTES:
        return "-"
    by_memory = MILLION * BYTES[name] / BYTES_PER_S
    by_pipe = MILLION * (per_element or 0) / INSTRUCTIONS_PER_S
    return f"{max(by_memory, by_pipe) * 1e6:.1f} µs"


@functools.cache
def lines() -> tuple[Line, ...]:
    """Every kernel, in the order of the files."""
    return tuple(_lines())


def _lines() -> Iterator[Line]:
    for file in kernels.files():
        compiled = {name: kernels.compiled(file, name) for name in kernels.ARCHITECTURES}
        codes = disassemble(compiled["sm_90"])
        for kernel in kernels.parse(kernels.source(file), file):
            found = [cubin.resources()[kernel.name] for cubin in compiled.values()]
            code = codes[kernel.name]
            share = code.tensor_share if kernel.name.startswith("limb_") else None
            per_element, instructions = _instructions(code, kernel)
            shared = (found[3].shared_bytes + kernel.shared_bytes) / 1024
            registers = max(one.registers for one in found)
            predicted, n_bytes = _predicted(kernel.name, share, per_element), BYTES.get(kernel.name)
            yield Line(kernel.name, registers, shared, share, n_bytes, instructions, predicted)


def table() -> str:
    """The table in Markdown, with the compiler's version above it."""
    head = [
        f"NVRTC {kernels.nvrtc().version}; for an H100: a product {' x '.join(map(str, SHAPE))}, "
        "or a million elements",
        "",
        "| kernel | registers | shared KB | tensor cores | bytes | instructions | predicted |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for x in lines():
        share = "" if x.share is None else f"{100 * x.share:.0f} %"
        n_bytes = "" if x.n_bytes is None else f"{x.n_bytes:g}"
        rows.append(
            f"| {x.name} | {x.registers} | {x.shared_kb:.1f} | {share} | {n_bytes} | "
            f"{x.instructions} | {x.predicted} |"
        )
    return "\n".join(head + rows)


def figures() -> dict[str, Any]:
    """Spills of all kernels everywhere; the least tensor-core share of the 8-limb products."""
    shares = {}
    for file in ("limb_gemm", "limb_conv"):
        codes = [disassemble(kernels.compiled(file, name)) for name in ("sm_80", "sm_90")]
        shares[file[5:]] = min(code[f"{file}_l8"].tensor_share for code in codes)
    spilled = sum(
        found.spill_bytes
        for file in kernels.files()
        for architecture in kernels.ARCHITECTURES
        for found in kernels.compiled(file, architecture).resources().values()
    )
    named = {f"{kind}_tensor_share": share for kind, share in shares.items()}
    return row(spill_bytes=spilled, n_kernels=len(kernels.catalogue()), **named)


def written() -> str:
    """What the document holds between its marks."""
    return DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip()


def main(arguments: list[str]) -> int:
    """Print the table, or write it into the document."""
    parser = command_line("kernel_table", "The table of kernels; with --json, the gates' figures.")
    parser.add_argument("--write", action="store_true", help="into docs/kernels.md")
    chosen = parser.parse_args(arguments)
    if chosen.json:
        show(figures(), True)
    elif chosen.write:
        before, rest = DOCUMENT.read_text().split(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")
    else:
        print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
