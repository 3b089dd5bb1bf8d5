"""The bytes on the network, counted by relays, are the declared ones and explained framing.

Between the servers, and from the dealer, nearly everything goes by a stream: a relay sees sealed
records and no lengths, so the sums are compared, to the byte. The CURVE connection is read frame by
frame.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from gpumpc import messages as m
from gpumpc.cost import Cost
from gpumpc.deploy.config import _free_ports, load_dealer, load_server
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.compiler import program_of
from gpumpc.server.audit.log import read_log
from gpumpc.server.requests.request import named
from gpumpc.wire.handshake import pack_hello
from gpumpc.wire.stream import Exchange
from gpumpc.wire.stream.records import RECORD_BYTES, SEALED_HEADER_BYTES, TAG_BYTES, TICKET_BYTES
from tests.processes.cluster import BATCH, Cluster, close, images, rewrite
from tests.processes.relay import CURVE_BYTES, HEADER_BYTES, Relay, frames, payloads

N_BATCHES = 3


def on_the_wire(n_bytes: int) -> int:
    """Bytes of one frame of a stream."""
    return SEALED_HEADER_BYTES + n_bytes + TAG_BYTES * -(-n_bytes // RECORD_BYTES)


IDLE, ALIVE = (on_the_wire(len(m.pack(record))) for record in (m.Idle(), m.Heartbeat()))
# An end of a stream sends one when it has sent nothing else for a second.
BEAT = on_the_wire(0)
# A stream begins with the caller's ticket and both proofs.
CALL, ANSWER = TICKET_BYTES + on_the_wire(0), on_the_wire(0)


class Relayed(NamedTuple):
    """A cluster with relays between the servers and from the dealer to server 1."""

    cluster: Cluster
    curve_between: Relay
    between: Relay
    curve_dealt: Relay
    dealt: Relay


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relayed]:
    cluster = Cluster.make(tmp_path_factory.mktemp("bytes"), pool="1KiB")
    setup = cluster.setup
    between = load_server(setup.server1).peer_connect
    of_dealer = load_dealer(setup.dealer).server_endpoints
    assert between
    ends = [f"tcp://127.0.0.1:{_free_ports(1)[0]}" for _ in range(2)]
    relays = [Relay(target) for target in (between, ends[0], of_dealer[1], ends[1])]
    to_peer, to_stream, to_server1, to_dealt = (relay.endpoint for relay in relays)
    rewrite(setup.server0, peer_bulk=ends[0])
    rewrite(setup.server1, peer_connect=to_peer, peer_bulk=to_stream, dealer_bulk=ends[1])
    rewrite(setup.dealer, server_endpoints=[of_dealer[0], to_server1], dealer_bulk=to_dealt)
    with cluster:
        yield Relayed(cluster, *relays)
    for relay in relays:
        relay.close()


def check_idle(n_bytes: int, unit: int = BEAT) -> None:
    """These bytes are, exactly, heartbeats of the stream and frames of `unit` bytes."""
    assert n_bytes >= 0
    left = [n_bytes - n * unit for n in range(n_bytes // unit + 1)]
    assert any(rest % BEAT == 0 for rest in left), f"{n_bytes} bytes: not of {unit} and {BEAT}"


def test_payload_on_the_wire_is_the_declared_cost(relayed: Relayed) -> None:
    cluster = relayed.cluster
    x = images(N_BATCHES * BATCH)
    with cluster.ready() as client:
        shared = client.share(x)
        time.sleep(0.3)  # until frames that no answer waits for have passed the relay too
        before = [len(stream) for stream in relayed.between.streams]
        result = client.run(shared).reveal()
        cost: Cost = client.program.cost
        time.sleep(0.3)
        from_1, from_0 = (len(s) - n for s, n in zip(relayed.between.streams, before, strict=True))
    assert close(cluster.compiled, x, result)
    order = m.Order("0" * 64, "0" * 32, f"user: run None {named(shared)}", "0" * 64, 0)
    from_1 -= on_the_wire(len(m.pack(m.Accept("0" * 32))))
    from_0 -= on_the_wire(len(m.pack(order)))
    *_, last = read_log(cluster.folder / "state0" / "audit")
    assert last.entry is not None and "run" in last.entry.own.record.request
    from_1 -= on_the_wire(len(m.pack(last.entry.other)))
    from_0 -= on_the_wire(len(m.pack(last.entry.own)))
    # A round is one frame each way, and none of this program's is longer than a record.
    framing = N_BATCHES * cost.rounds * (on_the_wire(1) - 1)
    check_idle(from_1 - N_BATCHES * cost.s1_bytes - framing)
    check_idle(from_0 - N_BATCHES * cost.s0_bytes - framing, IDLE)
    _check_dealer(relayed, cost)


def _check_dealer(relayed: Relayed, cost: Cost) -> None:
    plan = relayed.cluster.compiled.record
    agreed = agreed_fields(plan, program_of(plan, BATCH))
    hello = pack_hello({"root": "0" * 32, "number of plans": "1", **agreed}, {})
    rest = len(relayed.dealt.streams[0]) - CALL - on_the_wire(len(hello))
    batch = on_the_wire(cost.dealer_bytes)
    # Server 1 asked for the three batches used and for at most two ahead; everything else is
    # heartbeats.
    n_batches = len(payloads(bytes(relayed.curve_dealt.streams[1]))) - 2
    assert N_BATCHES <= n_batches <= N_BATCHES + 2
    check_idle(rest - n_batches * batch, ALIVE)
    check_idle(len(relayed.dealt.streams[1]) - ANSWER)  # server 1 answers by CURVE


def test_curve_carries_only_hellos_and_dealer_requests(relayed: Relayed) -> None:
    hello, port = (len(Exchange(b"", b"", port).hello) for port in (0, 20_000))
    with relayed.cluster.ready():
        time.sleep(0.3)
    found = [payloads(bytes(stream)) for stream in relayed.curve_between.streams]
    assert found == [[hello], [port]]
    to_1, from_1 = (payloads(bytes(stream)) for stream in relayed.curve_dealt.streams)
    assert to_1 == [hello] and from_1[0] == port
    agreed, *wanted = from_1[1:]
    want = m.WantBatch("0" * 64, "0" * 32, "0" * 32, "0" * 32, "0" * 32, 0)
    assert agreed > 300 and {*wanted} == {len(m.pack(want))}


def test_other_curve_bytes_are_framing(relayed: Relayed) -> None:
    streams = (*relayed.curve_between.streams, *relayed.curve_dealt.streams)
    for stream in map(bytes, streams):
        whole = frames(stream)
        payload = payloads(stream)
        sealed = [total for is_command, _, total in whole if not is_command]
        framing = sum(sealed) - sum(payload) - len(payload) * HEADER_BYTES
        # A frame is two parts, each in a CURVE box behind 2 or 9 bytes; heartbeats are small boxes
        # of their own.
        n_beats = len(sealed) - 2 * len(payload)
        assert n_beats >= 0
        n_parts, beats = 2 * len(payload), n_beats * (CURVE_BYTES + 2 + 23)
        assert n_parts * (CURVE_BYTES + 2) <= framing <= n_parts * (CURVE_BYTES + 9) + beats
        most = len(payload) * (HEADER_BYTES + 2 * (CURVE_BYTES + 9)) + beats
        assert sum(payload) <= sum(sealed) <= sum(payload) + most
        handshake = len(stream) - sum(sealed)
        assert 0 < handshake < 700  # greeting and four commands
