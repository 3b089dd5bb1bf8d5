"""Bans that no general linter knows, each proved by a snippet that must be caught."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("gpumpc", "kernels", "models", "bench", "tests")
LINES_AT_MOST = 400


@dataclass
class Source:
    """One parsed file: the folder it belongs to, its syntax tree, and what its imported names stand
    for.
    """

    path: str
    text: str
    tree: ast.Module = field(init=False)
    aliases: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.text, self.path)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for name in node.names:
                    self.aliases[name.asname or name.name.split(".")[0]] = (
                        name.name if name.asname else name.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for name in node.names:
                    self.aliases[name.asname or name.name] = f"{node.module}.{name.name}"

    @property
    def folder(self) -> str:
        return self.path.split("/")[0]

    def dotted(self, node: ast.expr) -> str:
        """The full name of an expression, through its imports: `np.random.rand` is
        `numpy.random.rand`; else ''.
        """
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute) and (owner := self.dotted(node.value)):
            return f"{owner}.{node.attr}"
        return ""

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node, self.dotted(node.func)

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and full name of each absolute import, `from a import b` as both `a` and `a.b`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.lineno, node.module
                yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)

    def references(self) -> Iterator[tuple[int, str]]:
        """Line and full name of each import and of each name or attribute that is read."""
        yield from self.imports()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name | ast.Attribute) and (name := self.dotted(node)):
                yield node.lineno, name

    def comments(self) -> Iterator[tuple[int, str]]:
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


Findings = Iterator[tuple[int, str]]


def is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword; None when absent, `...` when it is not a constant."""
    for argument in call.keywords:
        if argument.arg == name:
            return argument.value.value if isinstance(argument.value, ast.Constant) else ...
    return None


def imported_root(source: Source, name: str) -> bool:
    """Whether a dotted name starts from an import of this file, not from a local variable of the
    same name.
    """
    root = name.split(".")[0]
    return any(target.split(".")[0] == root for target in source.aliases.values())


def randomness(source: Source) -> Findings:
    """Every mask comes from `ring.prg`: no other generator is used in the package."""
    if source.folder not in ("gpumpc", "models"):
        return
    for line, name in source.references():
        if any(is_in(name, module) for module in ("random", "numpy.random", "cupy.random")):
            if imported_root(source, name):
                yield line, f"{name}: randomness comes from gpumpc.ring.prg"
        elif re.match(r"torch\.rand", name) and source.folder == "gpumpc":
            yield line, f"{name}: randomness comes from gpumpc.ring.prg"
    for call, name in source.calls():
        if (
            source.folder == "models"
            and re.match(r"torch\.rand(?!om\.)", name)
            and keyword(call, "generator") is None
        ):
            yield call.lineno, f"{name} without generator=: weights are made from a named seed"


def seeded_tests(source: Source) -> Findings:
    """A test that fails must fail again: generators in tests and benchmarks have a seed."""
    if source.folder not in ("bench", "tests"):
        return
    made = {"default_rng", "Generator", "PCG64", "Philox", "SeedSequence"}
    for call, name in source.calls():
        if name.startswith("numpy.random.") and name.split(".")[2] not in made:
            yield call.lineno, f"{name}: use numpy.random.default_rng(seed)"
        elif (
            name in ("numpy.random.default_rng", "random.Random")
            and not call.args
            and not call.keywords
        ):
            yield call.lineno, f"{name} without a seed"
        elif is_in(name, "random") and name != "random.Random" and imported_root(source, name):
            yield call.lineno, f"{name}: use random.Random(seed)"


def pickles(source: Source) -> Findings:
    """Nothing that runs code found in data."""
    modules = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
    for line, name in source.imports():
        if any(is_in(name, module) for module in modules):
            yield line, f"import of {name}: data must not be able to run code"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("recv_pyobj", "send_pyobj"):
            yield node.lineno, f"{node.attr} is pickle"
    for call, name in source.calls():
        if name in ("eval", "exec", "builtins.eval", "builtins.exec"):
            yield call.lineno, f"{name} runs text"
        elif name == "torch.load" and keyword(call, "weights_only") is not True:
            yield call.lineno, "torch.load without weights_only=True is pickle"
        elif name == "numpy.load" and keyword(call, "allow_pickle") not in (None, False):
            yield call.lineno, "numpy.load with allow_pickle"


def second_copies(source: Source) -> Findings:
    """`kernels` and `models` are imported as gpumpc.kernels and gpumpc.models: top-level names load
    a second copy.
    """
    for line, name in source.imports():
        if name.split(".")[0] in ("kernels", "models"):
            yield line, f"import of {name}: write gpumpc.{name}"


def asserts(source: Source) -> Findings:
    """`python -O` removes an assert: a check of the package raises an error of gpumpc.errors."""
    if source.folder in ("gpumpc", "models", "kernels"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assert):
                yield node.lineno, "assert: raise an error of gpumpc.errors"


