"""The README's Python and commands run on three real processes; the rest is parsed."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

import gpumpc
from gpumpc.cli.main import app
from gpumpc.deploy.config import load_client, load_dealer, load_server
from gpumpc.deploy.keys import Role, keygen
from gpumpc.media.png import png

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(kind: str, text: str = README) -> list[str]:
    """The code blocks of one kind; those of commands have none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for of, block in found if of == kind]


COMMANDS: Any = typer.main.get_command(app)  # typer's own copy of click has no public types
# Commands of the README that are only parsed: they need packages from the network, addresses of
# other machines, or a network that takes long to compile.
PARSED = re.compile(r"gpumpc (data|compile|server|dealer) |.* client\.toml")


def lines_of(heading: str) -> list[str]:
    """The command lines of the blocks below a heading, without comments."""
    text = README[README.index(f"\n## {heading}\n") + 4 :].split("\n## ")[0]
    return [line for block in blocks("", text) for line in block.splitlines() if line]


def words_of(line: str, environment: dict[str, str]) -> list[str]:
    """A command's words after `gpumpc`; an `export` is remembered instead."""
    for name, value in environment.items():
        line = line.replace(f"${name}", value)
    first, *words = shlex.split(line, comments=True)
    if first == "export":
        name, _, value = words[0].partition("=")
        environment[name] = value
        return []
    return words if first == "gpumpc" else []


def parse(words: list[str]) -> None:
    """Raises KeyError for an unknown command, UsageError for an unknown option or a bad value."""
    command, rest = COMMANDS, [*words]
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context(words[0], rest)


