"""Server 1 and its dealer, without processes: batches are stored as dealt, or not at all."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumpc import messages as m
from gpumpc.deploy.config import load_server, write_local
from gpumpc.engine.session_binding import SessionBinding
from gpumpc.errors import CorrelationsMissing, GpumpcError
from gpumpc.server.dealer_link import DealerLink
from gpumpc.server.server import Server
from gpumpc.wire.frames import Frame, Kind
from gpumpc.wire.zmq_channel import Arrival
from tests.local.small_plan import compiled_plan

SESSION = bytes(range(16))
BINDING = SessionBinding("b" * 32, (bytes(16), bytes(16)), SESSION)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("GPUMPC_BACKEND", "numpy")
    compiled_plan().save(tmp_path / "plan")
    server = Server(load_server(write_local(tmp_path / "local", [tmp_path / "plan"], 2).server1))
    [engine] = server._engines.values()
    engine.binding = BINDING
    yield server
    server._listener.close()
    server._party.ledger.close()
    server._share_store.store.close()
    dealer_link_of(server).pool.close()


def dealer_link_of(server: Server) -> DealerLink:
    assert server._dealer_link is not None
    return server._dealer_link


def receive(server: Server, route: bytes, kind: Kind, payload: bytes) -> None:
    frame = Frame(kind, memoryview(payload), SESSION if kind is Kind.CORRECTION else bytes(16))
    server._answer(Arrival(server.config.dealer.name, route, frame))


def connect_dealer(server: Server, route: bytes) -> None:
    server._greeted = route
    receive(server, route, Kind.CONTROL, m.pack(m.Heartbeat()))
    server._ask_dealer()


def batch_of(server: Server) -> bytes:
    [engine] = server._engines.values()
    return bytes(i % 251 for i in range(engine.program.cost.dealer_bytes))


def test_rest_of_a_batch_is_not_stored_as_a_new_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dealer that was silent too long goes on where it was; the batch is wanted again."""
    batch = batch_of(server)
    connect_dealer(server, b"first")
    receive(server, b"first", Kind.CORRECTION, batch[:100])
    with monkeypatch.context() as patch:
        patch.setattr("gpumpc.server.dealer_link.DEALER_SILENCE_S", 0.0)
        server._ask_dealer()
    for piece in (batch[100:200], batch[200:], batch[:100], batch[100:200]):
        receive(server, b"first", Kind.CORRECTION, piece)
        server._ask_dealer()
    assert not dealer_link_of(server).pool.ahead(SESSION, 0)
    connect_dealer(server, b"second")
    receive(server, b"second", Kind.CORRECTION, batch)
    assert dealer_link_of(server).take(BINDING, 0, 1.0).read(len(batch)) == batch


def test_nothing_is_stored_after_a_failed_piece(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(server)
    connect_dealer(server, b"first")
    with monkeypatch.context() as patch:
        patch.setattr(DealerLink, "store", full)
        receive(server, b"first", Kind.CORRECTION, batch[:100])
    for piece in (batch[100:], batch[:100]):
        receive(server, b"first", Kind.CORRECTION, piece)
        server._ask_dealer()
    assert not dealer_link_of(server).pool.ahead(SESSION, 0)


def test_stopping_server_does_not_wait_for_its_dealer(server: Server) -> None:
    """A batch that is read while it arrives ends when nobody listens to the dealer any more."""
    batch = batch_of(server)
    connect_dealer(server, b"first")
    receive(server, b"first", Kind.CORRECTION, batch[:100])
    corrections, errors = dealer_link_of(server).take(BINDING, 0, 1.0), list[GpumpcError]()

    def read() -> None:
        try:
            corrections.read(len(batch))
        except GpumpcError as error:
            errors.append(error)

    worker = threading.Thread(target=read, daemon=True)
    worker.start()
    server._end(worker)
    assert not worker.is_alive() and isinstance(errors[0], CorrelationsMissing)


def full(*arguments: object) -> None:
    raise MemoryError
