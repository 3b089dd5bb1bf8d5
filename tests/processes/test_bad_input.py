"""Bad input to running servers: a clear error within 5 s, and they go on serving."""

from __future__ import annotations

import contextlib
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumpc import messages as m
from gpumpc.client import connection as connection_module
from gpumpc.client.client import Client, SealedResult, SharedInput, connect
from gpumpc.deploy.config import load_client
from gpumpc.deploy.keys import keygen, load_identity
from gpumpc.errors import (
    AccessDenied,
    BadShape,
    BadValue,
    GpumpcError,
    HandshakeMismatch,
    OutOfRange,
    PeerLost,
    PeerTimeout,
    RemoteError,
    RevealError,
    ShareError,
)
from gpumpc.params import Params
from gpumpc.server.jobs import MAX_JOBS_PER_CLIENT
from gpumpc.wire.frames import Kind
from tests.processes.cluster import LIMIT_S, SLACK_S, Cluster, close, images, one_line, tiny


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two users of whom only the first is an owner, and room for few uploads."""
    cluster = Cluster.make(tmp_path_factory.mktemp("bad"))
    keygen(cluster.folder / "second", "second", "user")
    for file in (cluster.setup.server0, cluster.setup.server1):
        listed = 'user_cards = ["user/card.toml", "second/card.toml"]'
        text = file.read_text().replace('user_cards = ["user/card.toml"]', listed)
        file.write_text(text + 'uploads = "8KiB"\n')
    with cluster:
        assert cluster.serves()
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.ready() as client:
        yield client


@pytest.fixture(autouse=True)
def still_serves(cluster: Cluster) -> Iterator[None]:
    yield
    assert all(process.poll() is None for process in cluster.processes.values())
    assert cluster.serves()


def refused(kind: type[GpumpcError], pattern: str, action: Callable[[], object]) -> str:
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        action()
    assert time.monotonic() - start < LIMIT_S + SLACK_S
    text = str(caught.value)
    assert re.search(pattern, text), text
    return text


def as_user(cluster: Cluster, name: str) -> Client:
    config = replace(load_client(cluster.setup.client), identity=cluster.folder / name)
    return connect(config, cluster.compiled.record)


def ask(client: Client, party: int, request: m.Request, bulk: bytes = b"") -> int:
    """A request to one server, past the client's own checks."""
    client._sequence += 1
    client._servers[party].send(Kind.REQUEST, m.pack(request, bulk), sequence=client._sequence)
    return client._sequence


def answer(client: Client, party: int, sequence: int) -> m.Reply:
    return client.answer(party, sequence, LIMIT_S + SLACK_S)[0]


# what a client can do wrong by mistake


def test_inputs_that_the_plan_does_not_admit(client: Client) -> None:
    refused(BadShape, "channels last", lambda: client.share(np.zeros((1, 4, 4, 3))))
    refused(BadShape, "takes .batch, 4, 4, 1", lambda: client.share(np.zeros((4, 4, 1))))
    refused(
        OutOfRange,
        r"spans .*declares values in \[-1, 1\]",
        lambda: client.share(np.full((1, 4, 4, 1), 1.5)),
    )
    refused(BadValue, "NaN or infinity", lambda: client.share(np.full((1, 4, 4, 1), np.nan)))
    refused(BadValue, "not an array of numbers", lambda: client.share([["a"]]))


def test_nan_in_weights(client: Client, cluster: Cluster) -> None:
    weights = type(cluster.compiled.weights)(
        cluster.compiled.weights, cluster.compiled.weights.salt
    )
    weights["fc.weight"] = np.full_like(weights["fc.weight"], np.nan)
    refused(BadValue, "layer 'fc'", lambda: client.share_weights(weights))


def test_weights_of_another_plan(client: Client, cluster: Cluster) -> None:
    """Other weights of the same shapes do not belong to this plan: the result would silently be
    another model's.
    """
    other = tiny(seed=5)
    refused(BadValue, "not those of plan 'tiny'", lambda: client.share_weights(other.weights))


def test_another_plan_is_named_by_what_differs(cluster: Cluster) -> None:
    for compiled, field in (
        (
            tiny(params=Params(ring_bits=34, frac_bits=8)),
            "'ring and fraction bits'.*34 and 8.*32 and 8",
        ),
        (tiny(params=Params(ring_bits=32, frac_bits=8, cipher="chacha20")), "'cipher'"),
        (tiny(seed=7), "'weight version'"),
        (tiny(name="other"), "'model'"),
    ):
        refused(HandshakeMismatch, field, partial(cluster.client, compiled))


