"""The repository's Python files, parsed, for the tests of its structure and of its bans."""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("gpumpc", "kernels", "models", "bench", "tests")
# Two links inside gpumpc show these folders again, under the names that they are imported by.
LINKED = ("kernels", "models")


@dataclass(frozen=True)
class Source:
    """One file: its path inside the repository, and its text."""

    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def folder(self) -> str:
        """The top-level folder."""
        return self.path.split("/")[0]

    @property
    def package(self) -> str:
        """The folder that the file lies in."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The file's own name, without folder and ending."""
        return self.path.rpartition("/")[2].removesuffix(".py")

    @property
    def module(self) -> str:
        """The name that the file is imported by."""
        inside = f"gpumpc/{self.path}" if self.folder in LINKED else self.path
        return inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def n_lines(self) -> int:
        return self.text.count("\n")

    def imports(self) -> Iterator[tuple[int, str, str]]:
        """Line, module and name ("" for a module) of each import, nested ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                yield from ((node.lineno, base, alias.name) for alias in node.names)

    def _base(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module that `from` names."""
        if not node.level:
            return node.module or ""
        parts = self.module.split(".")
        kept = len(parts) - node.level + (self.name == "__init__")
        return ".".join([*parts[:kept], *([node.module] if node.module else [])])


@functools.cache
def sources() -> tuple[Source, ...]:
    """Every Python file once: the two links inside gpumpc are not followed."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    inside = [path.relative_to(ROOT).as_posix() for path in paths]
    kept = [name for name in inside if not name.startswith(("gpumpc/kernels/", "gpumpc/models/"))]
    return tuple(Source(name, (ROOT / name).read_text()) for name in kept)
