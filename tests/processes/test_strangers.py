"""A stranger without a key takes neither a server's file numbers nor its memory."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpumpc.deploy.config import load_client, load_server
from tests.processes.cluster import LIMIT_S, ROOT, SLACK_S, Cluster, close, images
from tests.processes.strangers import stranger

FEW_FILES = 1024
_LIMIT = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW_FILES}, {FEW_FILES}))"
FLOOD_S = 6.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Servers that may have as few open files as a shell usually gives them."""
    cluster = Cluster.make(tmp_path_factory.mktemp("strangers"))
    cluster.faults = dict.fromkeys(("server0", "server1"), _LIMIT + "\n")
    with cluster, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        assert cluster.serves()
        yield cluster


def port_of(endpoint: str | None) -> int:
    return int(str(endpoint).rpartition(":")[2])


def open_files(cluster: Cluster, name: str) -> int:
    return len(os.listdir(f"/proc/{cluster.processes[name].pid}/fd"))


def resident_mb(cluster: Cluster, name: str) -> float:
    text = Path(f"/proc/{cluster.processes[name].pid}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def client_ports(cluster: Cluster) -> list[int]:
    return [port_of(endpoint) for endpoint in load_client(cluster.setup.client).server_endpoints]


def peer_port(cluster: Cluster) -> int:
    return port_of(load_server(cluster.setup.server0).peer_listen)


def without_server_1(cluster: Cluster) -> None:
    """Until it is started again: nothing listens for it while the servers are connected."""
    cluster.kill("server1")
    deadline = time.monotonic() + LIMIT_S + SLACK_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", peer_port(cluster))).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def alive(cluster: Cluster) -> bool:
    return all(process.poll() is None for process in cluster.processes.values())


def test_half_open_connections_do_not_end_a_server(cluster: Cluster) -> None:
    ports = [*client_ports(cluster), peer_port(cluster)]
    x, most = images(3), 0
    with cluster.ready() as client, stranger(f"flood({ports}, 2500, {FLOOD_S})") as flooding:
        shared = client.share(x)
        deadline = time.monotonic() + FLOOD_S
        while time.monotonic() < deadline:
            assert close(cluster.compiled, x, client.run(shared).reveal())
            most = max(most, *(open_files(cluster, name) for name in ("server0", "server1")))
        assert flooding.stdout is not None and int(flooding.stdout.readline()) > 5000
        client.delete(shared)
    assert alive(cluster) and cluster.serves()
    assert 64 < most < FEW_FILES  # many came, and there was always a free number


def test_server_1_restarted_in_a_flood_connects_again(cluster: Cluster) -> None:
    ports = [*client_ports(cluster), peer_port(cluster)]
    with stranger(f"flood({ports}, 2500, {FLOOD_S})") as flooding:
        time.sleep(1.0)
        cluster.kill("server1")
        cluster.start()
        assert flooding.stdout is not None and int(flooding.stdout.readline()) > 5000
    assert alive(cluster) and cluster.serves()


@pytest.mark.parametrize("of", ["clients", "peer"])
def test_claimed_gigabytes_take_little_memory(cluster: Cluster, of: str) -> None:
    port = client_ports(cluster)[0]
    assert cluster.serves()
    if of == "peer":
        port = peer_port(cluster)
        without_server_1(cluster)
    for n_bytes in (1 << 30, 80 << 20, 1 << 18):
        before = most = resident_mb(cluster, "server0")
        with stranger(f"claim({port}, 4, {n_bytes}, 2.0)") as claiming:
            while claiming.poll() is None:
                most = max(most, resident_mb(cluster, "server0"))
                time.sleep(0.02)
        assert claiming.returncode == 0 and most - before < 200
    cluster.start()
    assert alive(cluster) and cluster.serves()


def test_garbage_connections_disturb_nobody(cluster: Cluster) -> None:
    ports = [client_ports(cluster)[0], peer_port(cluster)]
    without_server_1(cluster)
    with ExitStack() as stack:
        for i in range(40):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", ports[i % 2])))
            sock.sendall(os.urandom(1 + 50 * i))
        cluster.start()
        assert cluster.serves()
    assert alive(cluster)
