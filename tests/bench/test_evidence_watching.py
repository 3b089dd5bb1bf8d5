"""The auditor, the watch over resources and the judge of old states find a planted failure."""

import socket
import threading
import time

import numpy as np

from bench.evidence import audit, restore, soak, strangers

IMAGE = np.random.default_rng(3).uniform(-1, 1, (4, 4, 1))
RNG = np.random.default_rng(1)


def test_auditor_finds_traces_in_a_file_or_on_the_wire() -> None:
    marks = audit.traces(IMAGE, np.array([0.1, 0.2, 0.3]), b"0123456789ab")
    noise = RNG.bytes(5000)
    assert not audit.found_traces(marks, {"a file": noise})
    for mark in marks.values():
        assert audit.found_traces(marks, {"a file": noise[:100] + mark + noise[100:]})


def test_auditor_finds_bytes_that_come_twice() -> None:
    first, second = RNG.bytes(4000), RNG.bytes(4000)
    clear = bytes(audit.CLEAR_BYTES)  # the same in every connection
    assert audit.repeated_windows([clear + first, clear + second], RNG) == 0
    again = second[:1001] + first[700 : 700 + audit.WINDOW] + second[1001:]
    assert audit.repeated_windows([clear + first, clear + again], RNG) == 1


def test_auditor_finds_sizes_that_depend_on_images() -> None:
    sizes: audit.Sizes = {"flat": [(10, 5)] * 4, "random": [(10, 5), (10, 5), (10, 5), (33, 5)]}
    assert not audit.unequal(sizes)  # one heartbeat
    assert audit.unequal({**sizes, "flat": [(9, 5)] * 4})
    assert audit.unequal({**sizes, "flat": [(10, 5), (11, 5), (11, 5), (11, 5)]})


def test_tap_keeps_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        tap = audit.Tap(f"tcp://127.0.0.1:{target.getsockname()[1]}", RNG)
        host, port = tap.endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), 2.0) as near:
            far, _ = target.accept()
            with far:
                near.sendall(b"there")
                assert far.recv(5) == b"there"
                far.sendall(b"back")
                assert near.recv(4) == b"back"
        tap.close()
    assert tap.n_bytes() == (5, 4) and sorted(tap.streams()) == [b"back", b"there"]


def test_growth_of_memory_files_and_threads_is_found() -> None:
    hours = [i / 60 for i in range(10)]
    still = {"server0 memory_bytes": 1e8, "server0 files": 40.0, "server0 segments": 5.0}
    assert not soak.grown(soak.slopes([still] * 10, hours))
    for name, step in (("server0 memory_bytes", 1 << 20), ("server0 files", 1.0)):
        taken = [{**still, name: still[name] + step * i} for i in range(10)]
        assert soak.grown(soak.slopes(taken, hours))
    printed = [{**still, "server0 segments": 5.0 * i} for i in range(10)]
    assert not soak.grown(soak.slopes(printed, hours))  # what a user keeps may grow


def test_batch_number_that_goes_back_is_found() -> None:
    before = [("a", 4), ("a", 4)]
    assert restore.used_again(before, [("a", 2), ("a", 2)])
    assert restore.used_again(before, [("a", 4), ("a", 3)])
    assert not restore.used_again(before, [("a", 4), ("a", 5)])
    assert not restore.used_again(before, [("b", 0), ("b", 0)])  # another session has other pads


def test_strangers_hold_as_many_connections_as_asked() -> None:
    counted: list[int] = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as target:
        target.settimeout(0.2)

        def accept() -> None:
            ends = []
            try:
                while True:
                    ends.append(target.accept()[0])
            except TimeoutError:
                counted.append(len(ends))
            for end in ends:
                end.close()

        thread = threading.Thread(target=accept)
        thread.start()
        port = target.getsockname()[1]
        made = strangers.idle(port, RNG, time.monotonic() + 0.4, 20)
        thread.join()
    assert counted == [20] and made >= 20
