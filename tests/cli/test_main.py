"""The console command: each verb, and that a person is told what went wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.schema import check_row
from gpumpc.cli.main import app
from gpumpc.local.compile import Plan
from gpumpc.version import VERSION
from tests.processes.cluster import Cluster, tiny

ROOT = Path(__file__).resolve().parents[2]
RUNNER = CliRunner()


def gpumpc(*arguments: object, rc: int = 0) -> str:
    """Run the command in this process: what it printed, both streams."""
    done = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == rc, (done.output, done.exception)
    assert not done.exception or isinstance(done.exception, SystemExit)
    return " ".join(done.output.split())


def up(folder: Path, plan: Path, *more: str) -> subprocess.Popen[str]:
    options = ["--local", "--plan", str(plan), "--folder", str(folder), "--batch-size", "2", *more]
    command = [sys.executable, "-m", "gpumpc", "up", *options]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text and int(process.parent.name) != os.getpid():
            found.append(text)
    return found


def wait_healthy(config: Path) -> str:
    """Ask `doctor` until both servers are well."""
    deadline = time.monotonic() + 20
    while True:
        if config.exists():
            done = RUNNER.invoke(app, ["doctor", "--config", str(config)])
            if done.exit_code == 0:
                return " ".join(done.output.split())
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch.export makes of a small network."""
    import torch

    from gpumpc.models.tiny import tiny as network

    path = tmp_path_factory.mktemp("model") / "small.pt2"
    torch.export.save(torch.export.export(network().eval(), (torch.zeros(1, 1, 8, 8),)), path)
    return path


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch warns of torch
def test_commands_run_the_whole_path(model: Path, tmp_path: Path) -> None:
    plan, folder, inputs, out = (tmp_path / name for name in ("plan", "local", "x.npy", "y.npz"))
    assert "plan 'small' (calibrated bounds)" in gpumpc("compile", model, "--out", plan)
    x = np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 1))
    np.save(inputs, x)
    supervisor = up(folder, plan)
    try:
        config = folder / "client.toml"
        assert "no weights yet" in wait_healthy(config)
        options = ("--config", config, "--plan", plan)
        assert gpumpc("share-weights", *options) == "weights are shared"
        items = gpumpc("share", inputs, *options).split()[-3:]
        assert all(re.fullmatch("[0-9a-f]{32}", item) for item in items)
        text = gpumpc("extract", *items, *options, "--out", out)
        assert "features (3, 3) of 3 images saved to" in text
        assert "0 of 3 images" not in gpumpc("extract", "--all", *options)
        assert "ready, next batch 2" in gpumpc("doctor", "--config", config)
        assert "OutOfRange" in _refused(folder, plan, x * 3)
        assert "BadShape" in _refused(folder, plan, x[..., 0])
        assert len(processes_of(folder)) == 4
    finally:
        supervisor.send_signal(signal.SIGINT)
        code = supervisor.wait(10)
        supervisor.communicate()
    assert code == 0 and not processes_of(folder)
    compiled = Plan.load(plan)
    ulp = 2.0**-compiled.record.params.frac_bits
    law = (1 + np.abs(compiled.weights["fc.weight"]).sum(axis=0)) * ulp
    assert list(np.load(out)["items"]) == items
    assert (np.abs(np.load(out)["features"] - compiled.evaluate(x, fixed_point=True)) <= law).all()
    assert "PeerTimeout" in gpumpc("doctor", "--config", config, rc=1)


def _refused(folder: Path, plan: Path, x: np.ndarray) -> str:
    np.save(folder / "bad.npy", x)
    options = ("--config", folder / "client.toml", "--plan", plan)
    return gpumpc("share", folder / "bad.npy", *options, rc=1)


