"""Disagreeing parties stop before the first masked byte; batch numbers and frames count once."""

import re
import secrets
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from gpumpc import messages as m
from gpumpc.client.client import Client
from gpumpc.deploy.config import load_server
from gpumpc.deploy.keys import agree_pair, agree_root, keygen, load_identity
from gpumpc.engine.engine import Engine
from gpumpc.engine.party import Party
from gpumpc.errors import HandshakeMismatch, RemoteError
from gpumpc.local.compile import Plan
from gpumpc.offline.ledger import Ledger
from gpumpc.params import Params
from gpumpc.ring.choose import choose_backend
from gpumpc.server.requests.request import named
from gpumpc.server.share_store import ShareStore, digest
from gpumpc.store import Store
from gpumpc.wire.channel import Channel
from gpumpc.wire.frames import Kind, encode_header
from gpumpc.wire.zmq_channel import PeerSocket
from tests.processes.bad_input import ask
from tests.processes.cluster import LIMIT_S, SLACK_S, Cluster, close, images, rewrite, tiny

SAME = tiny()


def changed(**fields: object) -> Plan:
    """The same plan but for some parameters."""
    params = msgspec.structs.replace(SAME.record.params, **fields)
    return Plan(msgspec.structs.replace(SAME.record, params=params), SAME.weights)


# Server 1's plan and batch size in place of SAME and 2, by the field that both must name.
OTHERS: dict[str, tuple[Plan, int]] = {
    "ring and fraction bits": (changed(ring_bits=34), 2),
    "'ring and fraction bits'": (changed(frac_bits=9), 2),
    "cipher": (changed(cipher="chacha20"), 2),
    "batch size": (SAME, 3),
    "weights": (changed(weights="public"), 2),
    "weight version": (tiny(seed=8), 2),
    "model": (tiny(name="other"), 2),
    "batches in flight": (SAME, 2),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cluster]]:
    """Two servers for each disagreement, all started at once."""
    found = {}
    for field, (other, batch) in OTHERS.items():
        folder = tmp_path_factory.mktemp("pair")
        cluster = found[field] = Cluster.make(folder, SAME)
        other.save(folder / "other")
        # Sixteen processes begin together and none computes: NumPy loads fastest.
        rewrite(cluster.setup.server0, backend="numpy")
        plans, in_flight = [str(folder / "other")], 2 if field == "batches in flight" else 1
        changes: dict[str, object] = {"plans": plans, "batch_size": batch, "in_flight": in_flight}
        rewrite(cluster.setup.server1, backend="numpy", **changes)
        cluster.names = ["server0", "server1"]
        cluster.start()
    yield found
    for cluster in found.values():
        cluster.stop()


@pytest.mark.parametrize("field", OTHERS)
def test_servers_that_disagree_stop_and_name_the_field(
    pairs: dict[str, Cluster], field: str
) -> None:
    cluster = pairs[field]
    failed = "HandshakeMismatch: handshake with server [01] failed"
    for name, process in cluster.processes.items():
        assert process.wait(10) == 1
        log = cluster.log(name)
        assert re.search(f"{failed}: the field '?{field}'? differs", log), log
        assert "What to do: give both parties the same plan" in log and "Traceback" not in log
    assert not (cluster.folder / "begun").exists()  # no masked byte has left


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster.make(tmp_path_factory.mktemp("agree"), SAME) as cluster:
        assert cluster.serves()
        yield cluster


def second(cluster: Cluster, name: str, change: Callable[[Path], None]) -> tuple[int, str]:
    """Start one more process with a changed configuration: its exit status and its log."""
    file: Path = getattr(cluster.setup, name)
    saved, start = file.read_text(), len(cluster.log(name))
    change(file)
    began = time.monotonic()
    process = cluster._spawn(name, cluster._commands()[name])
    try:
        code = process.wait(LIMIT_S + SLACK_S)
    finally:
        process.kill()
        process.wait()
        file.write_text(saved)
    assert time.monotonic() - began < LIMIT_S + SLACK_S
    return code, cluster.log(name)[start:]


def test_dealer_with_another_plan_is_refused(cluster: Cluster) -> None:
    changed(ring_bits=34).save(cluster.folder / "other")
    plans = [str(cluster.folder / "other")]
    code, log = second(cluster, "dealer", lambda file: rewrite(file, plans=plans))
    assert code == 1 and "the field 'ring and fraction bits' differs" in log
    assert cluster.serves()  # with the dealer that was there before


