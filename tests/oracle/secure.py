"""A secure run with everything written down: what an oracle must know, and what it must predict.

Both servers' engines and the dealer are those of the package, in one process. Each engine's program
also keeps the output share of every step, so that a test or a benchmark can add the two and
compare.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import re
import secrets
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from gpumpc.local import simulation as local
from gpumpc.nn.graph import Argmax
from gpumpc.offline.ledger import NONCE_BYTES, Ledger
from gpumpc.program.plan import PlanRecord, Weights
from gpumpc.program.program import Program
from gpumpc.program.weight_shares import split_weights
from gpumpc.protocols.step import Step
from gpumpc.ring.backend import Backend
from gpumpc.shares import Additive, Masked
from tests.oracle.oracle import Prediction, Seeds, Words, quantised, reduced, signed

Output = Additive | Masked


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Roots, keys, names and nonces from a number, so that a run that fails fails again."""
    count = itertools.count()

    def token_bytes(nbytes: int | None = None) -> bytes:
        return hashlib.shake_256(f"{seed}, draw {next(count)}".encode()).digest(nbytes or 32)

    def nonce(ledger: Ledger, program_id: bytes) -> bytes:
        # The two servers' threads ask in any order, so a nonce depends on who asks.
        asking = f"{seed}, {ledger.path.parent.name}".encode()
        return hashlib.shake_256(asking + program_id).digest(NONCE_BYTES)

    with (
        mock.patch.object(secrets, "token_bytes", token_bytes),
        mock.patch.object(Ledger, "nonce", nonce),
    ):
        yield


@dataclasses.dataclass(frozen=True)
class RecordingProgram(Program):
    """A program that keeps every value of the last run by name."""

    seen: dict[str, Output] = dataclasses.field(default_factory=dict)

    def _walk(self, values: dict[str, Any]) -> Iterator[Step]:
        self.seen.clear()
        self.seen.update(values)
        for step in super()._walk(values):
            yield step
            # Back here the step has run, and nothing has been dropped yet.
            self.seen[step.output] = values[step.output]


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch as it ran: number, values of both servers by name, and the result as reals."""

    number: int
    seen: tuple[Mapping[str, Output], Mapping[str, Output]]
    result: npt.NDArray[np.float64]


class SecureRun(local.LocalSession):
    """A local session that shows what a real one never would."""

    def __init__(self, plan: PlanRecord, weights: Weights, batch: int, backend: Backend) -> None:
        sent: list[bytes] = []

        def kept(*arguments: Any) -> tuple[bytes, bytes]:
            sent.extend(both := split_weights(*arguments))
            return both

        with mock.patch.object(local, "split_weights", kept):
            super().__init__(plan, weights, batch, backend)
        self._weight_seed = sent[0]
        names = [field.name for field in dataclasses.fields(Program)]
        fields = {name: getattr(self.program, name) for name in names}
        self._programs = RecordingProgram(**fields), RecordingProgram(**fields)
        for engine, program in zip(self._engines, self._programs, strict=True):
            engine.program = program

    def __enter__(self) -> SecureRun:
        return self

    @property
    def seeds(self) -> Seeds:
        """Everything random that the batches depend on."""
        root_0, root_1 = (root.expose() for root in self._roots)
        engine = self._engines[0]
        ids = self.plan.weight_digest, engine.weight_sharing_id, engine.session_id
        return Seeds((root_0, root_1), self._weight_seed, *ids)

    def run_batch(self, values: npt.NDArray[np.float64]) -> Batch:
        """At most one batch of real inputs."""
        number = max(engine.next_batch for engine in self._engines)
        result = self.run(self.share(values)).reveal()
        first, second = (dict(program.seen) for program in self._programs)
        return Batch(number, (first, second), result)

    def integers(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The integer input of a batch, with the zeros that fill it up."""
        missing = self.program.input.shape[0] - len(values)
        padded = np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
        return quantised(padded, 2.0**self.plan.params.frac_bits)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How many elements differ, by name of the value; every value that was compared has an entry.

    Attributes:
        values: sums of shares against predicted values, as signed integers: also one that left its
            ring differs.
        shares: server 0's and server 1's shares of each product, and each opened E.
        n_values: elements compared in `values`.
    """

    values: dict[str, int]
    shares: dict[str, int]
    n_values: int


def compare(session: SecureRun, batch: Batch, expected: Prediction) -> Verdict:
    """Every value of a batch with what the oracle says."""
    verdict = Verdict({}, {}, 0)
    n_values = 0
    indices = {layer.name for layer in session.plan.graph.layers if isinstance(layer, Argmax)}
    for name, first in batch.seen[0].items():
        second, layer = batch.seen[1][name], re.sub("/(open|lift|product)$", "", name)
        if isinstance(first, Masked) and isinstance(second, Masked):
            e = expected.opened[layer]
            ends = (_words(session.backend, end.opened) for end in (first, second))
            verdict.shares[name] = sum(_differing(end, e) for end in ends)
            continue
        assert isinstance(first, Additive) and isinstance(second, Additive)
        assert first.bits == second.bits
        words = (_words(session.backend, end.words) for end in (first, second))
        shares = tuple(reduced(part, first.bits) for part in words)
        total = reduced(shares[0] + shares[1], first.bits)
        # An index is never negative.
        found = total.view(np.int64) if layer in indices else signed(total, first.bits)
        is_product = name.endswith("/product") or (
            name in expected.products and f"{name}/product" not in batch.seen[0]
        )
        value = expected.products[layer] if is_product else expected.values[layer]
        verdict.values[name] = _differing(found, value)
        n_values += found.size
        if is_product:
            verdict.shares[name] = sum(map(_differing, shares, expected.shares[layer]))
    return dataclasses.replace(verdict, n_values=n_values)


def _words(backend: Backend, words: Any) -> Words:
    return np.asarray(backend.download(words), dtype=np.uint64)


def _differing(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> int:
    """Elements that differ; all of them where the shapes do."""
    same_shape = found.shape == expected.shape
    return int((found != expected).sum()) if same_shape else max(found.size, expected.size, 1)