SECRET = re.compile(r"seed|share|secret", re.IGNORECASE)
HARMLESS = re.compile(r"(^n_)|(_(path|file|folder|dir|id|ids|name|count|bytes|shape)$)")
DESCRIPTION = {"shape", "dtype", "nbytes", "bits", "frac", "owner", "size"}
PRINTERS = re.compile(
    r"^(print|typer\.(echo|secho)|rich\.print)$|\.(print|echo|debug|info|warning|error|critical|log)$"
)


def spoken_names(node: ast.AST) -> Iterator[str]:
    """Names whose value an expression would show; lengths, shapes and the like are not the
    value.
    """
    if isinstance(node, ast.Attribute) and node.attr in DESCRIPTION:
        return
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("len", "type")
    ):
        return
    if isinstance(node, ast.Name):
        yield node.id
    if isinstance(node, ast.Attribute):
        yield node.attr
    for child in ast.iter_child_nodes(node):
        yield from spoken_names(child)


def printed_secrets(source: Source) -> Findings:
    """Seeds, shares and secrets are not shown, in no log either."""
    if source.folder not in ("gpumpc", "models"):
        return
    for call, _name in source.calls():
        shown = ast.unparse(call.func)
        if not PRINTERS.search(source.dotted(call.func) or shown):
            continue
        for argument in [*call.args, *(k.value for k in call.keywords)]:
            for name in spoken_names(argument):
                if SECRET.search(name) and not HARMLESS.search(name):
                    yield call.lineno, f"{shown} shows '{name}'"


def long_files(source: Source) -> Findings:
    """A file that one can read in one sitting."""
    lines = source.text.count("\n")
    if source.folder in ("gpumpc", "models", "kernels") and lines > LINES_AT_MOST:
        yield lines, f"{lines} lines; at most {LINES_AT_MOST}: make it a folder of the same name"


