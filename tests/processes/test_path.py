"""The whole path through three processes, none of which can import torch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpumpc.deploy.config import load_client
from tests.plans import secure
from tests.processes.cluster import NO_TORCH, ROOT, Cluster, close, images, law


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster.make(tmp_path_factory.mktemp("path"))
    cluster.backend = ""
    with cluster:
        yield cluster


@pytest.mark.parametrize("n", [1, 2, 5])
def test_result_matches_fixed_mode_and_one_process(cluster: Cluster, n: int) -> None:
    x = images(n)
    with cluster.ready() as client:
        shared = client.share(x)
        seen: list[tuple[int, int]] = []
        result = client.run(shared, lambda done, of: seen.append((done, of))).reveal()
        again = client.run(shared).reveal()
    assert result.shape == (n, 3)
    assert close(cluster.compiled, x, result) and close(cluster.compiled, x, again)
    assert (np.abs(result - secure(cluster.compiled, x, 2)) <= 2 * law(cluster.compiled)).all()
    assert seen[-1] == (-(-n // 2), -(-n // 2))


def test_weights_can_be_shared_again(cluster: Cluster) -> None:
    with cluster.ready() as client:
        before = client.plan_status()[0]
        client.share_weights(cluster.compiled.weights)
        after = client.plan_status()[0]
    assert before.weight_sharing_id != after.weight_sharing_id and before.session != after.session
    assert cluster.serves()


def python_without_torch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(NO_TORCH)
    environment, command = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}, [sys.executable]
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=30
    )


def test_package_imports_without_torch(cluster: Cluster, tmp_path: Path) -> None:
    code = "import gpumpc, gpumpc.cli.main, gpumpc.client.client, gpumpc.local.compile, sys\n"
    for text, rc in (("import torch", 1), (f"{code}print('torch' in sys.modules)", 0)):
        done = python_without_torch(tmp_path, "-c", text)
        assert done.returncode == rc, done.stderr
    assert done.stdout == "False\n"
    for name in ("server0", "server1", "dealer"):
        maps = Path(f"/proc/{cluster.processes[name].pid}/maps").read_text()
        assert "torch" not in maps and "numpy" in maps


def test_the_client_runs_without_torch(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.serves()
    np.save(tmp_path / "x.npy", images(3))
    options = ["--config", str(cluster.setup.client), "--plan", str(cluster.folder.parent / "plan")]

    def run(*arguments: str) -> str:
        done = python_without_torch(tmp_path, "-m", "gpumpc", *arguments, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    items = run("share", str(tmp_path / "x.npy")).split()
    run("extract", "--all", "--out", str(tmp_path / "new" / "y.npz"))
    found = np.load(tmp_path / "new" / "y.npz")
    order = [list(found["items"]).index(item) for item in items]
    assert close(cluster.compiled, images(3), found["features"][order])


def test_logs_show_no_secret(cluster: Cluster) -> None:
    assert cluster.serves()
    folder = cluster.folder
    secrets = [
        line.split('"')[1]
        for party in ("server0", "server1", "dealer", "user")
        for line in (folder / party / "secret.toml").read_text().splitlines()
    ]
    for name in ("server0", "server1", "dealer"):
        log = cluster.log(name)
        assert "agrees" in log and "ERROR" not in log and "Traceback" not in log
        assert not [secret for secret in secrets if secret in log]


def test_signal_ends_every_process_with_status_0(tmp_path: Path) -> None:
    cluster = Cluster.make(tmp_path)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGTERM)
    with cluster:
        assert cluster.serves()
        start = time.monotonic()
        for process, number in zip(cluster.processes.values(), numbers, strict=True):
            process.send_signal(number)
        assert [process.wait(8) for process in cluster.processes.values()] == [0, 0, 0]
        assert time.monotonic() - start < 5
    assert load_client(cluster.setup.client)
    states = {row[3] for party in (0, 1) for row in cluster.ledger(party)}
    assert states == {"spent"}
