"""Prefetched words are used for their own batch or not at all; begun batches are given back."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from gpumpc.engine.engine import Engine
from gpumpc.engine.evaluation import Evaluation, ReservedBatch
from gpumpc.engine.party import Party
from gpumpc.engine.session_binding import CLOSED, SessionBinding
from gpumpc.errors import ConfigError, PeerLost
from gpumpc.offline.secret import Secret
from gpumpc.shares import Additive
from gpumpc.wire.channel import memory_pair
from gpumpc.wire.multiplexer import Multiplexer, SubChannel

BACKEND: Any = SimpleNamespace(fork=lambda: BACKEND, synchronize=lambda: None)
SESSIONS = [SessionBinding("", (b"", b""), bytes([i]) * 16) for i in range(2)]


class Later:
    """An executor whose jobs run when the test calls them."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], object]] = []

    def submit(self, work: Callable[..., object], *arguments: Any) -> None:
        self.jobs.append(lambda: work(*arguments))


def evaluation(executor: Later) -> Any:
    """An evaluation whose program prepares one step, out of the weights."""
    program: Any = SimpleNamespace(
        prepared_bytes=0,
        cost=SimpleNamespace(dealer_bytes=0),
        prepare=lambda draws: [("step", draws.weights["w"])],
    )
    plan: Any = SimpleNamespace(params=SimpleNamespace(cipher="aes128"))
    ledger: Any = SimpleNamespace(reserve=lambda session_id, batch_index: None)
    busy: Any = executor
    party = Party(0, Secret(bytes(32)), Secret(bytes(32)), ledger, BACKEND, executor=busy)
    made = Evaluation(party, plan, program)
    made.binding = SESSIONS[0]
    return made


def test_batch_uses_only_its_own_finished_preparation() -> None:
    executor = Later()
    made = evaluation(executor)
    made.weights = {"w": "first"}
    made.prepare_next()
    executor.jobs.pop()()
    assert made.begin(0).prefetched == {"step": "first"}
    late = executor.jobs.pop()
    assert made.begin(1).prefetched == {}
    late()
    assert made.begin(2).prefetched == {}


def test_stop_preparing_ends_a_running_preparation() -> None:
    executor, seen = Later(), list[str]()
    made = evaluation(executor)

    def prepare(draws: object) -> Iterator[tuple[str, str]]:
        for step in "abc":
            seen.append(step)
            made.stop_preparing()
            yield step, step

    made.program.prepare = prepare
    made.prepare_next()
    executor.jobs.pop()()
    assert seen == ["a"]


def test_preparation_is_not_used_after_weights_are_replaced() -> None:
    """Batch 0 of the next session is another batch, though its number is the same."""
    executor = Later()
    made = evaluation(executor)
    made.weights = {"w": "first"}
    made.prepare_next()
    made.binding, made.weights = SESSIONS[1], {"w": "second"}
    executor.jobs.pop()()
    assert made.begin(0).prefetched == {}


def test_ended_session_is_closed_even_on_a_full_disk() -> None:
    made, ended = evaluation(Later()), list[bytes]()

    def end_session(program_id: bytes, session_id: bytes) -> None:
        ended.append(session_id)
        raise ConfigError("the disk is full")

    made.party.ledger.end_session = end_session
    made.program.digest, made.plan = bytes(32), {}
    made.end_session()
    made.end_session()
    assert ended == [SESSIONS[0].session_id] and made.binding is CLOSED


def test_failure_releases_corrections_of_waiting_batches() -> None:
    """Otherwise they would stay in the pool until the process ends."""
    discarded, burnt = [], []

    def begin(batch_index: int) -> ReservedBatch:
        corrections: Any = SimpleNamespace(discard=lambda: discarded.append(batch_index))
        return ReservedBatch(SESSIONS[0].session_id, batch_index, corrections, {})

    def carry_out(
        sub_channel: SubChannel, reserved: ReservedBatch, *rest: object, backend: object
    ) -> Additive:
        reserved.discard()
        raise PeerLost("gone", hint="")

    engine: Any = object.__new__(Engine)
    engine.in_flight, engine.program = 2, SimpleNamespace(may_repeat=False)
    engine.backend, engine._forks = BACKEND, [BACKEND] * 2
    engine.begin, engine.carry_out, engine.operand = begin, carry_out, lambda share: share
    ledger = SimpleNamespace(burn=lambda session_id, batch_index: burnt.append(batch_index))
    engine.party = SimpleNamespace(ledger=ledger)
    with pytest.raises(PeerLost):
        list(engine.run_all(Multiplexer(memory_pair()[0]).first, 0, [None] * 5))
    assert {*discarded} == {0, 1, 2} and burnt == [2]
