"""Bans, each proved by a snippet that must be caught: ruff's first, then our own."""

import ast
import functools
import io
import re
import subprocess
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.source_files import ROOT, Source, sources

RUFF = Path(sysconfig.get_path("scripts")) / "ruff"
Broken = dict[tuple[str, str], set[str]]
# (rule, folder, text) that ruff finds with the configuration of pyproject.toml.
FOUND_BY_RUFF = [
    ("TID251", "gpumpc", "import random\n"),
    ("TID251", "gpumpc", "from random import randrange\n"),
    ("TID251", "models", "import random\n"),
    ("TID251", "bench", "import random\nrandom.random()\n"),
    ("TID251", "gpumpc", "import cupy\nx = cupy.random.rand(3)\n"),
    ("TID251", "gpumpc", "import pickle\n"),
    ("TID251", "tests", "from pickle import loads\n"),
    ("TID251", "bench", "import joblib\n"),
    ("TID251", "gpumpc", "import torch\ntorch.load(path)\n"),
    ("TID251", "gpumpc", "from torch import load\nload(path, weights_only=False)\n"),
    ("TID251", "gpumpc", "import torch\ntorch.load(path, weights_only=flag)\n"),
    ("TID251", "tests", "import kernels\n"),
    ("TID251", "gpumpc", "from models.lenet import LeNet\n"),
    ("TID251", "bench", "import models.lenet as lenet\n"),
    ("NPY002", "tests", "import numpy as np\nnp.random.rand(3)\n"),
    ("S101", "gpumpc", "def f(x):\n    assert x > 0\n"),
    ("S101", "kernels", "assert x\n"),
    ("S102", "tests", "exec('x = 1')\n"),
    ("S307", "gpumpc", "eval('1')\n"),
    ("FIX002", "gpumpc", "x = 1  # TODO: more\n"),
    ("FIX001", "tests", "x = 1  # FIXME\n"),
    ("PGH004", "gpumpc", "import os  # noqa\n"),
    ("PGH003", "tests", "x = f()  # type: ignore\n"),
    ("D103", "gpumpc", '"""A module."""\n\n\ndef f():\n    return 1\n'),
]
PASSED_BY_RUFF = [
    ("tests", "assert x\n"),
    ("gpumpc", "random = 3\nprint(random)\n"),
    ("gpumpc", "model.eval()\n"),
    ("tests", "from gpumpc.models import lenet\n"),
    ("gpumpc", "from . import models\n"),
    ("tests", "import numpy as np\nx = np.random.default_rng(7).integers(0, 9)\n"),
]


@pytest.fixture(scope="module")
def broken_rules(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """The rules that each snippet breaks, by its folder and text."""
    root = tmp_path_factory.mktemp("snippets")
    snippets = [snippet for _, *snippet in FOUND_BY_RUFF] + [[*both] for both in PASSED_BY_RUFF]
    for i, (folder, text) in enumerate(snippets):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"snippet{i}.py").write_text(text)
    command = [str(RUFF), "check", "--no-cache", "--output-format=concise", "--config"]
    done = subprocess.run(
        [*command, str(ROOT / "pyproject.toml"), "."], cwd=root, capture_output=True, text=True
    )
    found: Broken = {(folder, text): set() for folder, text in snippets}
    for i, rule in re.findall(r"snippet(\d+)\.py:\d+:\d+: ([A-Z]+\d+)", done.stdout):
        folder, text = snippets[int(i)]
        found[folder, text].add(rule)
    return found


@pytest.mark.parametrize(("rule", "folder", "text"), FOUND_BY_RUFF)
def test_ruff_finds(broken_rules: Broken, rule: str, folder: str, text: str) -> None:
    assert rule in broken_rules[folder, text]


@pytest.mark.parametrize(("folder", "text"), PASSED_BY_RUFF)
def test_ruff_passes(broken_rules: Broken, folder: str, text: str) -> None:
    bans = {rule for rule, *_ in FOUND_BY_RUFF} - {"D103"}
    assert not broken_rules[folder, text] & bans


def aliases(source: Source) -> dict[str, str]:
    """What the imported names of a file stand for."""
    found: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                first = name.name.split(".")[0]
                found[name.asname or first] = name.name if name.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                found[name.asname or name.name] = f"{node.module}.{name.name}"
    return found


