"""Bad input to running servers: a clear error within 5 s, and they go on serving."""

import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gpumpc.client import connection as connection_module
from gpumpc.client.client import Client, connect
from gpumpc.client.served_plan import SealedResult
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
from tests.processes.bad_input import as_user, refused
from tests.processes.cluster import LIMIT_S, Cluster, images, one_line, tiny

pytestmark = pytest.mark.usefixtures("still_serves")


# what a client can do wrong by mistake


def test_inputs_outside_the_plan_are_refused(client: Client) -> None:
    refused(BadShape, "channels last", lambda: client.share(np.zeros((1, 4, 4, 3))))
    refused(BadShape, "takes .batch, 4, 4, 1", lambda: client.share(np.zeros((4, 4, 1))))
    pattern = r"spans .*declares values in \[-1, 1\]"
    refused(OutOfRange, pattern, lambda: client.share(np.full((1, 4, 4, 1), 1.5)))
    refused(BadValue, "NaN or infinity", lambda: client.share(np.full((1, 4, 4, 1), np.nan)))
    refused(BadValue, "not an array of numbers", lambda: client.share([["a"]]))


def test_nan_in_weights_is_refused(client: Client, cluster: Cluster) -> None:
    weights = cluster.compiled.weights
    weights = type(weights)(weights, weights.salt)
    weights["fc.weight"] = np.full_like(weights["fc.weight"], np.nan)
    refused(BadValue, "layer 'fc'", lambda: client.share_weights(weights))


def test_weights_of_another_plan_are_refused(client: Client, cluster: Cluster) -> None:
    """With other weights of the same shapes the result would be another model's."""
    other = tiny(seed=5)
    refused(BadValue, "not those of plan 'tiny'", lambda: client.share_weights(other.weights))


def test_handshake_names_the_field_of_another_plan(cluster: Cluster) -> None:
    wider, other = Params(34, 8), Params(ring_bits=32, frac_bits=8, cipher="chacha20")
    for compiled, field in (
        (tiny(params=wider), "'ring and fraction bits'.*34 and 8.*32 and 8"),
        (tiny(params=other), "'cipher'"),
        (tiny(seed=7), "'weight version'"),
        (tiny(name="other"), "'model'"),
    ):
        refused(HandshakeMismatch, field, partial(cluster.client, compiled))


def test_missing_upload_is_refused(client: Client) -> None:
    shared = ["0" * 32]
    text = refused(RemoteError, "item 00000000 is not in the store", lambda: client.run(shared))
    assert "share it again" in text
    refused(BadShape, "no item is named", lambda: client.run([]))
    refused(RemoteError, "one is named twice", lambda: client.run(["0" * 32] * 2))


def test_deleted_upload_is_gone(client: Client) -> None:
    shared = client.share(images(1))
    client.delete(shared)
    client.delete(shared)
    refused(RemoteError, "is not in the store", lambda: client.run(shared))


def test_full_store_is_refused(client: Client) -> None:
    shared = []

    def fill() -> None:
        for _ in range(200):
            shared.append(client.share(images(2)))

    text = refused(RemoteError, "no room for .*of 131072 bytes", fill)
    assert "gpumpc delete" in text and len(shared) > 10
    for upload in shared:
        client.delete(upload)


# who may do what


def test_unlisted_key_is_denied(cluster: Cluster, tmp_path: Path) -> None:
    keygen(tmp_path / "stranger", "stranger", "user")
    config = replace(load_client(cluster.setup.client), identity=tmp_path / "stranger")
    attempt = partial(connect, config, cluster.compiled.record)
    text = refused(AccessDenied, "not on its allow-list", attempt)
    assert "card.toml" in text


def test_wrong_server_key_is_a_timeout(
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
        after = [plan.weight_sharing_id for plan in user.plan_status()]
        assert "owner_cards" in text and after == [plan.weight_sharing_id for plan in before]


def test_upload_of_another_user_is_refused(cluster: Cluster, client: Client) -> None:
    shared = client.share(images(1))
    with as_user(cluster, "second") as thief:
        refused(RemoteError, "belongs to someone else", lambda: thief.run(shared))
        thief.delete(shared)
        refused(RemoteError, "belongs to someone else", lambda: thief.share(images(1), shared))
        assert not thief.list_inputs() and thief.store_status()[0].n_bytes == 0
    assert client.run(shared).reveal().shape == (1, 3)
    client.delete(shared)


def test_a_result_is_sealed_to_its_user(cluster: Cluster, client: Client) -> None:
    shared = client.share(images(1))
    result = client.run(shared)
    client._identity = load_identity(cluster.folder / "second")
    refused(RevealError, "sealed to another key", result.reveal)
    assert "0." not in repr(result) and not hasattr(SealedResult, "__array__")


# processes that go away


def test_stopped_dealer_is_named_and_burns_one_batch(cluster: Cluster, client: Client) -> None:
    """Batches dealt ahead are used; then both servers name the dealer."""
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


def test_dead_server_is_reported_and_can_restart(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster.ready() as client:
        shared = client.share(images(1))
        cluster.kill("server1")
        text = refused(PeerLost, "the connection to server 1 is gone", lambda: client.run(shared))
        assert "start it again" in text
    config = load_client(cluster.setup.client)
    with monkeypatch.context() as patch:
        patch.setattr(connection_module, "CONNECT_S", 1.0)
        attempt = partial(connect, config, cluster.compiled.record, 0.1)
        refused(PeerTimeout, "no server 1 at", attempt)
    cluster.start()
    with cluster.client() as client:
        client.wait_ready(10.0)
        assert client.run(shared).reveal().shape == (1, 3)
        client.delete(shared)


def test_frozen_server_is_reported(cluster: Cluster, client: Client) -> None:
    shared = client.share(images(1))
    cluster.processes["server0"].send_signal(signal.SIGSTOP)
    try:
        refused(GpumpcError, "connection to server ?0 is gone", lambda: client.run(shared))
    finally:
        cluster.processes["server0"].send_signal(signal.SIGCONT)


def test_run_before_weights_are_shared_is_refused(tmp_path: Path) -> None:
    with Cluster.make(tmp_path) as fresh, fresh.client() as client:
        client.wait_connected(5.0)
        shared = client.share(images(1))
        refused(ShareError, "not ready.*share-weights", lambda: client.wait_ready(0.3))
        text = refused(RemoteError, "no weights are shared", lambda: client.run(shared))
        assert "share-weights" in text
        client.share_weights(fresh.compiled.weights)
        assert client.run(shared).reveal().shape == (1, 3)


def test_one_line_error_names_cause_and_hint() -> None:
    error = PeerLost("a", "b", "c")
    assert one_line(error) == "a. Cause: b. What to do: c."
