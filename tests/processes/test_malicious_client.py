"""Requests that no honest client sends: a clear error within 5 s, and the servers go on serving."""

import contextlib
import secrets
import time
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest

from gpumpc import messages as m
from gpumpc.client.client import Client
from gpumpc.errors import BadShape, RemoteError
from gpumpc.server.peer_loop import MAX_JOBS_PER_CLIENT
from gpumpc.wire.frames import Kind
from tests.processes.bad_input import answer, ask, refused
from tests.processes.cluster import LIMIT_S, SLACK_S, Cluster, close, images

pytestmark = pytest.mark.usefixtures("still_serves")


def share_request(client: Client, names: list[str]) -> m.Share:
    return m.Share(client.plan_id, secrets.token_hex(16), names)


@pytest.mark.parametrize("party", [0, 1])
def test_request_at_one_server_only_is_refused(client: Client, party: int) -> None:
    shared = client.share(images(1))
    request = m.Run(client.plan_id, secrets.token_hex(16), shared)
    sequence = ask(client, party, request)
    if party == 1:
        assert isinstance(answer(client, 1, sequence), m.Queued)
    pattern = f"reached server {party} only.*send it to both"
    refused(RemoteError, pattern, lambda: answer(client, party, sequence))
    client.delete(shared)


def test_different_requests_at_the_servers_are_refused(client: Client) -> None:
    small, large = client.share(images(1)), client.share(images(2))
    job = secrets.token_hex(16)
    first = ask(client, 1, m.Run(client.plan_id, job, large))
    assert isinstance(answer(client, 1, first), m.Queued)
    second = ask(client, 0, m.Run(client.plan_id, job, small))
    refused(RemoteError, "different requests", lambda: answer(client, 1, first))
    refused(RemoteError, "different requests", lambda: answer(client, 0, second))
    client.delete(small)
    client.delete(large)


def test_uploads_of_a_wrong_size_are_refused(client: Client) -> None:
    for n_items, seed, words in ((1, 31, 64), (1, 32, 63), (2, 32, 64), (0, 0, 0)):
        request = share_request(client, [secrets.token_hex(16) for _ in range(n_items)])
        sequence = client.ask((request, request), (bytes(seed), bytes(words)))
        pattern = "BadFrame.*cut, made for another plan"
        refused(RemoteError, pattern, partial(client.both_done, sequence, LIMIT_S))


def test_upload_at_one_server_only_is_unusable(cluster: Cluster, client: Client) -> None:
    """It is deleted when its items are settled, and can be shared again."""
    name, x = secrets.token_hex(16), images(1)
    request = share_request(client, [name])
    assert isinstance(answer(client, 0, ask(client, 0, request, bytes(32))), m.Done)
    assert name not in client.list_inputs()
    refused(RemoteError, "is not in the store", lambda: client.run([name]))
    pending = f"input/{client.plan_id} pending"
    before = [status.rows.get(pending, 0) for status in client.store_status()]
    assert client._settled([name]) == [name]
    after = [status.rows.get(pending, 0) for status in client.store_status()]
    assert after == [before[0] - 1, before[1]]
    shared = client.share(x, [name])
    assert close(cluster.compiled, x, client.run(shared).reveal()) and name in client.list_inputs()
    client.delete(shared)


def test_mismatched_halves_of_an_upload_are_sent_again(cluster: Cluster, client: Client) -> None:
    """Server 0 has one sending of an item and server 1 another: their sum would be noise.

    `share` sends it once more.
    """
    name, x = secrets.token_hex(16), images(1)
    client._put(x, [name])
    assert client._settled([name]) == []
    zeros = client.backend.zeros((1, 4, 4, 1))
    row_bytes = len(client.backend.pack(zeros, client.program.input.bits))

    def send_to_each_server() -> None:
        for party, n_bytes in ((0, 32), (1, row_bytes)):
            sequence = ask(client, party, share_request(client, [name]), bytes(n_bytes))
            assert isinstance(answer(client, party, sequence), m.Done)

    send_to_each_server()  # the item is ready at both: what comes now is left out
    assert close(cluster.compiled, x, client.run([name]).reveal())
    client.delete([name])
    send_to_each_server()
    assert client._settled([name]) == [name]
    client.delete(client.share(x, [name]))


