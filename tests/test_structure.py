"""The structure of the repository: imports without circles, and limits of size.

Which package may import which other one is checked by `lint-imports` (setup.cfg).
"""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch

from tests.conftest import KINDS
from tests.source_files import Source, sources

FILE_LINES, PACKAGE_LINES = 400, 1700
SAME_NAMES = 8
CONSTRUCTOR_ARGUMENTS, FUNCTION_ARGUMENTS = 6, 7
UNNAMED = ("__init__", "__main__", "conftest")


def imports_of(files: tuple[Source, ...]) -> dict[str, set[str]]:
    """The modules that each module imports. An import of a submodule does not count as one of its
    package; a name that a package re-exports does.
    """
    known = {source.module for source in files}
    graph: dict[str, set[str]] = {}
    for source in files:
        named = (
            submodule if (submodule := f"{module}.{name}") in known else module
            for _, module, name in source.imports()
        )
        graph[source.module] = {module for module in named if module in known} - {source.module}
    return graph


def circular(graph: dict[str, set[str]]) -> set[str]:
    """The modules that reach themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            module = ahead.pop()
            if module not in seen:
                seen.add(module)
                ahead.extend(graph[module])
        return seen

    return {module for module in graph if module in reached(module)}


def test_no_module_imports_itself_in_a_circle() -> None:
    assert not circular(imports_of(sources()))


def test_circle_is_found_wherever_the_import_stands() -> None:
    first = Source("bench/a.py", "def f():\n    from bench import b\n")
    checking = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bench.a import f\n"
    second, third = Source("bench/b.py", checking), Source("bench/c.py", "import bench.a\n")
    assert circular(imports_of((first, second, third))) == {"bench.a", "bench.b"}


def test_circle_through_a_package_is_found() -> None:
    package = Source("gpumpc/wire/__init__.py", "from .channel import Channel\n")
    channel = Source("gpumpc/wire/channel.py", "from gpumpc.wire import frames\n")
    frames = Source("gpumpc/wire/frames.py", "")
    assert not circular(imports_of((package, channel, frames)))
    channel = Source("gpumpc/wire/channel.py", "from gpumpc.wire import MAX_BYTES\n")
    found = circular(imports_of((package, channel, frames)))
    assert found == {"gpumpc.wire", "gpumpc.wire.channel"}


def test_product_does_not_import_tests() -> None:
    product = [source for source in sources() if source.folder in ("gpumpc", "kernels", "models")]
    assert product
    assert not [s.path for s in product if any(m.startswith("tests") for _, m, _ in s.imports())]


def test_files_are_short() -> None:
    assert not [source.path for source in sources() if source.n_lines > FILE_LINES]


def test_packages_are_small() -> None:
    lines: Counter[str] = Counter()
    for source in sources():
        lines[source.package] += source.n_lines
    assert not [n for n, c in lines.items() if n.startswith("gpumpc/") and c > PACKAGE_LINES]


def test_few_files_share_a_name() -> None:
    paths = defaultdict(list)
    for source in sources():
        if source.folder != "tests" and source.name not in UNNAMED:
            paths[source.name].append(source.path)
    pairs = sum(len(same) * (len(same) - 1) // 2 for same in paths.values())
    assert pairs <= SAME_NAMES, {name: same for name, same in paths.items() if len(same) > 1}


def is_exempt(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command's options are its arguments; kernels and backends take what their loops need."""
    is_command = source.package == "gpumpc/cli" and not function.name.startswith("_")
    return is_command or source.path.startswith("gpumpc/ring/")


def too_many_arguments(source: Source) -> Iterator[str]:
    """Constructors of more than 6 arguments and functions of more than 7, self and cls left out."""
    classes = [node for node in ast.walk(source.tree) if isinstance(node, ast.ClassDef)]
    owners = {child: f"{owner.name}." for owner in classes for child in owner.body}
    for function in ast.walk(source.tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        args = function.args
        names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
        n = len(names) - (names[:1] in (["self"], ["cls"]))
        most = CONSTRUCTOR_ARGUMENTS if function.name == "__init__" else FUNCTION_ARGUMENTS
        if n > most and not is_exempt(source, function):
            yield f"{source.path}:{owners.get(function, '')}{function.name}"


def test_functions_take_few_arguments() -> None:
    assert not [name for source in sources() for name in too_many_arguments(source)]


def test_too_many_arguments_are_found() -> None:
    seven, eight = "a, b, c, d, e, f, *, g", "a, b, c, d, e, f, *, g, h"
    methods = f"    def __init__(self, {seven}): ...\n    def m(self, {seven}): ...\n"
    text = f"class C:\n{methods}def f({eight}): ...\n"
    found = list(too_many_arguments(Source("gpumpc/x.py", text)))
    assert sorted(found) == ["gpumpc/x.py:C.__init__", "gpumpc/x.py:f"]
    in_cli = Source("gpumpc/cli/x.py", text)
    assert list(too_many_arguments(in_cli)) == ["gpumpc/cli/x.py:C.__init__"]


def test_every_kind_of_test_has_its_files() -> None:
    files = [source.path.removeprefix("tests/") for source in sources() if source.folder == "tests"]
    for kind, patterns in KINDS.items():
        for pattern in patterns:
            assert any(fnmatch(file, pattern) for file in files), (kind, pattern)
