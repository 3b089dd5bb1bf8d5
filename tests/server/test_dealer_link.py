"""Server 1's dealer link without processes: which batches it asks for, stores and gives up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpumpc.engine.session_binding import SessionBinding
from gpumpc.errors import BadFrame, CorrelationsMissing
from gpumpc.offline.pool import Pool
from gpumpc.server.dealer_link import DealerLink
from tests.processes.cluster import tiny

PLAN = tiny().record
NAME = "b" * 32
SESSION = bytes(range(16))
BINDING = SessionBinding(NAME, (bytes(16), bytes(16)), SESSION)


@pytest.fixture
def dealer_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("gpumpc.server.dealer_link.DEALER_SILENCE_S", 0.2)
    pool = Pool(tmp_path / "pool", 100)
    yield DealerLink(pool)
    pool.close()


def engine(first: int = 0, weight_sharing_id: str = NAME, session_id: bytes = SESSION) -> Any:
    program = SimpleNamespace(cost=SimpleNamespace(dealer_bytes=10))
    binding = SessionBinding(weight_sharing_id, (bytes(16), bytes(16)), session_id)
    return SimpleNamespace(binding=binding, first_needed=first, program=program, plan=PLAN)


def test_link_asks_for_two_batches_and_refuses_others(dealer_link: DealerLink) -> None:
    served = engine()
    wants = [dealer_link.next_want(served) for _ in range(3)]
    assert [want and want.batch_index for want in wants] == [0, 1, None]
    with pytest.raises(BadFrame, match="unasked"):
        dealer_link.store(SESSION, 2, 10, memoryview(bytes(10)))
    dealer_link.store(SESSION, 0, 10, memoryview(bytes(4)))
    dealer_link.store(SESSION, 0, 10, memoryview(bytes(6)))
    with pytest.raises(BadFrame, match="unasked"):
        dealer_link.store(SESSION, 0, 10, memoryview(bytes(10)))
    with pytest.raises(BadFrame, match="10 bytes were announced and 11 came"):
        dealer_link.store(SESSION, 1, 10, memoryview(bytes(11)))
    assert dealer_link.next_want(engine(weight_sharing_id="", session_id=b"")) is None


def test_awaited_batch_is_asked_again_after_a_restart(dealer_link: DealerLink) -> None:
    """The dealer was started again while a reserved batch waited for its corrections."""
    served = engine(first=4)
    assert getattr(dealer_link.next_want(served), "batch_index", None) == 4
    dealer_link.store(SESSION, 4, 10, memoryview(bytes(4)))
    dealer_link.restart()
    assert getattr(dealer_link.next_want(served), "batch_index", None) == 4
    dealer_link.store(SESSION, 4, 10, memoryview(bytes(10)))
    assert dealer_link.take(BINDING, 4, 1.0).read(10) == bytes(10)


def test_batches_of_ended_sessions_are_deleted(dealer_link: DealerLink) -> None:
    dealer_link.next_want(engine())
    dealer_link.next_want(engine())
    dealer_link.store(SESSION, 0, 10, memoryview(bytes(10)))
    dealer_link.store(SESSION, 1, 10, memoryview(bytes(3)))
    dealer_link.retain_sessions([b"x" * 16])
    dealer_link.drop(SESSION, 1)
    assert dealer_link.pool.sessions() == set() and not [*dealer_link.pool.folder.glob("*.*")]
    # Nothing is in flight any more.
    assert getattr(dealer_link.next_want(engine()), "batch_index", None) == 0


def test_missing_dealer_is_named(dealer_link: DealerLink) -> None:
    missing = "no dealer is connected.*start `gpumpc dealer`"
    with pytest.raises(CorrelationsMissing, match=missing):
        dealer_link.check(SESSION, 0)
    with pytest.raises(CorrelationsMissing, match=missing):
        dealer_link.take(BINDING, 0, 5.0)
    dealer_link.note_heartbeat()
    dealer_link.check(SESSION, 0)
    with pytest.raises(CorrelationsMissing):
        dealer_link.take(BINDING, 0, 0.0)
