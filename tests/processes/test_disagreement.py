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
from gpumpc.deploy.keys import keygen
from gpumpc.errors import HandshakeMismatch, RemoteError
from gpumpc.local.compile import Plan
from gpumpc.params import Params
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


# Server 0 cheats in its second run: it takes the number of the first one again, ...
_SECOND_USE = """
from gpumpc.offline.ledger import Ledger
from gpumpc.server.peer_loop import PeerLoop
Ledger.reserve = Ledger.spend = lambda ledger, session_id, batch: None
carry_out, lead, runs = PeerLoop._carry_out, PeerLoop._lead, []
def carry_out_and_count(loop, channel, job, first_batch):
    carry_out(loop, channel, job, first_batch)
    if "run" in job.what:
        runs.append(first_batch)
def lead_back(loop, channel):
    if len(runs) == 1:
        for engine in loop._engines.values():
            engine.next_batch = runs[0]
    lead(loop, channel)
PeerLoop._carry_out, PeerLoop._lead = carry_out_and_count, lead_back
"""
# ... or sends the first frame of batch 1 twice.
_REPLAY = """
from gpumpc.wire.channel import Channel
from gpumpc.wire.frames import Kind, encode_header
send = Channel._send_opening
def send_twice(channel, payload, how):
    if any(channel._session) and channel._batch == 1 and channel._out == 0:
        place = {"batch_index": 1, "sequence": 0}
        n_bytes = sum(map(len, payload))
        header = encode_header(Kind.OPENING, n_bytes, session=channel._session, **place)
        channel.transport.put(header, payload)
    return send(channel, payload, how)
Channel._send_opening = send_twice
"""
ATTACKS = {
    "second use": (_SECOND_USE, "BatchAlreadyUsed: batch 0 of session .* was used before"),
    "replay": (_REPLAY, "a frame of server.* was refused.*number 1 was due and number 0 came"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_server_1_refuses_used_batches_and_replayed_frames(tmp_path: Path, attack: str) -> None:
    fault, refusal = ATTACKS[attack]
    cluster = Cluster.make(tmp_path, SAME)
    cluster.faults["server0"] = fault
    with cluster, cluster.ready() as client:
        shared = client.share(images(1))
        client.run(shared)
        request = m.Run(client.plan_id, secrets.token_hex(16), shared)
        sequence = client.ask_together(request)
        with pytest.raises(RemoteError, match=refusal):
            while True:
                client.answer(1, sequence, LIMIT_S)


def test_same_name_and_new_weights_are_another_plan(cluster: Cluster) -> None:
    with pytest.raises(HandshakeMismatch, match="'weight version'"):
        cluster.client(tiny(seed=8, params=Params(ring_bits=32, frac_bits=8)))