def dotted(node: ast.expr, known: dict[str, str]) -> str:
    """An expression's full name through its imports (`np.rint` -> `numpy.rint`), or ''."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value, known)):
        return f"{owner}.{node.attr}"
    return ""


@functools.cache
def calls(source: Source) -> list[tuple[ast.Call, str]]:
    """Every call with the full name of what it calls."""
    known = aliases(source)
    nodes = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    return [(node, dotted(node.func, known)) for node in nodes]


def references(source: Source) -> Iterator[tuple[int, str]]:
    """Line and full name of each import and of each name or attribute that is read."""
    for line, module, name in source.imports():
        yield line, f"{module}.{name}" if name else module
    known = aliases(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute) and (full := dotted(node, known)):
            yield node.lineno, full


def comments(source: Source) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


Findings = Iterator[tuple[int, str]]


def keyword(call: ast.Call, name: str) -> object:
    """The constant given for a keyword; None when absent, `...` when it is not a constant."""
    for argument in call.keywords:
        if argument.arg == name:
            return argument.value.value if isinstance(argument.value, ast.Constant) else ...
    return None


def randomness(source: Source) -> Findings:
    """Every mask comes from `ring.prg`: no other generator is used in the package."""
    if source.folder not in ("gpumpc", "models"):
        return
    for line, name in references(source):
        of_torch = name.startswith("torch.rand") and source.folder == "gpumpc"
        if of_torch or f"{name}.".startswith("numpy.random."):
            yield line, f"{name}: randomness comes from gpumpc.ring.prg"
    for call, name in calls(source):
        drawn = re.match(r"torch\.rand(?!om\.)", name)
        if source.folder == "models" and drawn and keyword(call, "generator") is None:
            yield call.lineno, f"{name} without generator=: weights are made from a named seed"


def seeded_tests(source: Source) -> Findings:
    """A test that fails must fail again: generators in tests and benchmarks have a seed."""
    if source.folder not in ("bench", "tests"):
        return
    for call, name in calls(source):
        if name == "numpy.random.default_rng" and not call.args and not call.keywords:
            yield call.lineno, f"{name} without a seed"


def pickles(source: Source) -> Findings:
    """Data must not be able to run code; ruff bans the modules."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in ("recv_pyobj", "send_pyobj"):
            yield node.lineno, f"{node.attr} is pickle"
    for call, name in calls(source):
        if name == "numpy.load" and keyword(call, "allow_pickle") not in (None, False):
            yield call.lineno, "numpy.load with allow_pickle"


SECRET = re.compile(r"seed|share|secret", re.IGNORECASE)
HARMLESS = re.compile(r"(^n_)|(_(path|file|folder|dir|id|ids|name|count|bytes|shape)$)")
DESCRIPTION = {"shape", "dtype", "nbytes", "bits", "frac", "owner", "size"}
PRINTERS = re.compile(
    r"^(print|typer\.(echo|secho)|rich\.print)$|\.(print|echo|debug|info|warning|error|critical|log)$"
)


def spoken_names(node: ast.AST) -> Iterator[str]:
    """Names whose value an expression would show; a length or a shape is not the value."""
    if isinstance(node, ast.Attribute) and node.attr in DESCRIPTION:
        return
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Name) and function.id in ("len", "type"):
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
    for call, name in calls(source):
        shown = ast.unparse(call.func)
        if not PRINTERS.search(name or shown):
            continue
        for argument in [*call.args, *(k.value for k in call.keywords)]:
            for spoken in spoken_names(argument):
                if SECRET.search(spoken) and not HARMLESS.search(spoken):
                    yield call.lineno, f"{shown} shows '{spoken}'"


