"""Frames as they are before they are sealed, recorded in the processes that send them.

A tap of a network sees sealed bytes, in which a mask that was used twice does not show. So each
party also writes down what it seals; its code is changed from outside, as it starts.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from gpumpc.wire.frames import HEADER, Kind, decode_header
from gpumpc.wire.stream.records import HEADER_LABEL
from tests.processes.cluster import ROOT

_ENTRY = struct.Struct("<QIB")  # which sealer, bytes, whether they are a header
# Appends what a process seals to a file of its own.
_CODE = f"""
import os, struct
from gpumpc.wire.stream.records import Sealer
seal, entry = Sealer.seal_into, struct.Struct("{_ENTRY.format}")
def recorded(sealer, data, associated, out):
    piece = bytes(data)
    head = entry.pack(id(sealer), len(piece), associated == {HEADER_LABEL!r})
    with open(os.path.join({{folder!r}}, str(os.getpid())), "ab", buffering=0) as file:
        file.write(head + piece)
    seal(sealer, data, associated, out)
Sealer.seal_into = recorded
"""


class SentFrame(NamedTuple):
    """One frame: its kind, its place, and its payload.

    Attributes:
        sender: which end of which connection.
    """

    sender: tuple[str, int]
    kind: Kind
    session: bytes
    batch_index: int
    payload: bytes


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[None]:
    """Processes that are started meanwhile record their frames in this folder."""
    code = folder / "code"
    code.mkdir(parents=True)
    (code / "sitecustomize.py").write_text(_CODE.format(folder=str(folder)))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{code}:{ROOT}"
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def recorded(folder: Path) -> list[SentFrame]:
    """All frames that were recorded, those of one sender in order."""
    return [
        frame
        for path in sorted(folder.iterdir())
        if path.is_file()
        for frame in _frames(path.name, path.read_bytes())
    ]


def _frames(process: str, data: bytes) -> Iterator[SentFrame]:
    entries, at = defaultdict[int, list[tuple[bool, bytes]]](list), 0
    while at + _ENTRY.size <= len(data):
        sealer, n_bytes, is_header = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size + n_bytes
        entries[sealer].append((bool(is_header), data[at - n_bytes : at]))
    for sealer, found in entries.items():
        heads = [i for i, (is_header, _) in enumerate(found) if is_header]
        for i, end in zip(heads, [*heads[1:], len(found)], strict=True):
            header = found[i][1]
            if len(header) == HEADER.size:
                kind, session, batch_index, _, _ = decode_header(header)
                payload = b"".join(piece for _, piece in found[i + 1 : end])
                yield SentFrame((process, sealer), kind, session, batch_index, payload)


def unequal_batches(frames: list[SentFrame], kind: Kind) -> tuple[int, list[str]]:
    """Whether all batches of a session have frames of the same sizes in the same order: how many
    batches were compared, and what differs.
    """
    sizes = defaultdict[tuple[object, ...], dict[int, list[int]]](dict)
    for frame in frames:
        if frame.kind is kind and any(frame.session):
            batches = sizes[frame.sender, frame.session]
            batches.setdefault(frame.batch_index, []).append(len(frame.payload))
    faults = [
        f"{kind.name} frames of two batches have sizes {batches[first]} and {found}"
        for batches in sizes.values()
        for first in [min(batches)]
        for found in batches.values()
        if found != batches[first]
    ]
    return sum(len(batches) for batches in sizes.values()), faults


def payloads(frames: list[SentFrame]) -> Mapping[Kind, list[bytes]]:
    """Payloads by kind, in order."""
    found = defaultdict[Kind, list[bytes]](list)
    for frame in frames:
        found[frame.kind].append(frame.payload)
    return found
