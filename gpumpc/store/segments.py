"""The files that hold encrypted rows: written whole, read slot by slot, rewritten when too empty.

A segment is written and synced before the manifest mentions it, and removed after the manifest has
ceased to; one that the manifest does not mention is deleted at the next opening,
unless one that it mentions is missing.
"""

import contextlib
import logging
import os
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.errors import ConfigError, CorruptStore
from gpumpc.offline.secret import file_error, sync_folder, write_private
from gpumpc.store.manifest import Manifest

Matrix = npt.NDArray[np.uint8]
# So many segments of one size class are merged into one.
_MERGE = 8
_BLOCK_BYTES = 4096  # a file takes whole blocks of the disk
_ENTRY_BYTES = 200
_HINT = "restore it from this server's backup, or delete its items and share them again"

log = logging.getLogger("gpumpc")


class Segment(NamedTuple):
    """A file of rows of one owner and one size."""

    id: int
    file: str
    owner: str
    slot_bytes: int
    n_slots: int
    n_live: int


class SegmentFolder(Manifest):
    """A manifest with its segments; adds no public reading of rows."""

    def __init__(self, folder: Path, party: int) -> None:
        super().__init__(folder, party)
        # Segments that could not be rewritten in this process: reading their rows says why.
        self._damaged_segments: set[int] = set()

    def _sweep_files(self) -> None:
        known = {row[0] for row in self._db.execute("SELECT file FROM segments")}
        found = {path.name for path in self.folder.glob("*.seg")}
        # Where one is missing, a file that is not mentioned may be it, and its name have changed.
        if known <= found:
            for name in found - known:
                (self.folder / name).unlink()

    @contextlib.contextmanager
    def _new_segment(self, owner: str, slots: Matrix) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Write a segment of slots (n, slot_bytes); then the transaction that mentions it."""
        name = f"{secrets.token_hex(16)}.seg"
        write_private(self.folder / name, np.ascontiguousarray(slots).tobytes())
        try:
            sync_folder(self.folder)
            with self._change() as db:
                add = (
                    "INSERT INTO segments (file, owner, slot_bytes, n_slots, n_bytes) "
                    "VALUES (?, ?, ?, ?, ?)"
                )
                values = (name, owner, slots.shape[1], len(slots), segment_bytes(*slots.shape))
                yield db, int(db.execute(add, values).lastrowid or 0)
        except (ConfigError, OSError):  # rolled back, so the manifest does not name the segment
            (self.folder / name).unlink(missing_ok=True)
            raise

    def _read_slots(self, file: str, slot_bytes: int, slots: Sequence[int]) -> list[bytes]:
        """Bytes of slots. Raises CorruptStore for a file that is missing or cut, ConfigError for
        an error that passes."""
        path = self.folder / file
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                most = os.fstat(descriptor).st_size // max(1, slot_bytes)
                if wrong := [slot for slot in slots if not 0 <= slot < most]:
                    raise self._unreadable(file, f"it ends before row {wrong[0]}: it was cut")
                return [os.pread(descriptor, slot_bytes, slot * slot_bytes) for slot in slots]
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise self._unreadable(file, "it is missing") from None
        except OSError as error:
            raise file_error(f"the segment {path} cannot be read now", error) from error

    def _unreadable(self, file: str, why: str) -> CorruptStore:
        return CorruptStore(f"the segment {self.folder / file} cannot be read", why, _HINT)

    def _drop_unused(self) -> None:
        """Remove segments without rows."""
        unused = self._select("SELECT id, file FROM segments WHERE n_live = 0")
        if not unused:
            return

        def forget() -> None:
            with self._change() as db:
                db.executemany("DELETE FROM segments WHERE id = ?", [(row[0],) for row in unused])

        self._despite_full(forget)
        for _, file in unused:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / file).unlink()

    # compaction

    def compact(self, limit_bytes: int, owner: str | None = None) -> int:
        """Rewrite segments of which more than half is deleted, and merge small ones.

        Args:
            limit_bytes: rewrites about so much, and at most twice as much; to be called again
                until it returns 0. Only segments of up to an eighth of it are merged.
            owner: rewrites this owner's segments alone, also where little is deleted.

        Returns how many bytes it wrote. Other threads wait meanwhile. Raises ConfigError for a full
        disk; then all is as it was.
        """
        n_written = 0
        with self._read():
            while n_written < limit_bytes:
                segments = [s for s in self._segments() if s.id not in self._damaged_segments]
                chosen = _sparse(segments, owner) or _small(segments, limit_bytes)
                if not chosen:
                    break
                n_written += self._rewrite(chosen, limit_bytes - n_written)
            if n_written:
                self._erase()
        return n_written

    def _erase(self) -> None:
        """Keep no deleted key in the write-ahead log; `secure_delete` keeps none in the file."""

        def checkpoint() -> None:
            with self._read() as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        self._despite_full(checkpoint)

    def _segments(self) -> list[Segment]:
        query = "SELECT id, file, owner, slot_bytes, n_slots, n_live FROM segments ORDER BY id"
        return [Segment(*found) for found in self._select(query)]

    def _rewrite(self, segments: list[Segment], limit_bytes: int) -> int:
        """Move rows of segments into a new one: all of several, or of one as many as fit."""
        query = "SELECT kind, item, slot FROM rows WHERE segment = ? ORDER BY slot LIMIT ?"
        most = -1 if len(segments) > 1 else max(1, limit_bytes // segments[0].slot_bytes)
        names: list[tuple[str, str]] = []
        slots: list[bytes] = []
        for segment in segments:
            found = self._select(query, segment.id, most)
            try:
                numbers = [row[2] for row in found]
                slots += self._read_slots(segment.file, segment.slot_bytes, numbers)
                names += [row[:2] for row in found]
            except CorruptStore as error:
                self._damaged_segments.add(segment.id)
                log.warning("%s", error)
        if not names:
            return 0
        data = np.frombuffer(b"".join(slots), dtype=np.uint8).reshape(len(slots), -1)
        with self._new_segment(segments[0].owner, data) as (db, new):
            move = "UPDATE rows SET segment = ?, slot = ? WHERE kind = ? AND item = ?"
            db.executemany(move, [(new, slot, *name) for slot, name in enumerate(names)])
        self._drop_unused()
        return data.size


def segment_bytes(n_slots: int, slot_bytes: int) -> int:
    """What a segment takes on the disk, with its entry in the manifest."""
    return -(-n_slots * slot_bytes // _BLOCK_BYTES) * _BLOCK_BYTES + _ENTRY_BYTES


def _sparse(segments: list[Segment], owner: str | None) -> list[Segment]:
    """A segment of which more than half is deleted; of an owner, of which anything is."""
    for segment in segments:
        share = 2 if owner is None else 1
        if 0 < segment.n_live * share < segment.n_slots and owner in (None, segment.owner):
            return [segment]
    return []


def _small(segments: list[Segment], limit_bytes: int) -> list[Segment]:
    """Segments to merge: of one owner, one row size and one size class, each eight times the last.

    So a row is rewritten once a class, and there are less than eight files of each.
    """
    classes: dict[tuple[str, int, int], list[Segment]] = defaultdict(list)
    for segment in segments:
        n_bytes = segment.n_slots * segment.slot_bytes
        if segment.n_live and n_bytes * _MERGE <= limit_bytes:
            same = classes[segment.owner, segment.slot_bytes, n_bytes.bit_length() // 3]
            same.append(segment)
            if len(same) == _MERGE:
                return same
    return []
