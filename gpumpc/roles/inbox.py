"""Input shares at rest at one server, until their owner drops them."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import msgspec
import numpy as np

from gpumpc.errors import BadFrame, ConfigError, GpumpcError, MissingFile
from gpumpc.nn.program import Program
from gpumpc.offline.secret import file_error, private_folder, read_private, sync_folder, write_private
from gpumpc.ring.backend import Backend, Words, packed_bytes
from gpumpc.roles import messages as m
from gpumpc.wire.frames import MAX_PAYLOAD_BYTES

SEED_BYTES = 32

log = logging.getLogger("gpumpc")


class Upload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of an upload without its bytes."""

    plan: str
    n_items: int
    owner: str


class Inbox:
    """A folder (0700) with one file an upload, written whole or not at all; for several threads.

    Args:
        folder: made where missing.
        capacity_bytes: how much the uploads of one owner may take.
    """

    def __init__(self, folder: Path, capacity_bytes: int) -> None:
        self._folder, self._capacity_bytes = private_folder(folder), capacity_bytes
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Upload, int]] = {}
        for path in self._folder.iterdir():
            if path.suffix == ".part":  # a process ended while it wrote this
                path.unlink(missing_ok=True)
            else:
                self._remember(path)

    def _remember(self, path: Path) -> None:
        try:
            data = read_private(path)
            self._known[path.stem] = (m.unpack(memoryview(data), Upload)[0], len(data))
        except GpumpcError as error:
            log.warning("an upload is left out: %s", error)

    def put(self, request: m.PutShares, owner: str, bulk: memoryview, program: Program, party: int) -> None:
        """Keep an upload.

        Raises BadFrame if its bytes do not fit the plan or its name is taken, ConfigError if there is no room for it.
        """
        shape = (request.n_items, *program.input.shape[1:])
        n_packed = packed_bytes(int(np.prod(shape, dtype=object)), program.input.bits)
        expected = SEED_BYTES if party == 0 else n_packed
        # Server 0's seed says nothing of the size: what server 1 could not be sent is not expanded here either.
        if len(bulk) != expected or n_packed > MAX_PAYLOAD_BYTES:
            raise BadFrame(
                f"upload {request.upload[:8]} of {request.n_items} items has {len(bulk)} bytes, and {expected} are its size",
                f"it was cut, made for another plan, or is larger than {MAX_PAYLOAD_BYTES} bytes",
                "share the images again with the plan that the servers run, in smaller portions",
            )
        upload = Upload(request.plan, request.n_items, owner)
        with self._lock:
            self._check_room(request.upload, owner, len(bulk))
            self._write(request.upload, m.pack(upload, bulk))
            self._known[request.upload] = (upload, len(bulk))

    def _check_room(self, name: str, owner: str, n_bytes: int) -> None:
        if name in self._known:
            raise BadFrame(f"upload {name[:8]} is here already", "an upload is never overwritten", "give it a new name")
        used = sum(size for upload, size in self._known.values() if upload.owner == owner)
        if used + n_bytes > self._capacity_bytes:
            raise ConfigError(
                f"there is no room for an upload of {n_bytes} bytes",
                f"the uploads of {owner} take {used} of {self._capacity_bytes} bytes",
                "drop uploads that are done with, or raise `uploads` in the servers' configurations",
            )

    def _write(self, name: str, data: bytes) -> None:
        draft = self._path(name).with_suffix(".part")
        draft.unlink(missing_ok=True)
        write_private(draft, data)
        try:
            os.replace(draft, self._path(name))
            sync_folder(self._folder)
        except OSError as error:
            raise file_error(f"upload {name[:8]} cannot be kept", error) from error

    def find(self, name: str, owner: str, plan: str) -> Upload:
        """What is known of an upload of this owner for this plan. Raises MissingFile."""
        upload, _ = self._known.get(name, (None, 0))
        if upload is None or (upload.owner, upload.plan) != (owner, plan):
            raise _missing(name)
        return upload

    def read(self, name: str) -> memoryview:
        """The bytes of an upload. Raises MissingFile."""
        try:
            return m.unpack(memoryview(read_private(self._path(name))), Upload)[1]
        except MissingFile:
            raise _missing(name) from None

    def drop(self, name: str, owner: str) -> None:
        """Delete an upload of this owner; none is no error."""
        with self._lock:
            upload, _ = self._known.get(name, (None, 0))
            if upload is not None and upload.owner == owner:
                del self._known[name]
                self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.share"  # names are 32 hex digits: the record's type says so


def _missing(name: str) -> MissingFile:
    return MissingFile(
        f"upload {name[:8]} is not here",
        "it was never shared, was dropped, belongs to someone else, or was made for another plan",
        "share the images again",
    )


def words_of(upload: Upload, bulk: memoryview, program: Program, party: int, backend: Backend) -> Words:
    """The upload's share as words (n_items, ..)."""
    value = program.input
    shape = (upload.n_items, *value.shape[1:])
    if party == 0:
        return backend.expand_words(program.params.cipher, bytes(bulk), shape, value.bits)
    return backend.unpack(bulk, shape, value.bits)