def unfinished(source: Source) -> Findings:
    """What is on main is finished."""
    if source.folder not in ("gpumpc", "models", "kernels"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield (
                node.lineno,
                "NotImplementedError: build it, or refuse with an error of gpumpc.errors",
            )
        elif isinstance(node, ast.Constant) and re.search(r"\b(TODO|FIXME)\b", str(node.value)):
            yield node.lineno, "TODO or FIXME"
    for line, comment in source.comments():
        if re.search(r"\b(TODO|FIXME|XXX)\b", comment):
            yield line, "TODO or FIXME"


REASON = re.compile(
    r"(:\s*[A-Z]+[0-9]+(,\s*[A-Z]+[0-9]+)*(?![0-9,])|\[[a-z, -]+\])?"  # the rules
    r"\s*(#|--|-|—|\()?\s*[a-z]{2}"  # and a word at least
)


def bare_ignores(source: Source) -> Findings:
    """Each ignored finding of a linter has its rule and its reason beside it."""
    for line, comment in source.comments():
        for mark in re.finditer(r"#\s*(noqa|type:\s*ignore|pragma: no cover)", comment):
            rest = comment[mark.end() :]
            if not REASON.match(rest):
                yield line, f"{mark.group(0)!r} without a reason beside it"


Rule = Callable[[Source], Findings]

# Each rule with snippets it must catch and snippets it must let pass, as (folder, text).
CAUGHT: list[tuple[Rule, str, str]] = [
    (randomness, "gpumpc", "import random\n"),
    (randomness, "gpumpc", "from random import randrange\n"),
    (randomness, "gpumpc", "import numpy as np\nx = np.random.rand(3)\n"),
    (randomness, "gpumpc", "from numpy.random import default_rng\n"),
    (randomness, "gpumpc", "from numpy import random as r\n"),
    (randomness, "gpumpc", "import cupy\nx = cupy.random.rand(3)\n"),
    (randomness, "gpumpc", "import torch\nx = torch.randn(3)\n"),
    (randomness, "gpumpc", "import torch as t\nx = t.rand_like(y)\n"),
    (randomness, "gpumpc", "def f():\n    import numpy\n    return numpy.random.default_rng(1)\n"),
    (randomness, "models", "import torch\nx = torch.randn(3)\n"),
    (randomness, "models", "import random\n"),
    (seeded_tests, "tests", "import numpy as np\nnp.random.rand(3)\n"),
    (seeded_tests, "tests", "import numpy as np\nnp.random.default_rng()\n"),
    (seeded_tests, "bench", "import random\nrandom.random()\n"),
    (pickles, "gpumpc", "import pickle\n"),
    (pickles, "tests", "from pickle import loads\n"),
    (pickles, "bench", "import joblib\n"),
    (pickles, "gpumpc", "socket.recv_pyobj()\n"),
    (pickles, "gpumpc", "socket.send_pyobj(x)\n"),
    (pickles, "gpumpc", "eval('1')\n"),
    (pickles, "tests", "exec('x = 1')\n"),
    (pickles, "gpumpc", "import torch\ntorch.load(path)\n"),
    (pickles, "gpumpc", "from torch import load\nload(path, weights_only=False)\n"),
    (pickles, "gpumpc", "import torch\ntorch.load(path, weights_only=flag)\n"),
    (pickles, "gpumpc", "import numpy as np\nnp.load(path, allow_pickle=True)\n"),
    (second_copies, "tests", "import kernels\n"),
    (second_copies, "gpumpc", "from models.lenet import LeNet\n"),
    (second_copies, "bench", "import models.lenet as lenet\n"),
    (asserts, "gpumpc", "def f(x):\n    assert x > 0\n"),
    (printed_secrets, "gpumpc", "print(seed)\n"),
    (printed_secrets, "gpumpc", "print(f'the share is {self.share0:x}')\n"),
    (printed_secrets, "gpumpc", "log.info('%s', party.secret_key)\n"),
    (printed_secrets, "gpumpc", "import typer\ntyper.echo(str(share.words))\n"),
    (long_files, "gpumpc", "x = 1\n" * (LINES_AT_MOST + 1)),
    (unfinished, "gpumpc", "raise NotImplementedError\n"),
    (unfinished, "gpumpc", "raise NotImplementedError('later')\n"),
    (unfinished, "gpumpc", "x = 1  # TODO: more\n"),
    (unfinished, "gpumpc", "def f():\n    '''FIXME.'''\n"),
    (bare_ignores, "gpumpc", "import os  # noqa\n"),
    (bare_ignores, "gpumpc", "import os  # noqa: F401\n"),
    (bare_ignores, "tests", "x = f()  # type: ignore[misc]\n"),
]
PASSED: list[tuple[Rule, str, str]] = [
    (randomness, "gpumpc", "random = 3\nprint(random)\n"),
    (randomness, "gpumpc", "import numpy as np\nx = np.asarray(3)\n"),
    (
        randomness,
        "models",
        "import torch\ng = torch.Generator().manual_seed(7)\nx = torch.randn(3, generator=g)\n",
    ),
    (
        randomness,
        "models",
        "import torch\nwith torch.random.fork_rng():\n    torch.manual_seed(7)\n",
    ),
    (randomness, "tests", "import numpy as np\nx = np.random.default_rng(7)\n"),
    (seeded_tests, "tests", "import numpy as np\nx = np.random.default_rng(7).integers(0, 9)\n"),
    (pickles, "gpumpc", "model.eval()\n"),
    (pickles, "gpumpc", "import torch\ntorch.load(path, weights_only=True)\n"),
    (pickles, "gpumpc", "import numpy as np\nnp.load(path, mmap_mode='r')\n"),
    (second_copies, "tests", "from gpumpc.models import lenet\n"),
    (second_copies, "gpumpc", "from . import models\n"),
    (asserts, "tests", "assert x\n"),
    (printed_secrets, "gpumpc", "print(share_path, len(shares), share.shape, n_shares)\n"),
    (long_files, "gpumpc", "x = 1\n" * LINES_AT_MOST),
    (unfinished, "gpumpc", "x = NotImplemented\n"),
    (bare_ignores, "gpumpc", "import os  # noqa: F401  read by the tests\n"),
    (bare_ignores, "gpumpc", "x = f()  # type: ignore[misc]  # the stub lacks it\n"),
]
RULES: list[Rule] = list(dict.fromkeys(rule for rule, _, _ in CAUGHT))


def sources() -> list[Source]:
    """Every Python file of the repository, once: the two links inside gpumpc are not followed."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    inside = [path.relative_to(ROOT).as_posix() for path in paths]
    kept = [name for name in inside if not name.startswith(("gpumpc/kernels/", "gpumpc/models/"))]
    return [Source(name, (ROOT / name).read_text()) for name in kept]


@pytest.fixture(scope="module")
def files() -> list[Source]:
    return sources()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_repository_keeps(rule: Rule, files: list[Source]) -> None:
    found = [f"{source.path}:{line}: {what}" for source in files for line, what in rule(source)]
    assert not found, "\n".join([str(rule.__doc__), *found])


@pytest.mark.parametrize(("rule", "folder", "text"), CAUGHT)
def test_is_caught(rule: Rule, folder: str, text: str) -> None:
    assert list(rule(Source(f"{folder}/snippet.py", text)))


@pytest.mark.parametrize(("rule", "folder", "text"), PASSED)
def test_passes(rule: Rule, folder: str, text: str) -> None:
    assert not list(rule(Source(f"{folder}/snippet.py", text)))


def test_walk_finds_files() -> None:
    """A lint over no files would pass for ever."""
    names = {source.path for source in sources()}
    assert {"gpumpc/errors.py", "tests/test_lint.py", "bench/figures.py"} <= names
    assert len(names) == len(sources())


def test_kernels_in_one_package() -> None:
    """The links stay relative links: a copied folder would drift from the original."""
    for name in ("kernels", "models"):
        assert (ROOT / "gpumpc" / name).readlink() == Path("..") / name
