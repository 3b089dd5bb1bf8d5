"""The auditor, the watch over resources and the judge of old states find a planted failure."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from bench.evidence import frame_record, restore, soak, strangers, tap
from bench.evidence.frame_record import SentFrame
from gpumpc.wire.frames import Kind, encode_header

IMAGE = np.random.default_rng(3).uniform(-1, 1, (4, 4, 1))
RNG = np.random.default_rng(1)


def test_auditor_finds_traces_in_a_file_or_on_the_wire() -> None:
    marks = tap.traces(IMAGE, np.array([0.1, 0.2, 0.3]), b"0123456789ab")
    noise = RNG.bytes(5000)
    assert not tap.found_traces(marks, {"a file": noise})
    for mark in marks.values():
        assert tap.found_traces(marks, {"a file": noise[:100] + mark + noise[100:]})


def test_auditor_finds_bytes_that_come_twice() -> None:
    first, second = RNG.bytes(4000), RNG.bytes(4000)
    clear = bytes(tap.CLEAR_BYTES)  # the same in every connection
    assert tap.repeated_windows([clear + first, clear + second], RNG) == 0
    again = second[:1001] + first[700 : 700 + tap.WINDOW] + second[1001:]
    assert tap.repeated_windows([clear + first, clear + again], RNG) == 1


def frame(payload: bytes, batch: int, sender: str = "server0") -> SentFrame:
    return SentFrame((sender, 1), Kind.OPENING, bytes([1] * 16), batch, payload)


def sent(payloads: list[bytes]) -> list[SentFrame]:
    """Two openings a batch."""
    return [frame(payload, i // 2) for i, payload in enumerate(payloads)]


def found(frames: list[SentFrame]) -> list[str]:
    """What the auditor finds in openings; corrections are none."""
    _, faults = tap.below_encryption(frames, 0, RNG)
    return faults


def test_auditor_finds_a_mask_that_was_used_twice() -> None:
    masked = [RNG.bytes(n) for n in (80, 40) * 3]
    assert not found(sent(masked))
    assert found(sent([*masked[:4], masked[0], masked[5]]))
    bits = np.ones(8, "<u8").tobytes()  # words of one used bit are equal by chance
    assert not found(sent([bits + payload for payload in masked]))


def test_auditor_finds_another_size_or_order_of_openings() -> None:
    masked = [RNG.bytes(n) for n in (80, 40) * 3]
    assert found(sent([*masked[:5], RNG.bytes(41)]))
    assert found(sent([*masked[:4], masked[5], masked[4]]))
    _, faults = tap.below_encryption([], 3, RNG)
    assert faults  # nothing was seen


def test_sealed_frames_are_recorded_whole(tmp_path: Path) -> None:
    payload = RNG.bytes(100)
    header = encode_header(Kind.OPENING, 100, session=bytes([7] * 16), batch_index=3)
    code = f"""
from gpumpc.wire.stream.records import HEADER_LABEL, TAG_BYTES, Sealer
sealer, header, payload = Sealer(bytes(32)), {header!r}, {payload!r}
for data, label in ((header, HEADER_LABEL), (payload[:60], header), (payload[60:], header)):
    sealer.seal_into(data, label, memoryview(bytearray(len(data) + TAG_BYTES)))
"""
    with frame_record.recording(tmp_path):
        subprocess.run([sys.executable, "-c", code], check=True)
    [one] = frame_record.recorded(tmp_path)
    assert one[1:] == (Kind.OPENING, bytes([7] * 16), 3, payload)


def test_auditor_finds_sizes_that_depend_on_images() -> None:
    sizes: tap.Sizes = {"flat": [(10, 5)] * 4, "random": [(10, 5), (10, 5), (10, 5), (33, 5)]}
    assert not tap.unequal(sizes)  # one heartbeat
    assert tap.unequal({**sizes, "flat": [(9, 5)] * 4})


def test_tap_keeps_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        wire = tap.Tap(f"tcp://127.0.0.1:{target.getsockname()[1]}", RNG)
        host, port = wire.endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), 2.0) as near:
            far, _ = target.accept()
            with far:
                near.sendall(b"there")
                assert far.recv(5) == b"there"
                far.sendall(b"back")
                assert near.recv(4) == b"back"
        wire.close()
    assert wire.n_bytes() == (5, 4) and sorted(wire.streams()) == [b"back", b"there"]


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