def test_an_upload_that_is_not_there(client: Client) -> None:
    shared = SharedInput(("0" * 32,), (1, 4, 4, 1))
    text = refused(RemoteError, "item 00000000 is not in the store", lambda: client.run(shared))
    assert "share it again" in text
    refused(BadShape, "no item is named", lambda: client.run([]))
    refused(RemoteError, "one is named twice", lambda: client.run(["0" * 32] * 2))


def test_what_was_dropped_is_gone(client: Client) -> None:
    shared = client.share(images(1))
    client.delete(shared)
    client.delete(shared)
    refused(RemoteError, "is not in the store", lambda: client.run(shared))


def test_no_more_room(client: Client) -> None:
    shared = []

    def fill() -> None:
        for _ in range(200):
            shared.append(client.share(images(2)))

    text = refused(RemoteError, "no room for inputs.*of 8192 bytes", fill)
    assert "store delete" in text and len(shared) > 10
    for upload in shared:
        client.delete(upload)


# who may do what


def test_an_unlisted_key(cluster: Cluster, tmp_path: Path) -> None:
    keygen(tmp_path / "stranger", "stranger", "user")
    config = replace(load_client(cluster.setup.client), identity=tmp_path / "stranger")
    text = refused(
        AccessDenied, "not on its allow-list", lambda: connect(config, cluster.compiled.record)
    )
    assert "card.toml" in text


