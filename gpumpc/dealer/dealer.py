"""The dealer process: agrees with both servers, then deals the batches that server 1 asks for."""

import contextlib
import functools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from gpumpc import messages as m
from gpumpc.deploy.config import DealerConfig
from gpumpc.deploy.keys import agree_root, load_identity
from gpumpc.engine.correction_queue import CorrectionQueue
from gpumpc.engine.dealer_engine import DealerEngine
from gpumpc.errors import (
    AccessDenied,
    BadFrame,
    GpumpcError,
    HandshakeMismatch,
    PeerTimeout,
    WireError,
)
from gpumpc.program import plan as plan_files
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.compiler import program_of
from gpumpc.program.plan import PlanRecord, plan_hash
from gpumpc.program.program import Program
from gpumpc.ring.choose import choose_backend
from gpumpc.wire.frames import Kind
from gpumpc.wire.handshake import compare, pack_hello, unpack_hello
from gpumpc.wire.wait_for_peer import wait_for_peer
from gpumpc.wire.zmq_channel import Requester

_ALIVE_S = 1.0
_HELLO_S = 5.0
_RECONNECT_S = 0.5

log = logging.getLogger("gpumpc")


class Dealer:
    """Deals for one pair of servers. `run` returns after `stop`.

    Raises on construction: ConfigError, ExposedSecret, CorruptPlan.
    """

    def __init__(self, config: DealerConfig) -> None:
        self.config = config
        self._identity = load_identity(config.identity)
        first, second = config.server_cards
        self._roots = agree_root(self._identity, first, 0), agree_root(self._identity, second, 1)
        self._plans: list[tuple[PlanRecord, Program]] = []
        self._engines: dict[str, DealerEngine] = {}
        for folder in config.plans:
            plan = plan_files.load(folder)
            program = program_of(plan, config.batch_size)
            self._plans.append((plan, program))
            engine = DealerEngine(plan, program, self._roots, choose_backend(), config.task_bytes)
            self._engines[plan_hash(plan).hex()] = engine
        self._stopping = threading.Event()
        self._heartbeat_at, self._has_agreed = 0.0, False
        # Steps are dealt here, so that this thread sends heartbeats also during a long one.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="dealing")

    def stop(self) -> None:
        """Ask `run` to return; from any thread or a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Deal until `stop`.

        Raises HandshakeMismatch, AccessDenied if the servers have never agreed: nothing can be
        dealt then.
        """
        while not self._stopping.is_set():
            servers: list[Requester] = []
            try:
                if self._meet(servers):
                    log.info("the dealer is connected to both servers and agrees")
                    self._has_agreed = True
                    self._serve(servers)
            except (HandshakeMismatch, AccessDenied) as error:
                if not self._has_agreed:
                    raise
                # A server was started again with something else: wait for the right one.
                log.error("%s", error)
                self._stopping.wait(_RECONNECT_S)
            except GpumpcError as error:
                log.warning("%s", error)
                self._stopping.wait(_RECONNECT_S)
            except Exception:  # such as for want of memory
                log.exception("the connection to the servers failed")
                self._stopping.wait(_RECONNECT_S)
            finally:
                for server in servers:
                    server.close()
        self._executor.shutdown()

    def _meet(self, servers: list[Requester]) -> bool:
        """Connect to both servers and agree; whether both are there. They are added to the list."""
        for party in (0, 1):
            servers.append(self._connect(party))
            if not wait_for_peer(servers[party].wait_peer, self._stopping, connects=True):
                return False
            if party == 1:
                servers[party].open_stream(self.config.dealer_bulk)
            self._agree(servers[party], party)
        return not self._stopping.is_set()

    def _connect(self, party: int) -> Requester:
        config = self.config
        endpoint, key = config.server_endpoints[party], config.server_cards[party].curve_key
        return Requester(endpoint, self._identity.curve, key, peer=f"server{party}")

    def _agree(self, server: Requester, party: int) -> None:
        for index, (plan, program) in enumerate(self._plans):
            ours = {
                "root": self._roots[party].fingerprint(),
                "number of plans": str(len(self._plans)),
                **agreed_fields(plan, program),
            }
            server.send(Kind.HELLO, pack_hello(ours, {}), sequence=index)
            frame = server.receive(_HELLO_S)
            if frame.kind is not Kind.HELLO:
                what = f"server {party} answered a hello with {frame.kind.name}"
                raise BadFrame(what, hint="use the same version")
            compare(ours, unpack_hello(frame.payload).equal, f"server {party}")

    def _serve(self, servers: list[Requester]) -> None:
        self._heartbeat_at = 0.0  # due at once: the first tells server 1 that all plans agree
        while not self._stopping.is_set():
            self._send_heartbeats(servers)
            with contextlib.suppress(PeerTimeout):
                frame = servers[1].receive(_ALIVE_S)
                want, _ = m.unpack(frame.payload, m.DealerTalk)
                if isinstance(want, m.WantBatch):
                    self._deal(servers, want)

    def _send_heartbeats(self, servers: list[Requester]) -> None:
        if time.monotonic() - self._heartbeat_at > _ALIVE_S / 2:
            self._heartbeat_at = time.monotonic()
            for server in servers:
                server.send(Kind.CONTROL, m.pack(m.Heartbeat()))

    def _deal(self, servers: list[Requester], want: m.WantBatch) -> None:
        """Deal a batch, or tell server 1 why not: no request ends the dealer."""
        try:
            self._send_batch(servers, want)
        except WireError:
            raise  # the connection is lost: the next one asks again
        except GpumpcError as error:
            log.warning("batch %d is not dealt: %s", want.batch_index, error)
            refusal = error.what, error.why, error.hint
        except Exception as error:  # such as for want of memory
            log.exception("batch %d is not dealt", want.batch_index)
            hint = "see the dealer's log, give it more memory, or ask for less at a time"
            refusal = "the dealer failed", type(error).__name__, hint
        else:
            return
        record = m.DealRefused(want.session, want.batch_index, *refusal)
        servers[1].send(Kind.CONTROL, m.pack(record))

    def _send_batch(self, servers: list[Requester], want: m.WantBatch) -> None:
        engine = self._engines.get(want.plan)
        if engine is None:
            raise HandshakeMismatch("plan", "one of the dealer's", want.plan[:16], "server 1")
        nonces = bytes.fromhex(want.nonce_0), bytes.fromhex(want.nonce_1)
        # It only labels the frames: the masks depend on the id that the dealer computes itself.
        session_id = bytes.fromhex(want.session)
        deal = functools.partial(
            engine.deal, want.weight_sharing_id, nonces, want.batch_index, task=want.task
        )
        for frame in CorrectionQueue().frames(self._executor, deal, _ALIVE_S):
            self._send_heartbeats(servers)
            if self._stopping.is_set():
                return
            if frame:
                servers[1].send(
                    Kind.CORRECTION, *frame, session=session_id, batch_index=want.batch_index
                )