def test_same_image_twice_is_stored_once(client: Client) -> None:
    name, x = secrets.token_hex(16), images(2)
    client.share(x[:1], [name])
    before = [status.n_bytes for status in client.store_status()]
    client.share(x[:1], [name])
    assert name in client.list_inputs()
    assert [status.n_bytes for status in client.store_status()] == before
    refused(BadShape, "1 ids came for 2 inputs", lambda: client.share(x, [name]))
    refused(BadShape, "1 ids came for 2 inputs", lambda: client.share(x, [name, name]))
    client.delete([name])


def test_cut_weights_are_refused(client: Client) -> None:
    before = client.plan_status()[0].weight_sharing_id
    sent = (bytes(32), bytes(5))
    request = client.weights_request(secrets.token_hex(16), sent)
    sequence = client.ask_together(request, sent)
    refused(RemoteError, "5 weight bytes came", lambda: client.both_done(sequence, LIMIT_S))
    assert client.plan_status()[0].weight_sharing_id == before  # what was there is still in use


def test_weight_sharing_id_is_used_once(client: Client, cluster: Cluster) -> None:
    """F = W - Bm is never opened twice under one Bm."""
    weight_sharing_id = client.plan_status()[0].weight_sharing_id
    sent = (bytes(32), bytes(_weight_bytes(client)))
    request = client.weights_request(weight_sharing_id, sent)
    refused(RemoteError, "BatchAlreadyUsed.*weights", lambda: client.ask_together(request, sent))


def test_weights_other_than_the_owner_signed_are_refused(client: Client) -> None:
    before = client.plan_status()[0].weight_sharing_id
    sent = (bytes(32), bytes(_weight_bytes(client)))
    request = client.weights_request(secrets.token_hex(16), sent)
    changed = (sent[0], bytes(len(sent[1]) - 1) + b"1")
    refused(RemoteError, "not those.*signed", lambda: client.ask_together(request, changed))
    for field in ({"weight_sharing_id": "1" * 32}, {"halves": ("0" * 64, request.halves[1])}):
        forged = msgspec.structs.replace(request, **field)
        refused(RemoteError, "is not one of user", partial(client.ask_together, forged, sent))
    assert [status.weight_sharing_id for status in client.plan_status()] == [before] * 2
    assert {status.owner for status in client.plan_status()} == {"user"}


def _weight_bytes(client: Client) -> int:
    from gpumpc.program.weight_shares import split_weights

    zeros = {
        layer: (np.zeros(spec.shape, np.uint64), np.zeros(spec.bias_shape, np.uint64))
        for layer, spec in client.program.weights.items()
    }
    return len(split_weights(client.program, zeros, client.backend)[1])


PAYLOADS = [b"", b"\xff\xff\xff\xff", b"\x01\x00\x00\x00\xc1"]
PAYLOADS += [m.pack(m.Heartbeat()), m.pack(m.Done())]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_malformed_requests_are_refused(client: Client, payload: bytes) -> None:
    for party in (0, 1):
        client._servers[party].send(Kind.REQUEST, payload, sequence=77)
        refused(RemoteError, "BadFrame", partial(client._servers[party].receive, LIMIT_S))
        client._servers[party].send(Kind.OPENING, payload, sequence=78)
        refused(RemoteError, "not a request", partial(client._servers[party].receive, LIMIT_S))


@pytest.mark.parametrize("name", ["0" * 32 + "\n", "../" + "0" * 29, "0" * 31])
def test_malformed_item_names_are_refused(client: Client, name: str) -> None:
    request: Any = m.Share(client.plan_id, "0" * 32, [name])
    refused(RemoteError, "BadFrame", lambda: answer(client, 0, ask(client, 0, request, bytes(32))))


def test_one_client_cannot_fill_the_queue(client: Client) -> None:
    shared = client.share(images(1))
    first = 0
    for _ in range(MAX_JOBS_PER_CLIENT + 1):
        sequence = ask(client, 1, m.Run(client.plan_id, secrets.token_hex(16), shared))
        first = first or sequence
    pattern = f"{MAX_JOBS_PER_CLIENT} requests waiting"
    refused(RemoteError, pattern, lambda: _drain(client, sequence))
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


def test_waiting_job_id_is_not_accepted_twice(client: Client, cluster: Cluster) -> None:
    shared, job = client.share(images(1)), secrets.token_hex(16)
    request = m.Run(client.plan_id, job, shared)
    assert isinstance(answer(client, 1, ask(client, 1, request)), m.Queued)
    refused(RemoteError, "waits here already", lambda: answer(client, 1, ask(client, 1, request)))
    assert isinstance(answer(client, 0, ask(client, 0, request)), m.Part)
    client.delete(shared)