def test_a_wrong_server_key(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_S", 1.0)
    config = load_client(cluster.setup.client)
    wrong = keygen(tmp_path / "wrong", "server1", "server1")
    config = replace(config, server_cards=(config.server_cards[0], wrong))
    pattern = "no server 1 at .*key is not the one in its card"
    text = refused(PeerTimeout, pattern, lambda: connect(config, cluster.compiled.record, 0.1))
    assert "copy its card.toml" in text


def test_only_owners_share_weights(cluster: Cluster) -> None:
    with as_user(cluster, "second") as user:
        before = user.plan_status()
        pattern = "AccessDenied: second may not share weights"
        text = refused(RemoteError, pattern, lambda: user.share_weights(cluster.compiled.weights))
        assert "owner_cards" in text and [p.weight_sharing_id for p in user.plan_status()] == [
            p.weight_sharing_id for p in before
        ]


def test_an_upload_of_someone_else(cluster: Cluster, client: Client) -> None:
    shared = client.share(images(1))
    with as_user(cluster, "second") as thief:
        refused(RemoteError, "belongs to someone else", lambda: thief.run(shared))
        thief.delete(shared)
        refused(
            RemoteError, "belongs to someone else", lambda: thief.share(images(1), shared.items)
        )
        assert not thief.list_inputs() and thief.store_status()[0].n_bytes == 0
    assert client.run(shared).reveal().shape == (1, 3)
    client.delete(shared)


def test_a_result_is_sealed_to_its_user(cluster: Cluster, client: Client) -> None:
    shared = client.share(images(1))
    result = client.run(shared)
    client._identity = load_identity(cluster.folder / "second")
    refused(RevealError, "sealed to another key", result.reveal)
    assert "0." not in repr(result) and not hasattr(SealedResult, "__array__")


# what a client can do wrong on purpose


@pytest.mark.parametrize("party", [0, 1])
def test_a_request_that_reaches_one_server_only(client: Client, party: int) -> None:
    shared = client.share(images(1))
    request = m.Run(client.plan_id, secrets.token_hex(16), [*shared.items])
    sequence = ask(client, party, request)
    if party == 1:
        assert isinstance(answer(client, 1, sequence), m.Queued)
    refused(
        RemoteError,
        f"reached server {party} only.*send it to both",
        lambda: answer(client, party, sequence),
    )
    client.delete(shared)


def test_different_requests_at_the_two_servers(client: Client) -> None:
    small, large = client.share(images(1)), client.share(images(2))
    job = secrets.token_hex(16)
    first = ask(client, 1, m.Run(client.plan_id, job, [*large.items]))
    assert isinstance(answer(client, 1, first), m.Queued)
    second = ask(client, 0, m.Run(client.plan_id, job, [*small.items]))
    refused(RemoteError, "different requests", lambda: answer(client, 1, first))
    refused(RemoteError, "different requests", lambda: answer(client, 0, second))
    client.delete(small)
    client.delete(large)


def test_uploads_of_a_wrong_size(client: Client) -> None:
    for n_items, seed, words in ((1, 31, 64), (1, 32, 63), (2, 32, 64), (0, 0, 0)):
        request = m.Share(
            client.plan_id, secrets.token_hex(16), [secrets.token_hex(16) for _ in range(n_items)]
        )
        sequence = client.ask((request, request), (bytes(seed), bytes(words)))
        refused(
            RemoteError,
            "BadFrame.*cut, made for another plan",
            partial(client.both_done, sequence, LIMIT_S),
        )


def test_half_an_upload_is_no_upload(cluster: Cluster, client: Client) -> None:
    """What reached one server alone cannot be used, is deleted when its items are settled, and can
    be shared again.
    """
    name, x = secrets.token_hex(16), images(1)
    request = m.Share(client.plan_id, secrets.token_hex(16), [name])
    assert isinstance(answer(client, 0, ask(client, 0, request, bytes(32))), m.Done)
    assert name not in client.list_inputs()
    refused(RemoteError, "is not in the store", lambda: client.run([name]))
    pending = f"input/{client.plan_id} pending"
    before = [status.rows.get(pending, 0) for status in client.store_status()]
    assert client._settled([name]) == [name]
    assert [status.rows.get(pending, 0) for status in client.store_status()] == [
        before[0] - 1,
        before[1],
    ]
    shared = client.share(x, [name])
    assert close(cluster.compiled, x, client.run(shared).reveal()) and name in client.list_inputs()
    client.delete(shared)


def test_two_halves_that_do_not_belong_together(cluster: Cluster, client: Client) -> None:
    """Server 0 has one sending of an item and server 1 another: their sum would be noise.

    `share` sends it once more.
    """
    name, x = secrets.token_hex(16), images(1)
    client._put(x, [name])
    assert client._settled([name]) == []
    row_bytes = len(
        client.backend.pack(client.backend.zeros((1, 4, 4, 1)), client.program.input.bits)
    )
    for party, n_bytes in ((0, 32), (1, row_bytes)):  # ready at both: what comes now is left out
        request = m.Share(client.plan_id, secrets.token_hex(16), [name])
        assert isinstance(
            answer(client, party, ask(client, party, request, bytes(n_bytes))), m.Done
        )
    assert close(cluster.compiled, x, client.run([name]).reveal())
    client.delete([name])
    for party, n_bytes in ((0, 32), (1, row_bytes)):
        request = m.Share(client.plan_id, secrets.token_hex(16), [name])
        assert isinstance(
            answer(client, party, ask(client, party, request, bytes(n_bytes))), m.Done
        )
    assert client._settled([name]) == [name]
    client.delete(client.share(x, [name]))


def test_the_same_image_twice_is_one_row(client: Client) -> None:
    name, x = secrets.token_hex(16), images(2)
    client.share(x[:1], [name])
    before = [status.n_bytes for status in client.store_status()]
    client.share(x[:1], [name])
    assert (
        name in client.list_inputs()
        and [status.n_bytes for status in client.store_status()] == before
    )
    refused(BadShape, "1 ids came for 2 inputs", lambda: client.share(x, [name]))
    refused(BadShape, "1 ids came for 2 inputs", lambda: client.share(x, [name, name]))
    client.delete([name])


def test_cut_weights(client: Client) -> None:
    before = client.plan_status()[0].weight_sharing_id
    sequence = client.ask_together(
        m.ShareWeights(client.plan_id, secrets.token_hex(16)), (bytes(32), bytes(5))
    )
    refused(RemoteError, "5 weight bytes came", lambda: client.both_done(sequence, LIMIT_S))
    assert client.plan_status()[0].weight_sharing_id == before  # what was there is still in use


def test_a_share_pair_id_is_used_once(client: Client, cluster: Cluster) -> None:
    """F = W - Bm is never opened twice under one Bm."""
    weight_sharing_id = client.plan_status()[0].weight_sharing_id
    sent = (bytes(32), bytes(_weight_bytes(client)))
    sequence = client.ask_together(m.ShareWeights(client.plan_id, weight_sharing_id), sent)
    refused(RemoteError, "BatchAlreadyUsed.*weights", lambda: client.both_done(sequence, LIMIT_S))


def _weight_bytes(client: Client) -> int:
    from gpumpc.program.weight_shares import split_weights

    zeros = {
        layer: (np.zeros(spec.shape, np.uint64), np.zeros(spec.bias_shape, np.uint64))
        for layer, spec in client.program.weights.items()
    }
    return len(split_weights(client.program, zeros, client.backend)[1])


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xff\xff\xff", b"\x01\x00\x00\x00\xc1", m.pack(m.Heartbeat()), m.pack(m.Done())],
)
def test_a_request_that_is_none(client: Client, payload: bytes) -> None:
    for party in (0, 1):
        client._servers[party].send(Kind.REQUEST, payload, sequence=77)
        refused(RemoteError, "BadFrame", partial(client._servers[party].receive, LIMIT_S))
        client._servers[party].send(Kind.OPENING, payload, sequence=78)
        refused(RemoteError, "no request", partial(client._servers[party].receive, LIMIT_S))


