"""Part `audit`: an auditor who taps every link and reads every file, and holds no key.

No 32 bytes on the wire come twice (a pad or key stream that was used twice for one value would show
them), how many bytes go over each link does not depend on the images, and no trace of an image
or feature is in any file of the servers, in any log, or on the wire.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bench.evidence.fault_proxy import FaultProxy
from bench.evidence.links import lead_through
from bench.evidence.part import SEED, Finding, Part
from bench.evidence.processes import Array, Parties, item_ids, running
from gpumpc.client.client import Client

N_IMAGES = 252
BATCH = 4
QUIET_S = 0.02
# The greeting and the first command of CURVE are the same in every connection, and in the clear.
CLEAR_BYTES = 300
WINDOW = 32
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


def repeated_windows(streams: Iterable[bytes], rng: np.random.Generator) -> int:
    """How many windows of 32 bytes come more than once, at any place of any stream."""
    factors = (rng.integers(0, 1 << 63, WINDOW // 8, dtype=np.uint64) << np.uint64(1)) | np.uint64(
        1
    )
    hashes = []
    for stream in streams:
        data = np.frombuffer(stream[CLEAR_BYTES:], np.uint8)
        if len(data) < WINDOW:
            continue
        words = np.lib.stride_tricks.sliding_window_view(data, 8)
        words = np.ascontiguousarray(words).view("<u8")[:, 0]
        n = len(data) - WINDOW + 1
        terms = [words[8 * i : 8 * i + n] * factor for i, factor in enumerate(factors)]
        hashes.append(sum(terms[1:], terms[0]))
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
    """Kinds of images whose least or median sizes differ; heartbeats only ever add to a size."""
    faults = []
    for pick, name in ((np.min, "least"), (np.median, "median")):
        seen = {kind: tuple(pick(np.array(rows), axis=0)) for kind, rows in sizes.items()}
        if len({*seen.values()}) > 1:
            faults.append(f"the {name} bytes by link depend on the images: {seen}")
    return faults


def _images(kind: str, rng: np.random.Generator) -> Array:
    shape = (BATCH, 4, 4, 1)
    if kind == "flat":
        return np.zeros(shape)
    if kind == "extreme":
        return np.where(rng.random(shape) < 0.5, -1.0, 1.0)
    return rng.uniform(-1, 1, shape)


def _quiet(taps: Mapping[str, Tap]) -> tuple[int, ...]:
    """The bytes of every link when nothing has moved for a moment."""
    before: tuple[int, ...] = ()
    while True:
        now = tuple(n for tap in taps.values() for n in tap.n_bytes())
        if now == before:
            return now
        before = now
        time.sleep(QUIET_S)


def _request(client: Client, images: Array, items: list[str]) -> None:
    client.share(images, items)
    client.run(items).reveal()
    client.delete(items)


def _measured(client: Client, taps: dict[str, Tap], rng: np.random.Generator) -> Sizes:
    """Bytes by link of requests for several kinds of images, in turns."""
    links = {name: tap for name, tap in taps.items() if not name.startswith("deal")}
    sizes: Sizes = {"random": [], "flat": [], "extreme": []}
    for number in range(N_IMAGES // BATCH):
        kind = list(sizes)[number % len(sizes)]
        images, items = _images(kind, rng), item_ids(rng, BATCH)
        before = _quiet(links)
        _request(client, images, items)
        after = _quiet(links)
        sizes[kind].append(tuple(b - a for a, b in zip(before, after, strict=True)))
    return sizes


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


def one_audit(unit: int) -> Finding:
    """Requests for many images over tapped links, and what the auditor finds."""
    rng = np.random.default_rng([SEED, unit])
    taps: dict[str, Tap] = {}

    def tapped(parties: Parties) -> None:
        taps.update(lead_through(parties, lambda target: Tap(target, rng)))

    with running(BATCH, "64KiB", tapped) as parties, parties.ready() as client:
        image, [item] = rng.uniform(-1, 1, (4, 4, 1)), item_ids(rng, 1)
        client.extract(client.share(image[None], [item]))
        client.create_index("audit", "l2").add([item])
        client.open_index("audit").search([item], 1)
        marks = traces(image, client.features([item]).reveal()[0], _packed(client, image))
        sizes = _measured(client, taps, rng)
        read = places(parties, taps)
    streams = [stream for tap in taps.values() for stream in tap.streams()]
    n_repeated = repeated_windows(streams, rng)
    faults = found_traces(marks, read) + unequal(sizes)
    if n_repeated:
        faults.append(f"{n_repeated} windows of {WINDOW} bytes come twice on the wire")
    for tap in taps.values():
        tap.close()
    counts = {"images": float(N_IMAGES), "places": len(read)}
    counts["bytes tapped"] = sum(map(len, streams))
    return Finding(counts, faults, {"least": [int(n) for n in np.min(sizes["random"], axis=0)]})


def run(units: Sequence[int]) -> Iterator[Finding]:
    """Fresh parties a unit."""
    for unit in units:
        yield one_audit(unit)


PART = Part("audit", f"{N_IMAGES} images over tapped links", 4, 1, run)
