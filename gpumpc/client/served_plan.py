"""One plan as both servers serve it, and its sealed results put together."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gpumpc import messages as m
from gpumpc.arguments import path
from gpumpc.client.connection import ITEMS_PER_REQUEST, Connection, Parts, Progress
from gpumpc.deploy.signatures import verify
from gpumpc.errors import AccessDenied, HandshakeMismatch
from gpumpc.program import plan as plan_files
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.compiler import program_of
from gpumpc.program.integers import decode_result
from gpumpc.program.plan import PlanRecord, plan_hash
from gpumpc.wire.handshake import compare

Array = npt.NDArray[np.float64]


class HasRecord(Protocol):
    """A `gpumpc.Plan`, which this package cannot import."""

    record: PlanRecord


AnyPlan = str | Path | PlanRecord | HasRecord


def record_of(plan: AnyPlan) -> PlanRecord:
    """The record of a plan, given as such or by its folder.

    Raises MissingFile, CorruptPlan; BadValue for what is neither.
    """
    record = getattr(plan, "record", plan)
    return record if isinstance(record, PlanRecord) else plan_files.load(path("plan", plan))


class SealedResult:
    """Both servers' shares of a result, sealed to this user. Only `reveal` opens and adds them.

    Attributes:
        n_items: rows of the result.
    """

    def __init__(self, open_both: Callable[[], Array], n_items: int) -> None:
        self._open_both, self.n_items = open_both, n_items

    def reveal(self) -> Array:
        """Open both shares and add them: (n_items, ...). Raises RevealError if one was changed."""
        return self._open_both()


class ServedPlan:
    """A plan that both servers serve.

    Attributes:
        batch_size: images in a batch, as the servers say.

    Raises HandshakeMismatch naming the field in which a server's plan differs, AccessDenied for
    weights that are not of the owner in this client's configuration.
    """

    def __init__(self, connection: Connection, record: PlanRecord) -> None:
        self.connection, self.record = connection, record
        self.plan_id = plan_hash(record).hex()
        self.batch_size = self._agree()
        self.program = program_of(record, self.batch_size)

    def _agree(self) -> int:
        batch_size = 0
        for party, status in enumerate(self.status()):
            batch_size = int(status.fields["batch size"])
            fields = agreed_fields(self.record, program_of(self.record, batch_size))
            compare(fields, status.fields, f"server {party}")
        return batch_size

    def status(self) -> tuple[m.PlanStatus, m.PlanStatus]:
        """This plan's status at each server.

        Raises HandshakeMismatch if one does not serve it, AccessDenied for another one's weights.
        """
        found = []
        for status in self.connection.status():
            served = [plan for plan in status.plans if plan.fields["plan"] == self.plan_id]
            if not served:
                raise self._not_served(status)
            self._check_owner(served[0], status.party)
            found.append(served[0])
        return found[0], found[1]

    def _check_owner(self, status: m.PlanStatus, party: int) -> None:
        """Raises AccessDenied for weights that another one shared than the connection's owner."""
        owner, sharing_id, found = self.connection.owner, status.weight_sharing_id, status.statement
        if owner is None or not sharing_id:
            return
        what = f"server {party} has weights of plan '{self.record.name}' not from {owner.name}"
        hint = (
            f"ask {owner.name} whether it gave the plan away or has new keys: have it share them "
            "again, or correct `owner_card` in your configuration"
        )
        if found is None:
            why = "the server has no signed statement of them, or has lost it"
            raise AccessDenied(what, why, hint)
        try:
            statement = m.weights_statement(self.plan_id, sharing_id, found.halves)
            verify(owner, "weights", statement, bytes.fromhex(found.signature))
        except AccessDenied:
            why = f"{found.shared_by} shared them, and the key of `owner_card` did not sign them"
            raise AccessDenied(what, why, hint) from None

    def _not_served(self, status: m.Status) -> HandshakeMismatch:
        """The first field in which this plan differs from the one most like it at a server."""
        peer, served = f"server {status.party}", [plan.fields for plan in status.plans]
        alike = [fields for fields in served if fields.get("model") == self.record.name]
        fields = next(iter([*alike, *served]), {"model": "none"})
        program = program_of(self.record, int(fields.get("batch size", "1")))
        try:
            compare(agreed_fields(self.record, program), fields, peer)
        except HandshakeMismatch as error:
            return error
        return HandshakeMismatch("plan", self.plan_id[:16], "another", peer)

    @property
    def is_ready(self) -> bool:
        """Whether the servers are connected and have the same weight shares and session."""
        first, second = self.status()
        same_session = bool(first.session) and first.session == second.session
        return same_session and self.connection.is_connected

    def sealed(
        self, items: Sequence[str], progress: Progress | None, ask: Callable[[str, list[str]], int]
    ) -> SealedResult:
        """Every portion's parts. `ask(job, items)` sends its requests and returns their number."""
        jobs: list[tuple[str, Parts]] = []
        size = max(self.batch_size, ITEMS_PER_REQUEST // self.batch_size * self.batch_size)
        n_batches = -(-len(items) // self.batch_size)
        for start in range(0, len(items), size):
            job, names = secrets.token_hex(16), list(items[start : start + size])
            whole = len(items) <= size
            before = start // self.batch_size
            heard = progress if whole else shifted(progress, before, n_batches)
            jobs.append((job, self.connection.collect(job, ask(job, names), heard)))
        value = self.program.result

        def reveal() -> Array:
            plan, shape, bits = self.plan_id, value.shape[1:], value.bits
            opened = [self.connection.opened(plan, *sealed, shape, bits) for sealed in jobs]
            return decode_result(self.program, np.concatenate(opened))

        return SealedResult(reveal, len(items))


def shifted(progress: Progress | None, before: int, of: int) -> Progress | None:
    """Progress of a part as progress of the whole."""
    return (lambda done, _: progress(before + done, of)) if progress else None
