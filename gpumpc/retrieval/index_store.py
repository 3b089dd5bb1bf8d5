"""An index at one server: rows in the store, and the static operand that a query multiplies with.

A row is stored as the public F = V - Bm, packed, and this server's share of |v|^2. Its version says
where its mask comes from: the session and batch in which it was added, and its slot there. So the
masks of all rows can be drawn again, by each server from its own seeds and by the dealer from both,
and F is opened once a version.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, CorruptStore
from gpumpc.offline.seeds import SeedTree
from gpumpc.params import Cipher
from gpumpc.protocols.ranking.distances import Rows
from gpumpc.protocols.ranking.vote import MAX_LABEL_BITS
from gpumpc.retrieval.programs import LABEL_WORD_BITS, Geometry, Metric
from gpumpc.ring.backend import Backend, Words, packed_bytes
from gpumpc.session import StaticWeight
from gpumpc.shares import Additive
from gpumpc.store import RowKey, Store

HostWords = npt.NDArray[np.uint64]
SeedTrees = Callable[[bytes, int], SeedTree]  # a party's seeds of a session and batch

WORD_BYTES = 8
# Rows added by one run; the last run is padded with zero rows, which are not stored.
ROWS_PER_BATCH = 32
_VERSION = re.compile(r"([0-9a-f]{32})\.(\d{1,18})\.(\d{1,4})")


class IndexRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The description of an index, the same at both servers.

    Attributes:
        plan: hash of the plan whose results are indexed.
        n_labels: number of classes that rows are labelled with; 0: rows have no labels.
        classes: their names, which both servers read; which row has which class is secret.
    """

    name: str
    plan: str
    dim: int
    metric: Metric
    owner: str
    n_labels: Annotated[int, msgspec.Meta(ge=0, le=1 << MAX_LABEL_BITS)] = 0
    classes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of its rows in the store."""
        return kind_of(self.owner, self.name)


def kind_of(owner: str, name: str) -> str:
    """The kind in the store of an index's rows, also the name of its record."""
    return f"index/{owner}/{name}"


def encode_index(record: IndexRecord) -> str:
    """As a text for the store."""
    return msgspec.json.encode(record).decode()


def decode_index(text: str) -> IndexRecord:
    """The inverse of `encode_index`. Raises CorruptStore."""
    try:
        return msgspec.json.decode(text, type=IndexRecord)
    except msgspec.DecodeError as error:
        hint = "make the index again"
        raise CorruptStore("an index's record cannot be read", str(error), hint) from error


@dataclasses.dataclass(frozen=True, order=True)
class RowVersion:
    """The origin of a row's mask."""

    session_id: bytes
    batch_index: int
    slot: int

    def __str__(self) -> str:
        return f"{self.session_id.hex()}.{self.batch_index}.{self.slot}"

    @classmethod
    def parse(cls, text: str) -> RowVersion:
        """The inverse of str(). Raises CorruptStore."""
        found = _VERSION.fullmatch(text)
        if found is None:
            raise CorruptStore(
                f"'{text}' is not a row version", "the store was changed", "make the index again"
            )
        return cls(bytes.fromhex(found[1]), int(found[2]), int(found[3]))


def row_bytes(geometry: Geometry, n_labels: int = 0) -> int:
    """Bytes of one row at rest: F, the norm's share, and the label's share, if rows have one."""
    return packed_bytes(geometry.dim, geometry.score_bits) + (2 if n_labels else 1) * WORD_BYTES


