"""Owner and user: share inputs between the two servers, have them evaluated, put the sealed results
together.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gpumpc import messages as m
from gpumpc.client.connection import (
    ANSWER_S,
    CONNECT_S,
    ITEMS_PER_REQUEST,
    Connection,
    Parts,
    Progress,
)
from gpumpc.client.index import Index
from gpumpc.deploy.config import ClientConfig
from gpumpc.errors import (
    AccessDenied,
    BadFrame,
    BadShape,
    BadValue,
    ConfigError,
    GpumpcError,
    HandshakeMismatch,
    PeerTimeout,
    ShareError,
)
from gpumpc.nn.plaintext import check_input
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.compiler import program_of
from gpumpc.program.integers import decode_result, encode_input, integer_weights
from gpumpc.program.plan import PlanRecord, Weights, plan_hash, weight_digest
from gpumpc.program.weight_shares import split_weights
from gpumpc.retrieval.programs import Metric
from gpumpc.ring.backend import packed_bytes
from gpumpc.shares import SEED_BYTES, split
from gpumpc.wire.handshake import compare

Array = npt.NDArray[np.float64]

# Bytes that a server is sent in one request: the queue goes on between two of them.
BYTES_PER_REQUEST = 64 << 20
# Batches that are evaluated and kept by one request, before others get their turn.
BATCHES_PER_REQUEST = 16


@dataclasses.dataclass(frozen=True)
class SharedInput:
    """A handle to inputs that the two servers hold as shares: the items' ids, and the shape of the
    array.
    """

    items: tuple[str, ...]
    shape: tuple[int, ...]


class SealedResult:
    """Both servers' result shares, sealed to this user. `reveal` is the only door."""

    def __init__(self, open_both: Callable[[], Array], n_items: int) -> None:
        self._open_both, self.n_items = open_both, n_items

    def reveal(self) -> Array:
        """Open both shares and add them. Raises RevealError if anything was changed."""
        return self._open_both()


