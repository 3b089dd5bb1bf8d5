import os
import socket
from pathlib import Path

import pytest

from bench import bench_workloads, machine, networks, suite
from bench.peers import traffic
from gpumpc.measure.workloads import BATCH


def test_suites_are_selected_by_name() -> None:
    every = ["bench_protocols", "bench_ring", "bench_workloads"]
    assert [path.stem for path in suite.files_of([])] == every
    assert [path.stem for path in suite.files_of(["ring"])] == ["bench_ring"]
    text = "no suite 'nonsense'; there are protocols, ring, workloads"
    with pytest.raises(ValueError, match=text):
        suite.files_of(["nonsense"])


def test_suite_workloads_exist_in_the_bench_command() -> None:
    assert {*bench_workloads.NAMES} < {*BATCH}
    assert {*networks.BATCH} < {*BATCH}


def test_first_run_compares_with_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--benchmark-compare" not in suite.command(["ring"], tmp_path)
    assert "nothing to compare" in capsys.readouterr().out


def test_later_run_compares_with_the_last_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "0001_x.json").touch()
    words = suite.command(["ring"], tmp_path)
    assert "--benchmark-compare" in words
    assert f"--benchmark-storage=file://{tmp_path}" in words


def test_machine_name_is_usable_as_a_folder_name() -> None:
    name = machine.machine_name()
    assert name
    assert not {*name} & {*" /\\:()"}
    found = machine.machine()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 1 << 20


def test_processor_is_read_from_the_first_entry() -> None:
    first = "processor\t: 0\nmodel name\t: Some CPU 9\nflags\t\t: fpu avx2\n"
    text = f"{first}\nprocessor\t: 1\nmodel name\t: Other\n"
    assert machine._cpu_fields(text)["model name"] == "Some CPU 9"
    assert machine._cpu_fields("") == {}


def test_floor_is_latency_plus_transfer_time() -> None:
    link = networks.floor(31, 12_500_000, 25_000_000, "wan")
    assert link["link_seconds_online"] == pytest.approx(31 * 0.02 + 1.0)
    assert link["link_seconds_dealer"] == pytest.approx(0.02 + 2.0)
    nothing = {"link_seconds_online": None, "link_seconds_dealer": None}
    assert networks.floor(31, 1, 1, "loopback") == nothing


def test_tcp_counters_count_transferred_bytes() -> None:
    # Both ends are this process: what one sends the other receives.
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as caller,
        server.accept()[0] as called,
    ):
        counter = traffic.Counter({"self": os.getpid()})
        caller.sendall(bytes(100_000))
        left = 100_000
        while left:
            left -= len(called.recv(left))
        sent, received = counter.read()["self"]
        assert sent == received == 100_000
        counter.reset()
        assert counter.read()["self"] == (0, 0)


def test_peak_memory_exceeds_one_mebibyte() -> None:
    assert traffic.peak_memory_bytes() > 1 << 20
