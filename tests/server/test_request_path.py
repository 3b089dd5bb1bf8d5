"""How far a request travels inside a server before its first step runs."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

import pytest

import gpumpc
from gpumpc.client.client import Client, connect
from gpumpc.dealer.dealer import Dealer
from gpumpc.deploy.config import load_client, load_dealer, load_server, write_local
from gpumpc.program.compiler import program_of
from gpumpc.server.peer_loop import JobQueue, PeerLoop
from gpumpc.server.requests.handler import RequestHandler
from gpumpc.server.server import Server
from tests.processes.cluster import images, tiny

PACKAGE = str(Path(gpumpc.__file__).parent)
COMPILED = tiny()
TAKERS = {PeerLoop._lead.__code__, PeerLoop._follow.__code__}


class Tracer:
    """Writes down the stack, outermost call first, when a job is queued and a first step runs."""

    def __init__(self, first_step: CodeType) -> None:
        self.first_step = first_step
        self.queued: dict[str, list[CodeType]] = {}  # by thread
        self.run: dict[int, list[CodeType]] = {}  # by party

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        if frame.f_code is JobQueue.put.__code__:
            name = threading.current_thread().name
            self.queued[name] = self.stack(frame, {RequestHandler.handle.__code__})
        elif frame.f_code is self.first_step:
            self.run.setdefault(frame.f_locals["session"].party, self.stack(frame, TAKERS))

    def stack(self, frame: FrameType | None, outermost: set[CodeType]) -> list[CodeType]:
        found: list[CodeType] = []
        while frame is not None and not (found and found[0] in outermost):
            if frame.f_code.co_filename.startswith(PACKAGE):
                found.insert(0, frame.f_code)
            frame = frame.f_back
        assert found[0] in outermost
        return found


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    program = program_of(COMPILED.record, 2)
    tracer = Tracer(type(program.steps[0]).run.__code__)
    threading.setprofile(tracer)
    yield tracer
    threading.setprofile(None)


@pytest.fixture(scope="module")
def client(tracer: Tracer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of both servers and the dealer, each in a thread of this process."""
    folder = tmp_path_factory.mktemp("path")
    COMPILED.save(folder / "plan")
    setup = write_local(folder / "local", [folder / "plan"], 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUMPC_BACKEND", "numpy")
        servers = [Server(load_server(file)) for file in (setup.server0, setup.server1)]
        parties: list[Server | Dealer] = [*servers, Dealer(load_dealer(setup.dealer))]
    names = ("server 0", "server 1", "dealer")
    named = zip(parties, names, strict=True)
    threads = [threading.Thread(target=party.run, name=name) for party, name in named]
    for thread in threads:
        thread.start()
    try:
        with connect(load_client(setup.client), COMPILED.record, 10.0) as client:
            client.wait_connected(10.0)
            client.share_weights(COMPILED.weights)
            client.wait_ready(10.0)
            yield client
    finally:
        for party in parties:
            party.stop()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("verb", ["run", "extract"])
def test_a_request_reaches_its_first_step_in_12_calls(
    client: Client, tracer: Tracer, verb: str
) -> None:
    """From the arrival of a frame to the first step: at most 12 calls in at most 6 files.

    Counted are the package's functions on the stack, both ends included: in the listening thread
    from `RequestHandler.handle` to `JobQueue.put`, then in the peer loop's thread from `_lead` or
    `_follow`, which takes the job, to `run` of the first step. Functions that have returned are not
    counted, nor callers of the outermost two, which were entered before the request arrived.
    """
    shared = client.share(images(2))
    tracer.queued.clear()
    tracer.run.clear()
    getattr(client, verb)(shared)
    for party in (0, 1):
        path = tracer.queued[f"server {party}"] + tracer.run[party]
        calls = [f"{Path(code.co_filename).name}: {code.co_qualname}" for code in path]
        assert path[0] is RequestHandler.handle.__code__ and path[-1] is tracer.first_step
        assert len(path) <= 12, calls
        assert len({code.co_filename for code in path}) <= 6, calls
