"""Input shares at rest at one server, until they are evaluated or dropped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from gpumpc.errors import BadFrame, MissingFile
from gpumpc.nn.program import Program
from gpumpc.offline.secret import private_folder, read_private, write_private
from gpumpc.ring.backend import Backend, Words, packed_bytes
from gpumpc.roles import messages as m

SEED_BYTES = 32


class Upload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of an upload without its bytes."""

    plan: str
    n_items: int
    owner: str


class Inbox:
    """A folder (0700) with one file an upload, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)

    def put(self, request: m.PutShares, owner: str, bulk: memoryview, program: Program, party: int) -> None:
        """Keep an upload. Raises BadFrame if its bytes do not fit the plan, ConfigError if the disk refuses."""
        shape = (request.n_items, *program.input.shape[1:])
        expected = SEED_BYTES if party == 0 else packed_bytes(int(np.prod(shape)), program.input.bits)
        if len(bulk) != expected:
            raise BadFrame(
                f"upload {request.upload[:8]} has {len(bulk)} bytes where {expected} were expected",
                "it was cut, or made for another plan",
                "share the images again with the plan that the servers run",
            )
        upload = Upload(request.plan, request.n_items, owner)
        write_private(self._path(request.upload), m.pack(upload, bulk))

    def get(self, name: str, owner: str, plan: str) -> tuple[Upload, memoryview]:
        """An upload of this owner for this plan. Raises MissingFile."""
        missing = MissingFile(
            f"upload {name[:8]} is not here",
            "it was never shared, was dropped, belongs to someone else, or was made for another plan",
            "share the images again",
        )
        try:
            data = read_private(self._path(name))
        except MissingFile:
            raise missing from None
        upload, bulk = m.unpack(memoryview(data), Upload)
        if (upload.owner, upload.plan) != (owner, plan):
            raise missing
        return upload, bulk

    def drop(self, name: str, owner: str) -> None:
        """Delete an upload of this owner; none is no error."""
        path = self._path(name)
        if path.exists() and m.unpack(memoryview(read_private(path)), Upload)[0].owner == owner:
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.share"  # names are 32 hex digits: the record's type says so


def words_of(upload: Upload, bulk: memoryview, program: Program, party: int, backend: Backend) -> Words:
    """The upload's share as words (n_items, ..)."""
    value = program.input
    shape = (upload.n_items, *value.shape[1:])
    if party == 0:
        return backend.expand_words(program.params.cipher, bytes(bulk), shape, value.bits)
    return backend.unpack(bulk, shape, value.bits)