def pack_rows(
    backend: Backend, geometry: Geometry, rows: Rows, n_used: int, labels: HostWords | None = None
) -> npt.NDArray[np.uint8]:
    """The first `n_used` rows of a batch as bytes (n_used, row_bytes).

    `labels` are shares modulo 2^64 of their labels (n_used,). Raises BadShape for another number.
    """
    opened, norms = backend.download(rows.masked.opened), backend.download(rows.norms.words)
    words = [norms[:n_used]] if labels is None else [norms[:n_used], labels]
    if any(column.shape != (n_used,) for column in words):
        raise BadShape(
            f"{words[-1].shape} label shares for {n_used} rows", hint="each row has one label"
        )
    packed = [backend.pack(row, geometry.score_bits) for row in opened[:n_used]]
    features = [np.frombuffer(row, dtype=np.uint8) for row in packed]
    return np.concatenate((features, np.stack(words, axis=1).view(np.uint8)), axis=1)


def draw_masks(
    backend: Backend,
    cipher: Cipher,
    geometry: Geometry,
    versions: Sequence[RowVersion],
    tree: SeedTrees,
) -> Words:
    """One party's mask shares of these rows, (N, dim), drawn again under their first names."""
    batches: dict[tuple[bytes, int], Words] = {}
    parts = []
    for version in versions:
        place = (version.session_id, version.batch_index)
        if place not in batches:
            key = tree(*place).key("v/opened", "A")
            batches[place] = backend.expand_words(
                cipher, key, (ROWS_PER_BATCH, geometry.dim), geometry.score_bits
            )
        parts.append(batches[place][version.slot : version.slot + 1])
    return backend.concat(parts, 0)


def weight_mask(backend: Backend, geometry: Geometry, masks: Words) -> Words:
    """The static mask of the query's operand, (dim, N): that of -2 V^T for l2, of -V^T for ip."""
    return backend.scale(masks.T, geometry.weight_factor, geometry.score_bits)


@dataclasses.dataclass(frozen=True, repr=False)
class LoadedIndex:
    """All rows of an index as the static operand of `query_program`.

    Attributes:
        keys: the rows, by their position in a result.
        operand: W_p, F and the norms' shares.
        labels: shares of the rows' labels, the second input of a labelled `query_program`.
    """

    keys: list[RowKey]
    versions: list[RowVersion]
    operand: StaticWeight
    labels: Additive | None


def load_index(
    store: Store,
    record: IndexRecord,
    geometry: Geometry,
    party: int,
    backend: Backend,
    cipher: Cipher,
    tree: SeedTrees,
) -> LoadedIndex:
    """The rows of an index in a server's store. Raises CorruptStore."""
    ready = [row.key for row in store.rows(record.kind, "ready")]
    keys, data = store.read(record.kind, [key.item for key in ready])
    versions = [RowVersion.parse(key.version) for key in keys]
    bits, shape = geometry.score_bits, (1, geometry.dim)
    at = packed_bytes(geometry.dim, bits)
    if data.shape[1] != (expected := row_bytes(geometry, record.n_labels)):
        raise CorruptStore(
            f"rows of index '{record.name}' have {data.shape[1]} bytes, not {expected}",
            "its record says otherwise about labels or length",
            "make the index again",
        )
    opened = backend.concat([backend.unpack(memoryview(row[:at]), shape, bits) for row in data], 0)
    masks = draw_masks(backend, cipher, geometry, versions, tree)
    own = backend.reduce(masks + opened, bits) if party == 0 else masks
    columns = np.ascontiguousarray(data[:, at:]).view(np.uint64).T
    words = backend.upload(np.ascontiguousarray(columns))
    operand = StaticWeight(
        backend.static(weight_mask(backend, geometry, own), bits),
        backend.static(weight_mask(backend, geometry, opened), bits),
        words[0] if geometry.metric == "l2" else backend.zeros((len(keys),)),
    )
    labels = Additive(words[1], LABEL_WORD_BITS) if record.n_labels else None
    return LoadedIndex(ready, versions, operand, labels)


def row_keys(items: Sequence[str], session_id: bytes, batch_index: int) -> list[RowKey]:
    """Names of the rows that one batch adds."""
    versions = (RowVersion(session_id, batch_index, slot) for slot in range(len(items)))
    return [RowKey(item, str(version)) for item, version in zip(items, versions, strict=True)]