@pytest.mark.parametrize("name", ["0" * 32 + "\n", "../" + "0" * 29, "0" * 31])
def test_a_name_that_is_none(client: Client, name: str) -> None:
    request: Any = m.Share(client.plan_id, "0" * 32, [name])
    refused(RemoteError, "BadFrame", lambda: answer(client, 0, ask(client, 0, request, bytes(32))))


def test_nobody_fills_the_queue(client: Client) -> None:
    shared = client.share(images(1))
    first = 0
    for _ in range(MAX_JOBS_PER_CLIENT + 1):
        sequence = ask(client, 1, m.Run(client.plan_id, secrets.token_hex(16), [*shared.items]))
        first = first or sequence
    refused(
        RemoteError, f"{MAX_JOBS_PER_CLIENT} requests waiting", lambda: _drain(client, sequence)
    )
    # None of them reached server 0: after a while server 1 says so and has room again.
    deadline = time.monotonic() + LIMIT_S + SLACK_S
    while True:
        with contextlib.suppress(RemoteError):
            client.run(shared)
            break
        assert time.monotonic() < deadline
        time.sleep(0.3)
    client.delete(shared)


def _drain(client: Client, sequence: int) -> None:
    while isinstance(answer(client, 1, sequence), m.Queued):
        pass


def test_a_job_number_is_not_taken_twice(client: Client, cluster: Cluster) -> None:
    shared, job = client.share(images(1)), secrets.token_hex(16)
    request = m.Run(client.plan_id, job, [*shared.items])
    assert isinstance(answer(client, 1, ask(client, 1, request)), m.Queued)
    refused(RemoteError, "waits here already", lambda: answer(client, 1, ask(client, 1, request)))
    assert isinstance(answer(client, 0, ask(client, 0, request)), m.Part)
    client.delete(shared)


# processes that go away


def test_a_stopped_dealer(cluster: Cluster, client: Client) -> None:
    """What was dealt ahead is still used; then both servers say who is missing, and no more than
    one batch is burnt.
    """
    dealer = cluster.processes["dealer"]
    dealer.send_signal(signal.SIGSTOP)
    shared = client.share(images(2))
    n_spent = 0

    def use_up() -> None:
        nonlocal n_spent
        for _ in range(200):
            client.run(shared)
            n_spent += 1

    before, start = client.plan_status()[0].next_batch, time.monotonic()
    try:
        with pytest.raises(RemoteError, match="no dealer is connected.*start `gpumpc dealer`"):
            use_up()
        assert time.monotonic() - start < 2 * LIMIT_S  # what was dealt ahead, and then 5 s
    finally:
        dealer.send_signal(signal.SIGCONT)
    client.wait_ready(LIMIT_S)
    assert client.plan_status()[0].next_batch <= before + n_spent + 1
    assert client.run(shared).reveal().shape == (2, 3)
    client.delete(shared)


def test_a_dead_peer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster.ready() as client:
        shared = client.share(images(1))
        cluster.kill("server1")
        text = refused(PeerLost, "the connection to server 1 is gone", lambda: client.run(shared))
        assert "start it again" in text
    config = load_client(cluster.setup.client)
    with monkeypatch.context() as patch:
        patch.setattr(connection_module, "CONNECT_S", 1.0)
        refused(
            PeerTimeout, "no server 1 at", lambda: connect(config, cluster.compiled.record, 0.1)
        )
    cluster.start()
    with cluster.client() as client:
        client.wait_ready(10.0)
        assert client.run(shared).reveal().shape == (1, 3)
        client.delete(shared)


def test_a_frozen_peer(cluster: Cluster, client: Client) -> None:
    shared = client.share(images(1))
    cluster.processes["server0"].send_signal(signal.SIGSTOP)
    try:
        refused(GpumpcError, "connection to server ?0 is gone", lambda: client.run(shared))
    finally:
        cluster.processes["server0"].send_signal(signal.SIGCONT)


def test_before_weights_are_shared(tmp_path: Path) -> None:
    with Cluster.make(tmp_path) as fresh, fresh.client() as client:
        client.wait_connected(5.0)
        shared = client.share(images(1))
        refused(ShareError, "not ready.*share-weights", lambda: client.wait_ready(0.3))
        text = refused(RemoteError, "no weights are shared", lambda: client.run(shared))
        assert "share-weights" in text
        client.share_weights(fresh.compiled.weights)
        assert client.run(shared).reveal().shape == (1, 3)


def test_every_error_names_cause_and_cure() -> None:
    error = PeerLost("a", "b", "c")
    assert one_line(error) == "a. Cause: b. What to do: c."
