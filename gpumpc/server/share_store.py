"""The share store: inputs and features of clients at rest.

Every row is added as pending, under a version that identifies its random values; the servers then
compare their rows and confirm those that both have. So half an upload, or a row that only one
server stored before a crash, can never be used. Functions that take a channel run at both servers
in lock step.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc import messages as m
from gpumpc.engine.engine import Engine
from gpumpc.errors import BadFrame, CorruptStore, MissingFile, PeerLost, PlanError
from gpumpc.program.plan import plan_hash
from gpumpc.program.program import Value
from gpumpc.retrieval.index_store import row_keys
from gpumpc.ring.backend import Backend, Words, packed_bytes
from gpumpc.server import store_agreement as agreement
from gpumpc.shares import SEED_BYTES, Additive
from gpumpc.store import RowKey, Store
from gpumpc.store.manifest import row_entry_bytes
from gpumpc.store.row_cipher import TAG_BYTES
from gpumpc.store.segments import segment_bytes
from gpumpc.wire.channel import Channel
from gpumpc.wire.frames import MAX_PAYLOAD_BYTES
from gpumpc.wire.handshake import exchange_hello

INPUTS = "input/"
_LONGEST_VERSION = "0" * 56  # of a row that an evaluation adds
# A row that is pending for so long is half of an upload that was given up.
SWEEP_S = 3600.0

log = logging.getLogger("gpumpc")


class RowKind(NamedTuple):
    """The rows of a plan's inputs or features.

    Attributes:
        kind: their name in the store.
        value: bits and scale of the shares; its shape is that of a batch.
        from_seed: whether a row is a seed that the share is drawn from.
    """

    kind: str
    value: Value
    from_seed: bool


class ShareStore:
    """One server's rows at rest.

    Attributes:
        mismatch: why the two servers' stores do not belong together; empty where they do.
    """

    def __init__(self, store: Store, party: int, backend: Backend) -> None:
        self.store, self.party, self.backend = store, party, backend
        self.mismatch, self._have_met = "", False

    # meeting the other server

    def meet(self, channel: Channel) -> None:
        """Bind the two stores to each other once; later, make them equal again after a failure."""
        own, other = agreement.pair(self.store, channel)
        self._have_met, self.mismatch = True, ""
        if own != other:
            self.mismatch = f"here store pair {own[:8] or 'none'}, there {other[:8] or 'none'}"
            log.warning("the two servers' stores do not belong together: %s", self.mismatch)
        else:
            agreement.finish_changes(self.store, channel)
            agreement.repair_pending(self.store, channel, kept=INPUTS)
            agreement.compare_ready(self.store, channel, self.party)
        self.store.sweep(SWEEP_S)

    def check_paired(self) -> None:
        """Raises CorruptStore where the two stores do not belong together, and PeerLost before the
        servers have compared them.
        """
        if not self._have_met:
            what = "the two servers have not been connected yet"
            raise PeerLost(
                what, "one of them is starting, or does not run", "ask again in a moment"
            )
        if self.mismatch:
            raise CorruptStore(
                "the two servers' stores do not belong together",
                f"{self.mismatch}; a state folder was lost, restored or exchanged",
                "start both servers with the state folders they had, or remove the folder `store` "
                "of both and share again",
            )

    # inputs

    def inputs(self, engine: Engine) -> RowKind:
        """The rows of a plan's inputs: seeds at server 0, packed words at server 1."""
        kind = f"{INPUTS}{plan_hash(engine.plan).hex()}"
        return RowKind(kind, engine.program.input, from_seed=self.party == 0)

    def add_inputs(self, engine: Engine, request: m.Share, owner: str, bulk: memoryview) -> None:
        """Add inputs as pending rows; rows that are here already stay.

        Raises BadFrame if the bytes do not fit the plan, ConfigError where there is no room,
        InputError for an item of another owner.
        """
        row_kind = self.inputs(engine)
        n, n_packed = len(request.items), row_bytes_of(row_kind.value)
        row_bytes = SEED_BYTES if row_kind.from_seed else n_packed
        # A seed does not show the size: server 0 also refuses what could not be sent to server 1.
        if not n or len(bulk) != n * row_bytes or n * n_packed > MAX_PAYLOAD_BYTES:
            most = f"{MAX_PAYLOAD_BYTES} bytes"
            raise BadFrame(
                f"{n} inputs came with {len(bulk)} bytes, and {n * row_bytes} are their size",
                f"they were cut, made for another plan, or take more than {most}",
                "share them again with the plan that the servers run, in smaller portions",
            )
        keys = [RowKey(item, request.version) for item in request.items]
        rows = np.frombuffer(bulk, dtype=np.uint8).reshape(n, row_bytes)
        self.store.put(row_kind.kind, keys, owner, rows)

    def settle(self, channel: Channel, kind: str, items: Sequence[str], owner: str) -> list[str]:
        """Confirm the items that both servers hold; put the others, which are returned, out of use.

        Halves of an upload are deleted. A row that was ready stays, as the other server lost it.
        """
        own = self.store.find(kind, items, owner)
        names = [(kind, own[item].key) for item in sorted(own)]
        common = {key for _, key in agreement.held_by_both(channel, names)}
        alone = [row for row in own.values() if row.key not in common]
        self.store.delete_rows(kind, [row.key for row in alone if row.state == "pending"])
        self.store.set_unpaired(kind, [row.key for row in alone if row.state == "ready"])
        self.store.confirm(kind, sorted(common))
        self.store.sweep(SWEEP_S)
        return [item for item in items if item not in own or own[item].key not in common]

    # features

    @staticmethod
    def features(engine: Engine) -> RowKind:
        """The rows of a plan's stored results."""
        kind = f"feature/{plan_hash(engine.plan).hex()}"
        return RowKind(kind, engine.program.result, from_seed=False)

    def store_features(
        self,
        channel: Channel,
        engine: Engine,
        batch: int,
        owner: str,
        items: Sequence[str],
        result: Additive,
    ) -> None:
        """Store a batch's result shares under its items, at both servers or at none."""
        keys, kind = row_keys(items, engine.session_id, batch), self.features(engine).kind
        self.store.put(kind, keys, owner, _packed(self.backend, result))
        self.confirm(channel, kind, keys)

    def check_room(
        self, kind: str, items: Sequence[str], owner: str, row_bytes: int, batch_size: int
    ) -> None:
        """Raises ConfigError unless rows that a request will add, batch by batch, have room.

        Both servers ask before the request begins: a refusal in its middle would end their
        connection.
        """
        keys = (RowKey(item, _LONGEST_VERSION) for item in items)
        entries = sum(row_entry_bytes(kind, key, owner) for key in keys)
        n_batches = -(-len(items) // batch_size)
        segments = n_batches * segment_bytes(batch_size, row_bytes + TAG_BYTES)
        self.store.check_room(owner, entries + segments)

    def source_of(self, engine: Engine, source: Engine | None) -> RowKind:
        """The rows that a plan takes: inputs, or the features of `source`. Raises PlanError."""
        if source is None:
            return self.inputs(engine)
        wanted, found = engine.program.input, source.program.result
        want = (wanted.bits, wanted.frac, wanted.divisor, wanted.shape[1:])
        have = (found.bits, found.frac, found.divisor, found.shape[1:])
        if want != have or source.program.result_is_index:
            wants = f"{wanted.shape[1:]} of {wanted.bits} bits"
            raise PlanError(
                f"plan '{engine.plan.name}' does not take the results of plan '{source.plan.name}'",
                f"it wants {wants}, those are {found.shape[1:]} of {found.bits} bits",
                "compile it on top of that plan",
            )
        return self.features(source)

    # reading

    def keys(self, kind: str, items: Sequence[str], owner: str) -> list[RowKey]:
        """Keys of rows that may be used. Raises MissingFile naming the first that is not here."""
        found = self.store.find(kind, items, owner)
        for item in items:
            if item not in found or found[item].state != "ready":
                raise MissingFile(
                    f"item {item[:8]} is not in the store",
                    "it was never shared here, is not extracted yet, was deleted, or belongs to "
                    "someone else",
                    "see `gpumpc list`, and share it again",
                )
        return [found[item].key for item in items]

    def present(self, kind: str, items: Sequence[str], owner: str) -> list[RowKey]:
        """Keys of those items whose rows may be used."""
        found = self.store.find(kind, items, owner).values()
        return [row.key for row in found if row.state == "ready"]

    def read(
        self, row_kind: RowKind, engine: Engine, items: Sequence[str], owner: str
    ) -> tuple[list[RowKey], Words]:
        """Keys of items, and this server's shares (n, ..). Raises MissingFile, CorruptStore."""
        keys, data = self.store.read(row_kind.kind, items, owner)
        value, cipher, backend = row_kind.value, engine.plan.params.cipher, self.backend
        shape, bits = (1, *value.shape[1:]), value.bits
        if row_kind.from_seed:
            parts = [backend.expand_words(cipher, row.tobytes(), shape, bits) for row in data]
        else:
            parts = [backend.unpack(memoryview(row), shape, bits) for row in data]
        return keys, backend.concat(parts, 0)

    def batches(
        self, row_kind: RowKind, engine: Engine, items: Sequence[str], owner: str, size: int
    ) -> Iterator[tuple[list[str], Words]]:
        """Items with their shares, `size` at a time; zero shares fill the last batch."""
        for start in range(0, len(items), size):
            names = list(items[start : start + size])
            _, words = self.read(row_kind, engine, names, owner)
            if len(names) < size:
                missing = self.backend.zeros((size - len(names), *words.shape[1:]))
                words = self.backend.concat([words, missing], 0)
            yield names, words

    # rows at both servers

    def confirm(self, channel: Channel, kind: str, keys: Sequence[RowKey]) -> None:
        """Let rows be used that both servers added. Raises HandshakeMismatch if they differ."""
        # The other server may wait for the dealer first: it begins a later batch before confirming.
        equal = {"rows": f"{kind} {digest(keys)}"}
        exchange_hello(channel, equal=equal, timeout_s=channel.patience_s)
        self.store.confirm(kind, keys)


def digest(keys: Sequence[RowKey]) -> str:
    """Hex SHA-256 over items and versions, in this order."""
    lines = (f"{key.item} {key.version}" for key in keys)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def row_bytes_of(value: Value) -> int:
    """Bytes of one item's share of a value whose shape is that of a batch."""
    return packed_bytes(int(np.prod(value.shape[1:], dtype=object)), value.bits)


def _packed(backend: Backend, result: Additive) -> npt.NDArray[np.uint8]:
    """Result shares as rows (n_items, row_bytes)."""
    packed = (backend.pack(words, result.bits) for words in result.words)
    return np.stack([np.frombuffer(row, dtype=np.uint8) for row in packed])