@pytest.fixture
def set_up(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster.make(tmp_path)
    yield cluster
    cluster.stop()


def test_killed_up_leaves_no_process_behind(set_up: Cluster) -> None:
    supervisor = up(set_up.folder, set_up.folder.parent / "plan")
    wait_healthy(set_up.setup.client)
    supervisor.kill()
    supervisor.communicate()
    deadline = time.monotonic() + 10
    while processes_of(set_up.folder):
        assert time.monotonic() < deadline, processes_of(set_up.folder)
        time.sleep(0.1)


def test_up_restarts_and_stops_its_children(set_up: Cluster) -> None:
    """SIGTERM at any time leaves no process behind; a folder of another setup is refused."""
    folder, plan = set_up.folder, set_up.folder.parent / "plan"
    supervisor = up(folder, plan)
    while not processes_of(folder)[1:]:
        time.sleep(0.01)
    supervisor.send_signal(signal.SIGTERM)  # while its processes start
    assert supervisor.wait(10) == 0
    supervisor.communicate()
    assert not processes_of(folder)
    text = gpumpc("up", "--local", "--plan", plan, "--folder", folder, "--batch-size", 5, rc=1)
    assert "batches of 2" in text and "give another --folder" in text


def test_up_ends_when_one_process_ends(set_up: Cluster) -> None:
    (set_up.folder / "server1" / "secret.toml").chmod(0o644)
    supervisor = up(set_up.folder, set_up.folder.parent / "plan")
    _, said = supervisor.communicate(timeout=15)
    assert supervisor.returncode == 1
    assert "server1 ended with status 1" in said and "ExposedSecret" in said and "chmod 600" in said
    assert not processes_of(set_up.folder)


def test_keygen_writes_private_keys_once(tmp_path: Path) -> None:
    assert "card.toml" in gpumpc("keygen", tmp_path / "keys", "--role", "user", "--name", "ann")
    assert (tmp_path / "keys" / "secret.toml").stat().st_mode & 0o777 == 0o600
    assert "never overwritten" in gpumpc("keygen", tmp_path / "keys", "--role", "user", rc=1)
    text = gpumpc("keygen", tmp_path / "other", "--role", "king", rc=1)
    assert "role 'king' is not known" in text


def test_missing_and_wrong_files_are_named(set_up: Cluster, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    assert "MissingFile" in gpumpc("dealer", "--config", tmp_path / "no.toml", rc=1)
    text = gpumpc("server", "--party", 1, "--config", set_up.setup.server0, rc=1)
    assert "is of party 0" in text and "What to do: correct one of them" in text
    options = ("--config", set_up.setup.client, "--plan", tmp_path / "none")
    assert "gpumpc compile" in gpumpc("share", tmp_path / "x.npy", *options, rc=1)
    out = ("--out", plan / "new")
    assert "there is no network" in gpumpc("compile", "none", *out, rc=1)
    assert "is not known" in gpumpc("compile", "lenet", "--bounds", "guessed", *out, rc=1)
    assert "only --local" in gpumpc("up", "--plan", plan, rc=1)


def test_absent_servers_are_a_timeout(set_up: Cluster, tmp_path: Path) -> None:
    start = time.monotonic()
    options = ("--config", set_up.setup.client, "--plan", tmp_path / "plan")
    text = gpumpc("share-weights", *options, rc=1)
    assert "PeerTimeout: no server 0 at" in text and "nothing answers there" in text
    assert time.monotonic() - start < 6.5


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_load_array_refuses_files_that_are_not_arrays(tmp_path: Path, content: bytes) -> None:
    from gpumpc.cli.inputs import load_array
    from gpumpc.errors import ConfigError, MissingFile

    (tmp_path / "x.npy").write_bytes(content)
    for name, error in (("x.npy", ConfigError), ("none.npy", MissingFile), ("", ConfigError)):
        with pytest.raises(error):
            load_array(tmp_path / name)


def test_version_and_doctor_print_the_version() -> None:
    assert gpumpc("--version") == VERSION
    assert f"gpumpc {VERSION}" in gpumpc("doctor")
    assert tiny().record.name == "tiny"


def test_bench_over_a_link_names_the_link() -> None:
    """Three processes and a relay; the row says which link."""
    command = ["bench", "relu", "--n", "1000", "--net", "lan", "--json"]
    row = json.loads(RUNNER.invoke(app, command).stdout)
    check_row(row)
    assert (row["net"], row["net_round_trip_seconds"], row["n_threads"]) == ("lan", 0.0005, 1)
    assert row["seconds_online"] >= row["rounds"] * row["net_round_trip_seconds"] / 2
    assert {*row["peak_memory"]} == {"dealer_bytes", "server0_bytes", "server1_bytes"}


def test_bench_refuses_an_unknown_link() -> None:
    text = gpumpc("bench", "relu", "--n", "10", "--net", "moon", rc=1)
    assert "there is no network 'moon'" in text
