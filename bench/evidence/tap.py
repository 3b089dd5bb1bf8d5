"""Part `tap`: an auditor who taps every link, reads every file, and holds no key.

No 32 bytes come twice, neither on the wire (a key stream that was used twice) nor in what the
servers open and the dealer sends, below the encryption: a third of the images are equal, so a mask
that was used twice would show. Sizes and order of messages do not depend on the images. No trace of
an image, of a file's name or of a feature is in any frame, any file of the servers, or any log.
"""

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.evidence.fault_proxy import FaultProxy
from bench.evidence.frame_record import (
    SentFrame,
    payloads,
    recorded,
    recording,
    unequal_batches,
)
from bench.evidence.links import lead_through
from bench.evidence.part import SEED, Counts, Finding, Part
from bench.evidence.processes import Array, Parties, item_ids, running
from gpumpc.client.client import Client
from gpumpc.wire.frames import Kind
from tests.processes.relay import CURVE_BYTES, frames

N_IMAGES = 84
BATCH = 4
QUIET_S = 0.02
# The greeting and the first command of CURVE are the same in every connection, and in the clear.
CLEAR_BYTES = 300
WINDOW = 32
# The pixels of an image, and the name of its file.
CANARY = b"canary7Kq2Zx9bTv"
# A message of CURVE that is no longer than this is a heartbeat.
_BEAT_BYTES = 23 + CURVE_BYTES
Sizes = dict[str, list[tuple[int, ...]]]


class Tap(FaultProxy):
    """Keeps every byte of every connection, by connection and direction."""

    def __init__(self, target: str, rng: np.random.Generator) -> None:
        self.taken: dict[tuple[int, int], bytearray] = {}
        self._taking = threading.Lock()
        super().__init__(target, rng)

    def heard(self, source: socket.socket, way: int, data: bytes) -> None:
        """Keep it."""
        with self._taking:
            self.taken.setdefault((id(source), way), bytearray()).extend(data)

    def n_bytes(self) -> tuple[int, int]:
        """Bytes so far, to the target and back."""
        with self._taking:
            ways = [(way, len(data)) for (_, way), data in self.taken.items()]
        forth = sum(n for way, n in ways if way == 0)
        return forth, sum(n for _, n in ways) - forth

    def streams(self) -> list[bytes]:
        """All bytes of each connection and direction."""
        with self._taking:
            return [bytes(data) for data in self.taken.values()]