def test_dealer_with_another_root_is_refused(cluster: Cluster) -> None:
    """Its CURVE key is on the servers' card and its X25519 key is not: the card is a wrong one."""
    folder = cluster.folder / "odd"
    keygen(folder, "dealer", "dealer")
    for file in ("secret.toml", "card.toml"):
        old = tomllib.loads((cluster.folder / "dealer" / file).read_text())
        rewrite(folder / file, **{key: old[key] for key in old if key.startswith("curve")})
    code, log = second(cluster, "dealer", lambda file: rewrite(file, identity="odd"))
    assert code == 1 and "the field 'root' differs" in log
    assert cluster.serves()


def test_secret_readable_by_others_is_refused(cluster: Cluster) -> None:
    secret = cluster.folder / "dealer" / "secret.toml"
    secret.chmod(0o640)
    try:
        code, log = second(cluster, "dealer", lambda file: None)
    finally:
        secret.chmod(0o600)
    assert code == 1 and f"ExposedSecret: the secret file {secret} is open" in log
    assert f"chmod 600 {secret}" in log


def test_state_folder_of_the_other_server_is_refused(cluster: Cluster) -> None:
    other = {"state": "state0", "listen": "tcp://127.0.0.1:0"}
    code, log = second(cluster, "server1", lambda file: rewrite(file, **other))
    assert code == 1 and "belongs to another party than server1" in log
    assert "its own state folder" in log
    code, log = second(cluster, "server1", lambda file: rewrite(file, listen=other["listen"]))
    assert code == 1 and "is in use" in log  # two processes with one ledger


def test_restored_state_folder_needs_new_weight_shares(cluster: Cluster) -> None:
    """Its weight shares are of an earlier sharing: they are not computed with."""
    _stop(cluster, "server1")
    state, copy = cluster.folder / "state1", cluster.folder / "copy"
    shutil.copytree(state, copy)
    cluster.start()
    with cluster.ready() as client:
        shared = client.share(images(1))
        client.share_weights(SAME.weights)
        client.run(shared)
    _stop(cluster, "server1")
    shutil.rmtree(state)
    shutil.copytree(copy, state)
    cluster.start()
    with cluster.client() as client:
        client.wait_connected(10.0)
        again = client.share(images(1))
        with pytest.raises(RemoteError, match="stores do not belong together.*share-weights"):
            client.run(again)
        with pytest.raises(RemoteError, match="is not here|do not belong together"):
            client.run(shared)  # came after the copy was made
        client.share_weights(SAME.weights)
        assert close(SAME, images(1), client.run(again).reveal())
    begun = cluster.begun()
    assert len(begun) == len({*begun})


def _stop(cluster: Cluster, name: str) -> None:
    cluster.processes[name].terminate()
    assert cluster.processes[name].wait(8) == 0


def test_wrong_peer_key_is_logged_with_a_hint(cluster: Cluster, tmp_path: Path) -> None:
    """Server 1 expects another key of server 0: the log says whose card to copy."""
    keygen(tmp_path / "odd", "server0", "server0")
    _stop(cluster, "server1")
    start = len(cluster.log("server1"))
    saved = cluster.setup.server1.read_text()
    rewrite(cluster.setup.server1, peer_card=str(tmp_path / "odd" / "card.toml"))
    cluster.start()
    try:
        log = cluster.wait_log("server1", "no server0 at", start=start)
        assert "its key is not the one in its card here" in log
        assert "copy its card.toml here again" in log
    finally:
        cluster.setup.server1.write_text(saved)
        _stop(cluster, "server1")
        cluster.start()
    assert cluster.serves()


def test_server_in_service_outlives_a_peer_that_differs(cluster: Cluster) -> None:
    """Server 1 starts again with another batch size and ends; server 0 waits for the right one."""
    with cluster.ready() as client:
        shared = client.share(images(1))
    _stop(cluster, "server1")
    file, start = cluster.setup.server1, len(cluster.log("server0"))
    code, log = second(cluster, "server1", lambda file: rewrite(file, batch_size=3))
    assert code == 1 and "the field 'batch size' differs" in log
    cluster.wait_log("server0", "the field 'batch size' differs", start=start)
    assert cluster.processes["server0"].poll() is None and "batch_size = 2" in file.read_text()
    cluster.start()
    with cluster.client() as client:
        client.wait_ready(LIMIT_S + SLACK_S)
        assert close(SAME, images(1), client.run(shared).reveal())