class Client(Connection):
    """A connection to both servers for one plan.

    Args:
        config: endpoints, cards and this party's keys.
        plan: must be one that the servers serve.
        patience_s: how long a server may be silent while it computes.

    Raises AccessDenied, PeerTimeout, HandshakeMismatch naming the differing field.
    """

    def __init__(self, config: ClientConfig, plan: PlanRecord, patience_s: float = 600.0) -> None:
        super().__init__(config, patience_s)
        self.plan, self.plan_id = plan, plan_hash(plan).hex()
        try:
            self.batch_size = self._check_plan()
        except BaseException:
            self.close()
            raise
        self.program = program_of(plan, self.batch_size)

    def status(self) -> tuple[m.Status, m.Status]:
        """What each server says of itself. Raises PeerTimeout, PeerLost."""
        (first, _), (second, _) = self.both(m.GetStatus(), m.Status)
        return first, second

    def plan_status(self) -> tuple[m.PlanStatus, m.PlanStatus]:
        """This plan's status at each server. Raises HandshakeMismatch if one does not serve it."""
        found = []
        for status in self.status():
            served = [plan for plan in status.plans if plan.fields["plan"] == self.plan_id]
            if not served:
                raise self._not_served(status)
            found.append(served[0])
        return found[0], found[1]

    def _not_served(self, status: m.Status) -> HandshakeMismatch:
        """The first field in which this plan differs from the one most like it at a server."""
        peer = f"server {status.party}"
        alike = [plan.fields for plan in status.plans if plan.fields.get("model") == self.plan.name]
        fields = next(iter([*alike, *(plan.fields for plan in status.plans)]), {"model": "none"})
        try:
            compare(
                agreed_fields(self.plan, program_of(self.plan, int(fields.get("batch size", "1")))),
                fields,
                peer,
            )
        except HandshakeMismatch as error:
            return error
        return HandshakeMismatch("plan", self.plan_id[:16], "another", peer)

    def _check_plan(self) -> int:
        batch_size = 0
        for party, status in enumerate(self.plan_status()):
            batch_size = int(status.fields["batch size"])
            compare(
                agreed_fields(self.plan, program_of(self.plan, batch_size)),
                status.fields,
                f"server {party}",
            )
        return batch_size

    @property
    def is_ready(self) -> bool:
        """Whether the servers are connected to each other and have the same weight shares and
        session.
        """
        first, second = self.plan_status()
        return bool(first.session) and first.session == second.session and self.is_connected

    @property
    def is_connected(self) -> bool:
        """Whether both servers say that they are connected to each other."""
        return all(status.peer_connected for status in self.status())

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until the servers are connected to each other. Raises PeerTimeout."""
        deadline = time.monotonic() + timeout_s
        while not self.is_connected:
            if time.monotonic() > deadline:
                raise PeerTimeout(
                    f"the two servers are not connected to each other after {timeout_s:g} s",
                    "one of them does not run, or their configurations differ",
                    "see both servers' logs",
                )
            time.sleep(0.1)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the servers are connected to each other and have weights.

        Raises ShareError.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_ready:
            if time.monotonic() > deadline:
                raise ShareError(
                    f"plan '{self.plan.name}' is not ready at the servers",
                    "its weights are not shared yet, or the servers are not connected to each "
                    "other",
                    "the model's owner runs `gpumpc share-weights`; see both servers' logs",
                )
            time.sleep(0.1)

    # the model's owner

    def share_weights(self, weights: Weights) -> None:
        """Split the weights between the servers under a fresh share-pair id, and wait until they
        have opened F.

        Raises BadValue for NaN or for weights that are not those of the plan, before anything is
        sent.
        """
        sent = split_weights(self.program, integer_weights(self.program, weights), self.backend)
        if weight_digest(weights) != self.plan.weight_digest:
            raise BadValue(
                f"the weights are not those of plan '{self.plan.name}'",
                "their digest differs from the plan's weight_digest",
                "take the weights.safetensors that was compiled together with this plan.json",
            )
        request = m.ShareWeights(self.plan_id, secrets.token_hex(16))
        self.both_done(self.ask_together(request, sent), self.patience_s)

    # inputs at rest

    def share(
        self,
        values: npt.ArrayLike,
        items: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> SharedInput:
        """Split real inputs (B, *shape) between the servers, where they stay until `forget`: for
        each a 32-byte seed to server 0, words to server 1. `progress(done, of)` counts items.

        Args:
            items: an id each, 32 hex digits; new random ones where none are given. What is shared
                already stays.

        Raises BadShape, BadValue, OutOfRange before anything is sent; ShareError if an item did not
        reach both.
        """
        x = check_input(self.plan.graph.input, values)
        names = list(items) if items is not None else [secrets.token_hex(16) for _ in range(len(x))]
        if not names or len(names) != len(x) or len(set(names)) != len(names):
            raise BadShape(
                f"{len(set(names))} ids came for {len(x)} inputs",
                hint="give each input an id of its own",
            )
        n_bytes = packed_bytes(int(np.prod(x.shape[1:])), self.program.input.bits)
        size = max(1, min(ITEMS_PER_REQUEST, BYTES_PER_REQUEST // n_bytes))
        for start in range(0, len(names), size):
            self._share(x[start : start + size], names[start : start + size])
            if progress:
                progress(min(start + size, len(names)), len(names))
        return SharedInput(tuple(names), x.shape)

    def _share(self, x: Array, names: list[str]) -> None:
        """One portion.

        What a crash left at one server alone is deleted by `Settle` and goes out a second time.
        """
        missing, row = names, {name: i for i, name in enumerate(names)}
        for _ in range(2):
            self._put(x[[row[name] for name in missing]], missing)
            missing = self._settled(names)
            if not missing:
                return
        raise ShareError(
            f"{len(missing)} of {len(names)} inputs did not reach both servers",
            f"item {missing[0][:8]} is at one of them alone, or belongs to someone else there",
            "share them again",
        )

    def _put(self, x: Array, names: list[str]) -> None:
        bits, cipher = self.program.input.bits, self.plan.params.cipher
        seeds, rows = [], []
        for words in encode_input(self.program, x):
            seeds.append(secrets.token_bytes(SEED_BYTES))
            _, share_1 = split(
                self.backend, cipher, seeds[-1], self.backend.upload(words[None]), bits
            )
            rows.append(bytes(self.backend.pack(share_1, bits)))
        request = m.Share(self.plan_id, secrets.token_hex(16), names)
        self.both_done(
            self.ask((request, request), (b"".join(seeds), b"".join(rows))), self.patience_s
        )

    def _settled(self, names: list[str]) -> list[str]:
        """Have both servers compare what they hold; what is missing at one of them."""
        sequence = self.ask_together(m.Settle(self.plan_id, secrets.token_hex(16), names))
        missing: set[str] = set()
        for party in (0, 1):
            reply, _ = self.answer(party, sequence, self.patience_s)
            if not isinstance(reply, m.Settled):
                raise BadFrame(
                    f"server {party} did not settle", hint="use the same version everywhere"
                )
            missing |= {*reply.missing}
        return [name for name in names if name in missing]

    def list_inputs(self) -> list[str]:
        """Items of this user with inputs at both servers."""
        first, second = self.listed(m.ListItems(self.plan_id, "inputs"))
        return sorted({*first} & {*second})

    def store_status(self) -> tuple[m.StoreStatus, m.StoreStatus]:
        """How much each server holds of this user's. Raises PeerTimeout."""
        (first, _), (second, _) = self.both(m.GetStoreStatus(), m.StoreStatus)
        return first, second

    def delete(self, shared: SharedInput | Sequence[str], inputs_only: bool = False) -> None:
        """Delete items at both servers: inputs, results and their rows in every index; or their
        inputs alone.
        """
        items = _items(shared)
        for start in range(0, len(items), ITEMS_PER_REQUEST):
            request = m.Delete(
                items[start : start + ITEMS_PER_REQUEST], "inputs" if inputs_only else "all"
            )
            self.both_done(self.ask((request, request)), ANSWER_S)

    # evaluation

    def run(
        self,
        shared: SharedInput | Sequence[str],
        progress: Progress | None = None,
        source: PlanRecord | None = None,
    ) -> SealedResult:
        """Evaluate items; the result stays sealed until `reveal`. `progress(done, of)` counts
        batches.

        Args:
            source: None: the items' inputs; else the plan whose kept results are this plan's input.

        Raises RemoteError with the server's reason, PeerLost, PeerTimeout: the items stay where
        they are.
        """
        items, source_id = _items(shared), plan_hash(source).hex() if source else None
        return self._sealed(
            items,
            progress,
            lambda job, names: self.ask_together(m.Run(self.plan_id, job, names, source_id)),
        )

    def extract(
        self,
        shared: SharedInput | Sequence[str],
        progress: Progress | None = None,
        source: PlanRecord | None = None,
    ) -> list[str]:
        """Evaluate items and keep the results at the servers as shares, under the same ids; returns
        these.

        What is kept already stays as it is, so after any crash the same call goes on where it was.
        Raises like `run`.
        """
        items, source_id = _items(shared), plan_hash(source).hex() if source else None
        size = BATCHES_PER_REQUEST * self.batch_size
        of = -(-len(items) // self.batch_size)
        for start in range(0, len(items), size):
            before = start // self.batch_size
            request = m.Extract(
                self.plan_id, secrets.token_hex(16), items[start : start + size], source_id
            )
            self.until_done(self.ask_together(request), _shifted(progress, before, of))
        return items

    def list_features(self) -> list[str]:
        """Items of this user with results at both servers."""
        first, second = self.listed(m.ListItems(self.plan_id, "features"))
        return sorted({*first} & {*second})

    def features(
        self, shared: SharedInput | Sequence[str], progress: Progress | None = None
    ) -> SealedResult:
        """Kept results, sealed to this user. Raises RemoteError naming an item without one."""
        return self._sealed(
            _items(shared),
            progress,
            lambda job, names: self.ask((m.GetFeatures(self.plan_id, job, names),) * 2),
        )

    def _sealed(
        self, items: list[str], progress: Progress | None, ask: Callable[[str, list[str]], int]
    ) -> SealedResult:
        """Every portion's parts from both servers."""
        if not items:
            raise BadShape("no item is named", "there is nothing to compute", "name at least one")
        jobs: list[tuple[str, Parts]] = []
        size = max(self.batch_size, ITEMS_PER_REQUEST // self.batch_size * self.batch_size)
        for start in range(0, len(items), size):
            job, names = secrets.token_hex(16), items[start : start + size]
            shifted = (
                _shifted(progress, start // self.batch_size, -(-len(items) // self.batch_size))
                if len(items) > size
                else progress
            )
            jobs.append((job, self.collect(job, ask(job, names), shifted)))
        value = self.program.result

        def reveal() -> Array:
            opened = [
                self.opened(self.plan_id, job, parts, value.shape[1:], value.bits)
                for job, parts in jobs
            ]
            return decode_result(self.program, np.concatenate(opened))

        return SealedResult(reveal, len(items))

    # search

    def create_index(
        self, name: str, metric: Metric = "l2", dim: int | None = None, classes: Sequence[str] = ()
    ) -> Index:
        """An index over this plan's results, made if there is none of this name.

        With classes its rows carry secret labels, and the nearest can vote
        (`RemoteIndex.classify`). Both servers read the classes' names, and nobody which row has
        which.

        Raises BadShape for another dimension than the results have, RemoteError for another metric.
        """
        index = Index(self, name, metric, tuple(classes))
        if dim not in (None, index.dim):
            raise BadShape(
                f"an index of dimension {dim} was asked for",
                f"the results of plan '{self.plan.name}' have {index.dim} entries",
                "leave `dim` out, or use the plan whose results have it",
            )
        request = m.IndexCreate(self.plan_id, name, metric, tuple(classes))
        self.both_done(self.ask((request, request)), ANSWER_S)
        return index

    def open_index(self, name: str) -> Index:
        """An index that is there. Raises RemoteError if it is not."""
        (first, _), (second, _) = self.both(m.IndexInfo(self.plan_id, name), m.ItemList)
        if first != second:
            raise BadFrame(
                "the servers describe an index differently",
                hint="restart both servers, and make it anew",
            )
        return Index(self, name, first.metric, first.classes)  # type: ignore[arg-type]  # what the servers accepted at its making


def _items(shared: SharedInput | Sequence[str]) -> list[str]:
    return list(shared.items if isinstance(shared, SharedInput) else shared)


def _shifted(progress: Progress | None, before: int, of: int) -> Progress | None:
    """Progress of a part as progress of the whole."""
    return (lambda done, _: progress(before + done, of)) if progress else None


def connect(config: ClientConfig, plan: PlanRecord, timeout_s: float = CONNECT_S) -> Client:
    """A client, waiting for servers that are still starting.

    Raises the last error after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return Client(config, plan)
        except (AccessDenied, ConfigError, HandshakeMismatch):
            raise  # waiting would not change it
        except GpumpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