def repeated_windows(
    streams: Iterable[bytes], rng: np.random.Generator, clear_bytes: int = CLEAR_BYTES
) -> int:
    """How many windows of 32 bytes come more than once, at any place of any stream.

    A window of more than 16 zero bytes does not count: words of few used bits are equal by chance.

    Args:
        clear_bytes: left out at the beginning of each.
    """
    factors = (rng.integers(0, 1 << 63, WINDOW // 8, dtype=np.uint64) << np.uint64(1)) | np.uint64(
        1
    )
    hashes = []
    for stream in streams:
        data = np.frombuffer(stream[clear_bytes:], np.uint8)
        if len(data) < WINDOW:
            continue
        words = np.lib.stride_tricks.sliding_window_view(data, 8)
        words = np.ascontiguousarray(words).view("<u8")[:, 0]
        n = len(data) - WINDOW + 1
        terms = [words[8 * i : 8 * i + n] * factor for i, factor in enumerate(factors)]
        n_zeros = np.cumsum(np.concatenate([[0], data == 0]))
        is_full = n_zeros[WINDOW:] - n_zeros[:-WINDOW] <= WINDOW // 2
        hashes.append(sum(terms[1:], terms[0])[is_full])
    if not hashes:
        return 0
    every = np.concatenate(hashes)
    return int(len(every) - len(np.unique(every)))


def traces(image: Array, feature: Array, packed: bytes) -> dict[str, bytes]:
    """Byte strings that only somebody who has the image or the feature can write."""
    return {
        "pixels as float64": image.astype("<f8").tobytes()[:24],
        "pixels as float32": image.astype("<f4").tobytes()[:16],
        "pixels as packed integers": packed[:12],
        "the feature as float64": feature.astype("<f8").tobytes()[:24],
        "the feature as float32": feature.astype("<f4").tobytes()[:12],
    }


def found_traces(marks: Mapping[str, bytes], places: Mapping[str, bytes]) -> list[str]:
    """Which traces are in which places."""
    return [
        f"{name} stand in {place}"
        for place, data in places.items()
        for name, mark in marks.items()
        if mark in data
    ]


def unequal(sizes: Sizes) -> list[str]:
    """Kinds of images whose least sizes differ; heartbeats only ever add to a size."""
    least = {kind: tuple(map(int, np.min(rows, axis=0))) for kind, rows in sizes.items()}
    return (
        [f"the bytes between the servers depend on the images: {least}"]
        if len({*least.values()}) > 1
        else []
    )


def _images(kind: str, rng: np.random.Generator) -> Array:
    shape = (BATCH, 4, 4, 1)
    if kind == "flat":
        return np.zeros(shape)
    if kind == "extreme":
        return np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    return rng.uniform(-1, 1, shape)


def _quiet(taps: Mapping[str, Tap]) -> tuple[int, ...]:
    """The bytes between the servers, when nothing has moved for a moment but what is dealt."""
    before: list[tuple[int, int]] = []
    while True:
        now = [tap.n_bytes() for name, tap in taps.items() if not name.startswith("deal")]
        if now == before:
            return tuple(n for name in ("peer", "stream") for n in taps[name].n_bytes())
        before = now
        time.sleep(QUIET_S)


def _messages(taps: Mapping[str, Tap]) -> list[list[int]]:
    """Sizes of the messages so far, by connection and direction, as CURVE shows them to anyone."""
    return [
        [size for is_command, size, _ in frames(stream) if not is_command and size > _BEAT_BYTES]
        for tap in taps.values()
        for stream in tap.streams()
    ]


def _request(client: Client, images: Array, items: list[str]) -> None:
    client.share(images, items)
    client.run(items).reveal()
    client.delete(items)


def _measured(
    client: Client, taps: dict[str, Tap], rng: np.random.Generator
) -> tuple[Sizes, set[str]]:
    """Requests for several kinds of images, in turns: bytes between the servers, and the different
    sequences of messages between the client and the servers.
    """
    ends = {name: tap for name, tap in taps.items() if name.startswith("client")}
    sizes: Sizes = {"random": [], "flat": [], "extreme": []}
    sequences = set[str]()
    for number in range(N_IMAGES // BATCH):
        kind = list(sizes)[number % len(sizes)]
        images, items = _images(kind, rng), item_ids(rng, BATCH)
        before, heard = _quiet(taps), _messages(ends)
        _request(client, images, items)
        after, now = _quiet(taps), _messages(ends)
        sizes[kind].append(tuple(b - a for a, b in zip(before, after, strict=True)))
        sequences.add(str([new[len(old) :] for old, new in zip(heard, now, strict=True)]))
    return sizes, sequences


def _packed(client: Client, image: Array) -> bytes:
    """The encoded integers of an image as a server would keep them if they were no shares."""
    value = client.program.input
    words: npt.NDArray[np.uint64] = np.round(image * 2.0**value.frac).astype("i8").view("u8")
    reduced = words.reshape(1, -1) & np.uint64((1 << value.bits) - 1)
    return bytes(client.backend.pack(client.backend.upload(reduced), value.bits))


def places(parties: Parties, taps: Mapping[str, Tap]) -> dict[str, bytes]:
    """Everything the auditor reads: files of both states, logs, and links."""
    found = {f"the log of {name}": parties.log(name).encode() for name in parties.processes}
    for party in (0, 1):
        for path in parties.state(party).rglob("*"):
            with contextlib.suppress(OSError):
                found[f"state {party}, {path.name}"] = path.read_bytes()
    for link, tap in taps.items():
        found[f"the link {link}"] = b"".join(tap.streams())
    return found


def _share_canary(parties: Parties) -> list[str]:
    """Share an image file by command: its pixels and its name are the canary. What went wrong."""
    folder = parties.setup.folder.parent / "images"
    folder.mkdir()
    pixels = np.frombuffer(CANARY, np.uint8).reshape(4, 4)
    Image.fromarray(pixels).save(folder / f"{CANARY.decode()}.png")
    command = ["share", str(folder), "--config", str(parties.setup.client)]
    done = subprocess.run(
        [sys.executable, "-m", "gpumpc", *command, "--plan", str(parties.plan)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [] if done.stdout.startswith("1 images shared") else [done.stdout + done.stderr]


def below_encryption(
    sent: list[SentFrame], n_batches: int, rng: np.random.Generator
) -> tuple[Counts, list[str]]:
    """What the auditor finds in what the servers open and the dealer sends."""
    counts, faults = dict[str, float](), list[str]()
    for kind in (Kind.OPENING, Kind.CORRECTION):
        n_compared, unequal = unequal_batches(sent, kind)
        counts[f"batches of {kind.name}"] = n_compared
        found = payloads(sent)[kind]
        n_repeated = repeated_windows([b"".join(found)], rng, 0)
        faults += unequal
        if n_repeated:
            faults.append(f"{n_repeated} windows of {WINDOW} bytes come twice in {kind.name}")
        if n_compared < n_batches:
            faults.append(f"only {n_compared} batches of {kind.name} were seen")
    return counts, faults


def one_audit(unit: int) -> Finding:
    """Requests for many images over tapped links, and what the auditor finds."""
    rng = np.random.default_rng([SEED, unit])
    taps, record = dict[str, Tap](), Path(tempfile.mkdtemp(prefix="gpumpc-evidence-"))

    def tapped(parties: Parties) -> None:
        taps.update(lead_through(parties, lambda target: Tap(target, rng)))

    with recording(record), running(BATCH, "64KiB", tapped) as parties, parties.ready() as client:
        image, [item] = rng.uniform(-1, 1, (4, 4, 1)), item_ids(rng, 1)
        client.extract(client.share(image[None], [item]))
        client.create_index("audit", "l2").add([item])
        client.open_index("audit").search([item], 1)
        marks = traces(image, client.features([item]).reveal()[0], _packed(client, image))
        faults = _share_canary(parties)
        client.extract(client.list_inputs())
        sizes, sequences = _measured(client, taps, rng)
        read = places(parties, taps)
    sent = recorded(record)
    shutil.rmtree(record)
    for kind, found in payloads(sent).items():
        read[f"{kind.name} frames"] = b"".join(found)
    streams = [stream for tap in taps.values() for stream in tap.streams()]
    n_repeated = repeated_windows(streams, rng)
    faults += found_traces({**marks, "the canary": CANARY}, read) + unequal(sizes)
    if n_repeated:
        faults.append(f"{n_repeated} windows of {WINDOW} bytes come twice on the wire")
    if len(sequences) > 1:
        faults.append(f"messages of requests differ in size or order: {sorted(sequences)[:2]}")
    counts, more = below_encryption(sent, N_IMAGES // BATCH, rng)
    for tap in taps.values():
        tap.close()
    counts |= {"images": float(N_IMAGES), "places": len(read), "frames": len(sent)}
    counts["bytes tapped"] = sum(map(len, streams))
    notes = {"least": [int(n) for n in np.min(sizes["random"], axis=0)]}
    return Finding(counts, faults + more, notes)


def run(units: Sequence[int]) -> Iterator[Finding]:
    """Fresh parties a unit."""
    for unit in units:
        yield one_audit(unit)


PART = Part("tap", f"{N_IMAGES} images over tapped links", 12, 1, run)