class _Server0:
    """A server 0 that the test plays with the real keys and state, so that it can cheat."""

    def __init__(self, cluster: Cluster) -> None:
        config = load_server(cluster.setup.server0)
        identity = load_identity(config.identity)
        self.ledger = Ledger(config.state / "ledger.sqlite")
        root = agree_root(identity, config.dealer, 0)
        pair_secret = agree_pair(identity, config.peer)
        backend = choose_backend()
        party = Party(0, root, pair_secret, self.ledger, backend)
        self.engine = Engine(party, SAME.record, config.batch_size, config.state)
        self.share_store = ShareStore(
            Store(config.state / "store", 0, config.store_key), 0, backend
        )
        assert config.peer_listen
        socket = PeerSocket.bind(config.peer_listen, identity.curve, config.peer.curve_key)
        self.channel = Channel(socket, 0, LIMIT_S)

    def meet(self) -> None:
        from gpumpc.wire.handshake import exchange_hello

        self.channel.wait_peer(5.0)
        process = {"process": secrets.token_hex(16)}
        exchange_hello(self.channel, equal={"number of plans": "1"}, informative=process)
        self.engine.agree(self.channel)
        self.share_store.meet(self.channel)

    def order(self, client: Client, item: str, batch: int) -> int:
        """Have server 1 begin a run as batch number `batch`; the number of the request."""
        job = secrets.token_hex(16)
        deadline = time.monotonic() + LIMIT_S
        while True:  # server 1 may need a moment after the last record of the handshake
            sequence = ask(client, 1, m.Run(client.plan_id, job, [item]))
            try:
                assert isinstance(client.answer(1, sequence, LIMIT_S)[0], m.Queued)
                break
            except RemoteError as error:
                if "not connected" not in error.what or time.monotonic() > deadline:
                    raise
        kind = self.share_store.inputs(self.engine).kind
        state = digest(self.share_store.keys(kind, [item], "user"))
        order = m.Order(client.plan_id, job, f"user: run None {named([item])}", state, batch)
        self.channel.send_control(m.pack(order))
        answer, _ = m.unpack(self.channel.receive_control(LIMIT_S), m.Control)
        assert isinstance(answer, m.Accept)
        return sequence

    def close(self) -> None:
        self.channel.close()
        self.ledger.close()
        self.share_store.store.close()


@pytest.mark.parametrize("attack", ["second use", "replay"])
def test_server_1_refuses_used_batches_and_replayed_frames(cluster: Cluster, attack: str) -> None:
    with cluster.ready() as client:
        shared = client.share(images(1))
        client.run(shared)
        _stop(cluster, "server0")
        server_0 = _Server0(cluster)
        try:
            server_0.meet()
            fresh = server_0.engine.next_batch
            batch = fresh - 1 if attack == "second use" else fresh
            sequence = server_0.order(client, shared[0], batch)
            channel, session_id = server_0.channel, server_0.engine.session_id
            channel.begin(session_id, batch)
            if attack == "second use":
                pattern = f"BatchAlreadyUsed: batch {batch} of session .* was used before"
                with pytest.raises(RemoteError, match=pattern):
                    channel.receive()
            else:
                server_0.ledger.reserve(session_id, batch)
                steps = server_0.engine.program.steps
                size = next(step.cost.s0_bytes for step in steps if step.cost.s0_bytes)
                for _ in range(2):
                    frame = encode_header(Kind.OPENING, size, session=session_id, batch_index=batch)
                    channel.transport.put(frame, [bytes(size)])
                twice = "number 1 was due and number 0 came: it came twice"
                pattern = f"BadFrame: a frame of server0 was refused.*{twice}"
            with pytest.raises(RemoteError, match=pattern):
                client.answer(1, sequence, LIMIT_S)
        finally:
            server_0.close()
            cluster.start()
    assert cluster.serves()


def test_same_name_and_new_weights_are_another_plan(cluster: Cluster) -> None:
    with pytest.raises(HandshakeMismatch, match="'weight version'"):
        cluster.client(tiny(seed=8, params=Params(ring_bits=32, frac_bits=8)))
