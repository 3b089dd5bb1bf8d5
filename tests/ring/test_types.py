"""A type checker tells words, lanes and operands apart, and few signatures hide from it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
from gpumpc.ring.backend import Backend, Lanes, Operand, Words
from gpumpc.session import Session, Xor
from gpumpc.shares import Additive

def use(backend: Backend, words: Words, lanes: Lanes, operand: Operand, session: Session) -> None:
"""
RIGHT = [
    "x: Words = backend.reduce(words + words * words - (words << 3), 40)[:, None].reshape(-1)",
    "y: Lanes = backend.to_planes(words, 40)[0] ^ (lanes & ~lanes)",
    "z: Words = backend.matmul(operand, backend.operand(words, 40), 40)",
    "a: Words = backend.multiply(words, operand, 40)",
    "b: Words = backend.concat([words, words], 0)",
    "c: Lanes = backend.concat([lanes, lanes], 0)",
    "d: list[Lanes] = session.open_many(Xor(lanes, 1))",
    "e: int = len(words) + words.size + operand.shape[0]",
]
WRONG = {
    "backend.reduce(lanes, 40)": 'has incompatible type "Lanes"; expected "Words"',
    "backend.pack_lanes(words)": 'has incompatible type "Words"; expected "Lanes"',
    "backend.matmul(words, operand, 40)": 'has incompatible type "Words"; expected "Operand"',
    "backend.reduce(operand, 40)": 'has incompatible type "Operand"; expected "Words"',
    "words + lanes": 'Unsupported operand types for + ("Words" and "Lanes")',
    "words & lanes": 'Unsupported operand types for & ("Words" and "Lanes")',
    "lanes + lanes": 'Unsupported left operand type for + ("Lanes")',
    "operand + operand": 'Unsupported left operand type for + ("Operand")',
    "Additive(lanes, 40)": 'has incompatible type "Lanes"; expected "Words"',
    "Xor(words, 1)": 'has incompatible type "Words"; expected "Lanes"',
    "f: Words = backend.bit(words, 0)": 'expression has type "Lanes", variable has type "Words"',
    "backend.concat([words, lanes], 0)": 'has incompatible type "Lanes"; expected "Words"',
    "session.open_many(Xor(lanes, 1))[0] + lanes": "Unsupported left operand type for +",
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Messages by line of code, from one run of the checker."""
    path = tmp_path_factory.mktemp("types") / "snippets.py"
    lines = [*RIGHT, *WRONG]
    path.write_text(HEAD + "".join(f"    {line}\n" for line in lines))
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    first = HEAD.count("\n") + 1
    found: dict[str, str] = {}
    for number, message in re.findall(r"snippets\.py:(\d+): error: (.*)", done.stdout):
        line = lines[int(number) - first]
        found[line] = found.get(line, "") + message
    return found


@pytest.mark.parametrize("line", RIGHT)
def test_right_uses_are_accepted(errors, line):
    assert line not in errors


@pytest.mark.parametrize("line", WRONG)
def test_wrong_uses_are_rejected(errors, line):
    assert line in errors and WRONG[line] in errors[line]


def test_few_signatures_are_untyped():
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--select",
        "ANN401",
        "--output-format=concise",
    ]
    command += ["gpumpc", "models", "kernels"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    untyped = re.findall(r"^(.*?):.*ANN401", done.stdout, re.MULTILINE)
    assert 0 < len(untyped) < 40
    assert sum(path.startswith("gpumpc/ring") for path in untyped) <= 12
