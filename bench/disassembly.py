"""Machine code of the kernels as instructions and loops, by nvdisasm (extra [kernels])."""

import dataclasses
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from gpumpc.errors import MissingExtra
from gpumpc.ring import kernels

_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TENSOR = ("IMMA", "HMMA", "DMMA", "QMMA")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """Opcode with its suffixes, and the label it may jump to."""

    opcode: str
    target: str


@dataclasses.dataclass(frozen=True)
class Code:
    """One kernel: its instructions, and where labels stand among them."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    def loops(self) -> list[tuple[Instruction, ...]]:
        """Bodies of the loops: from a label to a jump back to it."""
        found = []
        for i, instruction in enumerate(self.instructions):
            start = self.labels.get(instruction.target, i + 1)
            if instruction.opcode.startswith("BRA") and start < i:
                found.append(self.instructions[start : i + 1])
        return found

    def hot_loop(self) -> tuple[Instruction, ...]:
        """The shortest loop with the most tensor-core instructions; without loops, all code."""
        return max(
            self.loops(), key=lambda body: (n_tensor(body), -len(body)), default=self.instructions
        )

    @property
    def tensor_share(self) -> float:
        """Tensor-core instructions of the hot loop's instructions."""
        body = [i for i in self.hot_loop() if not i.opcode.startswith("NOP")]
        return n_tensor(tuple(body)) / len(body)

    def count(self, *opcodes: str) -> int:
        """Instructions that begin with one of these names."""
        return sum(i.opcode.startswith(opcodes) for i in self.instructions)


def n_tensor(body: tuple[Instruction, ...]) -> int:
    """Tensor-core instructions."""
    return sum(i.opcode.startswith(_TENSOR) for i in body)


def nvdisasm() -> str:
    """The program's path. Raises MissingExtra."""
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or [] if spec else []:
        for path in sorted(Path(place).glob("*/bin/nvdisasm")):
            return str(path)
    if found := shutil.which("nvdisasm"):
        return found
    raise MissingExtra(
        "machine code cannot be read", "nvdisasm is not installed", "pip install 'gpumpc[kernels]'"
    )


def disassemble(cubin: kernels.Cubin) -> dict[str, Code]:
    """Every kernel of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin.code)
        file.flush()
        done = subprocess.run(
            [nvdisasm(), "-c", file.name], capture_output=True, text=True, check=True
        )
    parts = re.split(r"^\.text\.(\w+):$", done.stdout, flags=re.MULTILINE)
    return {name: _parse(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _parse(text: str) -> Code:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith("//-----"):
            break  # the next section
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _LINE.match(line):
            target = re.search(r"`\((\.L_x_\d+)\)", found[3])
            instructions.append(Instruction(found[2], target[1] if target else ""))
    return Code(tuple(instructions), labels)
