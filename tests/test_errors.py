"""The tree of exceptions: as drawn, as documented, and each of them met by some test."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from gpumpc import errors

TESTS = Path(__file__).resolve().parent
CLASSES = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, Exception) and cls.__module__ == errors.__name__
}


def drawn_tree() -> dict[str, str]:
    """Each class drawn in the module's docstring, with its parent: a branch has four columns."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in str(errors.__doc__).splitlines():
        if match := re.match(r"((?:│   |    )*(?:├── |└── )?)(\w+)(?:\s|$)", line):
            depth, name = len(match.group(1)) // 4, match.group(2)
            if depth or name == "GpumpcError":
                path = [*path[:depth], name]
                parents[name] = path[depth - 1] if depth else "Exception"
    return parents


def names_in(path: Path) -> set[str]:
    """Every name and attribute that a file uses, and the words of its strings."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"\w+", node.value))
    return found


def leaves() -> set[str]:
    """Classes with no class below them; a branch is met when one of its leaves is."""
    return {name for name, cls in CLASSES.items() if not cls.__subclasses__()}


def test_class_tree_matches_the_documented_tree() -> None:
    assert drawn_tree() == {name: cls.__bases__[0].__name__ for name, cls in CLASSES.items()}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_error_class_has_a_docstring(name: str) -> None:
    assert CLASSES[name].__doc__


def test_message_names_cause_and_hint() -> None:
    text = str(errors.GpumpcError("it broke", "a stone fell.", "lift it"))
    assert text == "it broke. Cause: a stone fell. What to do: lift it."


def test_every_error_is_named_by_a_test() -> None:
    others = set(TESTS.rglob("*.py")) - {Path(__file__).resolve()}
    named = set[str]().union(*map(names_in, others))
    missing = sorted(leaves() - named)
    assert not missing, f"raised or named by no test: {', '.join(missing)}"
