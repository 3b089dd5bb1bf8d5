"""Dealer, server 0 and server 1 as three threads of one process, over a real in-memory channel.

For trying out, for tests and for research on networks: it protects nothing, since one process holds
both shares. Only messages cross between the threads; each server keeps its shares in a dictionary
of its own, and only `reveal` adds them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import secrets
import tempfile
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gpumpc.arguments import real_array, shown, whole
from gpumpc.engine.binary_program import binary_program, is_local
from gpumpc.engine.dealer_engine import DealerEngine
from gpumpc.engine.engine import Engine
from gpumpc.engine.in_process import run_both
from gpumpc.engine.party import Party
from gpumpc.errors import BadShape, BadValue, ForeignShare
from gpumpc.local.local_dealer import LocalDealer
from gpumpc.local.shared_tensor import SharedTensor
from gpumpc.nn.plaintext import check_input
from gpumpc.offline import seeds
from gpumpc.offline.ledger import Ledger
from gpumpc.offline.secret import Secret
from gpumpc.program.compiler import program_of
from gpumpc.program.integers import decode_result, encode_input, integer_weights
from gpumpc.program.plan import PlanRecord
from gpumpc.program.program import Program
from gpumpc.program.weight_shares import split_weights
from gpumpc.ring.backend import Backend
from gpumpc.ring.fixed_point import decode, encode
from gpumpc.session import PartyRandomness, Session
from gpumpc.shares import Additive, reconstruct, split
from gpumpc.wire.channel import memory_pair

_DEAL_S = 60.0
T = TypeVar("T")


def _forget(stores: tuple[dict[int, Additive], dict[int, Additive]], key: int) -> None:
    for store in stores:
        store.pop(key, None)


class LocalSession:
    """Shares, runs and reveals within this process.

    Args:
        plan, weights: a compiled network; its owner is this process.
        batch_size: images a batch; a run takes any number and pads the last batch.
        backend: for all three roles.
        program: runs on inputs of the plan in place of its network; the weights are then this
            program's.
    """

    def __init__(
        self,
        plan: PlanRecord,
        weights: Mapping[str, npt.NDArray[np.floating]],
        batch_size: int,
        backend: Backend,
        program: Program | None = None,
    ) -> None:
        self.plan, self.backend = plan, backend
        self.owner = secrets.token_hex(8)
        self._folder = tempfile.TemporaryDirectory(prefix="gpumpc-")
        folder = Path(self._folder.name)
        self._roots = Secret(secrets.token_bytes(32)), Secret(secrets.token_bytes(32))
        pair_secret = Secret(secrets.token_bytes(32))
        self._ledgers = [Ledger(folder / f"s{p}" / "ledger.sqlite") for p in (0, 1)]
        self._channels = memory_pair()
        self._threads = ThreadPoolExecutor(3, thread_name_prefix="gpumpc")
        self.program = program or program_of(plan, batch_size)
        self._dealer = DealerEngine(plan, self.program, self._roots, backend)
        self._dealing = LocalDealer(self._dealer, self._roots)
        self._pool = self._dealing.pool
        self._engines = []
        for p, source in enumerate((None, self._dealing)):
            party = Party(p, self._roots[p], pair_secret, self._ledgers[p], backend, source)
            state = folder / f"s{p}"
            self._engines.append(Engine(party, plan, batch_size, state, program=self.program))
        self._stores: tuple[dict[int, Additive], dict[int, Additive]] = ({}, {})
        self._keys = itertools.count()
        try:
            self._start(weights)
        except BaseException:
            self.close()
            raise

    def _start(self, weights: Mapping[str, npt.NDArray[np.floating]]) -> None:
        sent = split_weights(self.program, integer_weights(self.program, weights), self.backend)
        weight_sharing_id = secrets.token_hex(16)

        def start(party: int) -> None:
            engine, channel = self._engines[party], self._channels[party]
            engine.agree(channel)
            raw = engine.receive_weights(memoryview(sent[party]))
            engine.install_weights(channel, weight_sharing_id, raw)

        self._both(start)
        self._dealing.binding = self._engines[0].binding

    def __enter__(self) -> LocalSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and delete everything; safe to call twice."""
        for channel in self._channels:
            channel.close()
        self._threads.shutdown()
        for ledger in self._ledgers:
            ledger.close()
        self._folder.cleanup()

    def _both(self, work: Callable[[int], T], deal: Callable[[], None] = lambda: None) -> list[T]:
        """Run `work(party)` for both servers and `deal`, each in its thread; raises the cause.

        After an error both servers get a new channel: the old one holds frames of a burnt batch.
        """
        self._pool.forget_failures()
        try:
            return [*run_both(work, self._channels, deal, self._threads)]
        except BaseException:
            for channel in self._channels:
                channel.close()
            self._channels = memory_pair()
            raise

    # share, run, reveal

    def share(self, values: npt.ArrayLike) -> SharedTensor:
        """Split real inputs (B, *shape of the plan's input) as an owner does.

        Raises BadShape, BadValue, OutOfRange.
        """
        x = check_input(self.plan.graph.input, values)
        value = self.program.input
        return self._hand_out(encode_input(self.program, x), value.bits, value.frac)

    def share_array(
        self, values: npt.ArrayLike, bits: int | None = None, frac: int | None = None
    ) -> SharedTensor:
        """Split any real array, modulo 2^bits at scale 2^frac (the plan's k and f unless given)."""
        params = self.plan.params
        bits = whole("bits", params.ring_bits if bits is None else bits, 1, 64)
        frac = whole("frac", params.frac_bits if frac is None else frac, 0, bits)
        words = encode(real_array(values), 2.0**frac, bits)
        return self._hand_out(words, bits, frac)

    def _hand_out(self, words: npt.NDArray[np.uint64], bits: int, frac: int) -> SharedTensor:
        key = secrets.token_bytes(32)
        shares = split(self.backend, self.plan.params.cipher, key, self.backend.upload(words), bits)
        return self._keep([Additive(share, bits, frac, owner=self.owner) for share in shares])

    def _keep(self, shares: list[Additive], is_index: bool = False) -> SharedTensor:
        key = next(self._keys)
        for store, share in zip(self._stores, shares, strict=True):
            store[key] = dataclasses.replace(share, owner=self.owner)
        first, owner = shares[0], self.owner
        shape, scale = tuple(first.words.shape), (first.bits, first.frac, first.divisor)
        handle = SharedTensor(shape, *scale, owner, key, is_index, self)
        # Shares live as long as somebody can ask for them.
        weakref.finalize(handle, _forget, self._stores, key)
        return handle

    def run(self, x: SharedTensor) -> SharedTensor:
        """The network on a shared input; the result stays shared."""
        self._check_owner(x)
        want = self.program.input.shape
        if x.shape[1:] != want[1:]:
            what, why = (
                f"the shared input has shape {x.shape}",
                f"the plan takes (batch, {want[1:]})",
            )
            raise BadShape(what, why, "share such a one")
        parts = [self._run_batch(x, start) for start in range(0, x.shape[0], want[0])]
        shares = []
        for party in (0, 1):
            words = self.backend.concat([part[party].words for part in parts], 0)[: x.shape[0]]
            shares.append(parts[0][party].with_words(words))
        return self._keep(shares, self.program.result_is_index)

    def deal_ahead(self, n_batches: int) -> None:
        """Deal the next batches now; a run deals missing ones while it computes."""
        first = self._next_batch
        for batch_index in range(first, first + whole("n_batches", n_batches, least=0)):
            self._dealing.deal(batch_index)

    @property
    def _next_batch(self) -> int:
        return max(engine.next_batch for engine in self._engines)

    def _run_batch(self, x: SharedTensor, start: int) -> list[Additive]:
        size, batch_index = self.program.input.shape[0], self._next_batch
        self._dealing.begin(batch_index)

        def run(party: int) -> Additive:
            words = self._stores[party][x._key].words[start : start + size]
            missing = size - len(words)
            if missing:
                zeros = self.backend.zeros((missing, *words.shape[1:]))
                words = self.backend.concat([words, zeros], 0)
            engine = self._engines[party]
            return engine.run(self._channels[party], batch_index, engine.operand(words))[0]

        return self._both(run, lambda: self._dealing.deal(batch_index))

    def reveal(self, x: SharedTensor) -> npt.NDArray[np.float64]:
        """Both shares of a value, added, as reals."""
        self._check_owner(x)
        shares = (store[x._key] for store in self._stores)
        words = self.backend.download(reconstruct(self.backend, *shares))
        if x._is_index:
            return decode_result(self.program, words)
        return decode(words, 2.0**x.frac * x.divisor, x.bits)

    # arithmetic on handles

    def combine(
        self,
        operator: str,
        x: SharedTensor,
        y: SharedTensor,
        on_dealt: Callable[[], None] | None = None,
    ) -> SharedTensor:
        """x (operator) y for + - * @; a product is truncated to scale 2^f and lifted to its bits.

        Its corrections are dealt while it is computed; with `on_dealt` they are dealt first, and
        then it is called.
        """
        if not isinstance(y, SharedTensor):
            raise TypeError("a SharedTensor combines with such only; share the other operand first")
        self._check_owner(x)
        self._check_owner(y)
        if is_local(operator):
            return self._keep([self._add(party, operator, x, y) for party in (0, 1)])
        program = binary_program(operator, x, y, self.plan.params)
        return self._keep(self._run_once(program, x, y, on_dealt))

    def _add(self, party: int, operator: str, x: SharedTensor, y: SharedTensor) -> Additive:
        left, right = self._stores[party][x._key], self._stores[party][y._key]
        if operator == "-":
            right = right.with_words(self.backend.scale(right.words, -1, right.bits))
        return left.plus(self.backend, right)

    def _run_once(
        self,
        program: Program,
        x: SharedTensor,
        y: SharedTensor,
        on_dealt: Callable[[], None] | None,
    ) -> list[Additive]:
        """A program of its own session, used for one batch."""
        session_id = secrets.token_bytes(seeds.SESSION_BYTES)
        cipher = self.plan.params.cipher
        deal = functools.partial(self._dealing.deal_once, session_id, program)

        def run(party: int) -> Additive:
            corrections = self._pool.take(session_id, 0, _DEAL_S) if party else None
            self._channels[party].begin(session_id, 0)
            tree = seeds.SeedTree(self._roots[party].expose(), session_id, 0)
            own = PartyRandomness(party, self.backend, cipher, tree, {})
            session = Session(own, self._channels[party], corrections)
            operands = [dataclasses.replace(self._stores[party][t._key], owner="") for t in (x, y)]
            return program.run(session, *operands)

        try:
            if on_dealt is None:
                return self._both(run, deal)
            deal()
            on_dealt()
            return self._both(run)
        finally:
            self._pool.drop((session_id, 0))  # after a failed run; a good one has used it up

    def _check_owner(self, x: object) -> None:
        if not isinstance(x, SharedTensor):
            what, why = f"{shown(x)} is not shared", "the network runs on shared tensors"
            raise BadValue(what, why, "share it first: local.run(local.share(x))")
        if x.owner != self.owner:
            what = f"a tensor of session {x.owner} was given to session {self.owner}"
            why = "this session's servers hold no shares of it"
            raise ForeignShare(what, why, "share the value in this session")