def run(words: list[str], folder: Path) -> subprocess.Popen[str]:
    more = {"PYTHONPATH": str(ROOT), "GPUMPC_BACKEND": "numpy", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", "gpumpc", *words],
        cwd=folder,
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def terminal(folder: Path) -> Iterator[Any]:
    """Runs command lines in a folder; `gpumpc up` goes on until the end."""
    running: list[subprocess.Popen[str]] = []
    environment: dict[str, str] = {}

    def enter(line: str) -> str:
        words = words_of(line, environment)
        if not words or PARSED.match(line):
            return ""
        if words[0] == "up":
            running.append(run([*words, "--pool", "16MiB"], folder))  # the pool fills the disk
            wait_ready(folder)
            return ""
        process = run(words, folder)
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 0, (line, text)
        return text

    try:
        yield enter
    finally:
        for process in running:
            process.terminate()
            process.communicate(timeout=20)


def run_python(text: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a program with these names; the names at its end."""
    Path("program.py").write_text(text)
    return runpy.run_path("program.py", names)


def wait_ready(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        asked = run(["doctor", "--config", "out/local/client.toml"], folder)
        text, _ = asked.communicate(timeout=30)
        if asked.returncode == 0:
            return
        time.sleep(0.2)
    raise TimeoutError(text)


def test_readme_programs_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    alone, connected = blocks("python")
    names = run_python(alone, {})
    assert capsys.readouterr().out == "[ 7.5 -2.5]\n"
    clear, on_shares = names["plan"].evaluate(names["x"]), names["y"]
    assert on_shares.shape == (2, 16) and np.abs(on_shares - clear).max() < 0.01
    with terminal(tmp_path) as enter:
        for line in lines_of("From Python"):
            enter(line)
        names = run_python(connected, names)
    expected = names["plan"].evaluate(names["images"])
    assert np.abs(names["features"] - expected).max() < 0.01
    logits = names["features"] @ names["weight"] + names["bias"]
    sure = np.abs(logits[:, 0] - logits[:, 1]) > 0.01
    classes = np.array(("healthy", "suspect"))[logits.argmax(axis=1)]
    assert sure.sum() > 6 and (np.array(names["labels"])[sure] == classes[sure]).all()
    assert [ids[0] for ids in names["ids"]] == names["items"][:3]
    assert names["scores"].shape == (3, 5) and np.abs(names["scores"][:, 0] - 1).max() < 0.01


def test_readme_folder_becomes_a_private_search(tmp_path: Path) -> None:
    """With a small network and small pictures in place of Lite0 and modality-6."""
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)).eval()
    recipe = {"size": (4, 4), "mean": (127.0,), "std": (128.0,)}
    plan = gpumpc.compile(network, torch.zeros(1, 1, 4, 4), preprocessing=recipe)
    plan.save(tmp_path / "plan")
    rng = np.random.default_rng(2)
    asked = "images/test/histology/0000.png"
    for name in (*(f"images/train/{i}.png" for i in range(6)), asked):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(rng.uniform(0, 1, (4, 4))))
    shutil.copy(tmp_path / asked, tmp_path / "images/train/same.png")
    with terminal(tmp_path) as enter:
        texts = [enter(line) for line in lines_of("From a folder of images to a private search")]
    assert re.search(r"│ 1 +│ (1|0\.99)\S* +│ \S*same\.png", texts[-1]), texts[-1]


def test_readme_commands_parse() -> None:
    environment: dict[str, str] = {}
    lines = [line for block in blocks("") for line in block.splitlines()]
    written = [words_of(line, environment) for line in lines if re.match("gpumpc |export ", line)]
    commands = [words for words in written if words]
    assert len(commands) > 20
    for words in commands:
        parse(words)
    with pytest.raises(Exception, match="No such option"):
        parse(["search", "a.png", "--index", "archive", "--config", "c", "--plan", "p", "--near"])
    with pytest.raises(KeyError, match="forget"):
        parse(["index", "forget", "archive"])


def named(text: str) -> tuple[list[str], list[str]]:
    """The commands that a text like `index add|info [--all]` names, and its options."""
    first, *rest = [word for word in re.split(r"[\s\[\]]+", text.replace("\\|", "|")) if word]
    options = [word for word in rest if word.startswith("--")]
    if hasattr(COMMANDS.commands[first], "commands"):
        return [f"{first} {verb}" for verb in rest[0].split("|")], options
    return [first], options


def test_readme_names_only_commands_and_options_that_exist() -> None:
    inline = re.findall(r"`gpumpc ([^`]+)`", README)
    rows = re.findall(r"^\| `([^`]+)` \|", README.split("\n## Commands\n")[1], re.MULTILINE)
    seen = set()
    for text in inline + rows:
        commands, options = named(text)
        for path in commands:
            command: Any = COMMANDS
            for word in path.split():
                command = command.commands[word]
            known = {name for parameter in command.params for name in parameter.opts}
            assert {*options} <= known, text
        if text in rows:
            seen |= {*commands}
    every = {
        f"{name} {verb}".strip()
        for name, command in COMMANDS.commands.items()
        for verb in getattr(command, "commands", [""])
    }
    assert seen == every


LOADERS = {"server": load_server, "dealer": load_dealer, "client": load_client}
ROLES: tuple[Role, ...] = ("server0", "server1", "dealer", "owner", "user")


def test_readme_configurations_load(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    for role in ROLES:
        keygen(tmp_path / role, role, role)
        shutil.copy(tmp_path / role / "card.toml", tmp_path / "cards" / f"{role}.toml")
    loaded: dict[str, Any] = {}
    for text in blocks("toml"):
        name = text.split()[1].rstrip(",")
        (tmp_path / name).write_text(text)
        loaded[name] = LOADERS[name.split(".")[0].rstrip("01")](tmp_path / name)
    assert [*loaded] == ["server0.toml", "server1.toml", "dealer.toml", "client.toml"]
    first, second, dealer, client = loaded.values()
    assert (first.party, second.party) == (0, 1)
    assert first.peer_listen == second.peer_connect and first.peer_bulk == second.peer_bulk
    assert first.batch_size == second.batch_size == dealer.batch_size
    assert first.in_flight == second.in_flight and second.dealer_bulk == dealer.dealer_bulk
    assert dealer.server_endpoints == client.server_endpoints == (first.listen, second.listen)