def unfinished(source: Source) -> Findings:
    """The main branch holds finished work."""
    if source.folder not in ("gpumpc", "models", "kernels"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield node.lineno, "NotImplementedError: raise an error of gpumpc.errors"
        elif isinstance(node, ast.Constant) and re.search(r"\b(TODO|FIXME)\b", str(node.value)):
            yield node.lineno, "TODO or FIXME"
    for line, comment in comments(source):
        if re.search(r"\b(TODO|FIXME|XXX)\b", comment):
            yield line, "TODO or FIXME"


REASON = re.compile(
    r"(:\s*[A-Z]+[0-9]+(,\s*[A-Z]+[0-9]+)*(?![0-9,])|\[[a-z, -]+\])?"  # the rules
    r"\s*(#|--|-|—|\()?\s*[a-z] ?[a-z]"  # and a word at least
)


def bare_ignores(source: Source) -> Findings:
    """Each ignored finding of a linter has its rule and its reason in the same comment."""
    for line, comment in comments(source):
        for mark in re.finditer(r"#\s*(noqa|type:\s*ignore|pragma: no cover)", comment):
            rest = comment[mark.end() :]
            if not REASON.match(rest):
                yield line, f"{mark.group(0)!r} without a reason"


Rule = Callable[[Source], Findings]

# Each rule with snippets it must find and snippets it must let pass, as (folder, text).
FOUND: list[tuple[Rule, str, str]] = [
    (randomness, "gpumpc", "import numpy as np\nx = np.random.rand(3)\n"),
    (randomness, "gpumpc", "from numpy.random import default_rng\n"),
    (randomness, "gpumpc", "from numpy import random as r\n"),
    (randomness, "gpumpc", "import torch\nx = torch.randn(3)\n"),
    (randomness, "gpumpc", "import torch as t\nx = t.rand_like(y)\n"),
    (randomness, "gpumpc", "def f():\n    import numpy\n    return numpy.random.default_rng(1)\n"),
    (randomness, "models", "import torch\nx = torch.randn(3)\n"),
    (seeded_tests, "tests", "import numpy as np\nnp.random.default_rng()\n"),
    (pickles, "gpumpc", "socket.recv_pyobj()\n"),
    (pickles, "gpumpc", "socket.send_pyobj(x)\n"),
    (pickles, "gpumpc", "import numpy as np\nnp.load(path, allow_pickle=True)\n"),
    (printed_secrets, "gpumpc", "print(seed)\n"),
    (printed_secrets, "gpumpc", "print(f'the share is {self.share0:x}')\n"),
    (printed_secrets, "gpumpc", "log.info('%s', party.secret_key)\n"),
    (printed_secrets, "gpumpc", "import typer\ntyper.echo(str(share.words))\n"),
    (unfinished, "gpumpc", "raise NotImplementedError\n"),
    (unfinished, "gpumpc", "raise NotImplementedError('later')\n"),
    (unfinished, "gpumpc", "x = 1  # more: see the TODO list\n"),
    (unfinished, "gpumpc", "def f():\n    '''FIXME.'''\n"),
    (bare_ignores, "gpumpc", "import os  # noqa\n"),
    (bare_ignores, "gpumpc", "import os  # noqa: F401\n"),
    (bare_ignores, "tests", "x = f()  # type: ignore[misc]\n"),
]
SEEDED = "import torch\ng = torch.Generator().manual_seed(7)\nx = torch.randn(3, generator=g)\n"
PASSED: list[tuple[Rule, str, str]] = [
    (randomness, "gpumpc", "import numpy as np\nx = np.asarray(3)\n"),
    (randomness, "models", SEEDED),
    (randomness, "models", "import torch\nwith torch.random.fork_rng():\n    pass\n"),
    (randomness, "tests", "import numpy as np\nx = np.random.default_rng(7)\n"),
    (seeded_tests, "tests", "import numpy as np\nx = np.random.default_rng(7).integers(0, 9)\n"),
    (pickles, "gpumpc", "import numpy as np\nnp.load(path, mmap_mode='r')\n"),
    (printed_secrets, "gpumpc", "print(share_path, len(shares), share.shape, n_shares)\n"),
    (unfinished, "gpumpc", "x = NotImplemented\n"),
    (bare_ignores, "gpumpc", "import os  # noqa: F401  read by the tests\n"),
    (bare_ignores, "gpumpc", "x = f()  # type: ignore[misc]  # the stub lacks it\n"),
]
RULES: list[Rule] = list(dict.fromkeys(rule for rule, _, _ in FOUND))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_repository_follows_the_rule(rule: Rule) -> None:
    found = [f"{source.path}:{line}: {what}" for source in sources() for line, what in rule(source)]
    assert not found, "\n".join([str(rule.__doc__), *found])


@pytest.mark.parametrize(("rule", "folder", "text"), FOUND)
def test_rule_finds(rule: Rule, folder: str, text: str) -> None:
    assert list(rule(Source(f"{folder}/snippet.py", text)))


@pytest.mark.parametrize(("rule", "folder", "text"), PASSED)
def test_rule_passes(rule: Rule, folder: str, text: str) -> None:
    assert not list(rule(Source(f"{folder}/snippet.py", text)))


def test_lint_reads_the_source_files() -> None:
    """A lint over no files would pass for ever."""
    paths = [source.path for source in sources()]
    assert {"gpumpc/errors.py", "tests/test_lint.py", "bench/figures.py"} <= {*paths}
    assert len({*paths}) == len(paths)


def test_kernels_and_models_are_relative_links() -> None:
    """The links stay relative links: a copied folder would drift from the original."""
    for name in ("kernels", "models"):
        assert (ROOT / "gpumpc" / name).readlink() == Path("..") / name
