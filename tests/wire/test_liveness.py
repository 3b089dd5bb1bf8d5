"""A link that goes silent is a lost peer within five seconds; a busy or paused peer is none."""

import time
from contextlib import ExitStack

import pytest

from gpumpc.cost import Cost
from gpumpc.errors import GpumpcError, PeerLost
from gpumpc.wire.frames import Kind
from gpumpc.wire.zmq_channel import Listener, Requester
from tests.processes.relay import Relay
from tests.wire.ends import (
    ANY_PORT,
    DEADLINE_S,
    DEALER,
    S0,
    S1,
    both,
    free_port,
    met,
    seconds_until,
)

# Which ways are silent: from whoever connects (0), back (1), or both.
SILENCES = [{0}, {1}, {0, 1}]


class Silent(Relay):
    """Takes everything, and from `quiet` on passes nothing in those directions, as a middlebox."""

    quiet: frozenset[int] = frozenset()

    def passing(self, way: int, n_before: int, data: bytes) -> bytes:
        return b"" if way in self.quiet else data


def silent(stack: ExitStack, target: str) -> Silent:
    relay = Silent(target)
    stack.callback(relay.close)
    return relay


@pytest.mark.parametrize("ways", SILENCES)
def test_silent_stream_is_noticed_at_both_servers(stack: ExitStack, ways: set[int]) -> None:
    relays: list[Silent] = []

    def relayed(place: str) -> Relay:
        relays.append(Silent(place))
        return relays[0]

    s0, s1 = met(stack, relayed, patience_s=600)
    relays[0].quiet = frozenset(ways)
    start = time.monotonic()
    found = both(lambda: s0.receive_control(600), lambda: s1.receive_control(600))
    assert time.monotonic() - start < DEADLINE_S
    assert all(isinstance(error, PeerLost) for error in found), found
    assert any("not even a heartbeat" in str(error) for error in found)


def test_idle_servers_stay_connected_at_no_cost(stack: ExitStack) -> None:
    """Neither end computes, reads or sends for longer than a silent peer is borne."""
    relays: list[Relay] = []
    s0, s1 = met(stack, lambda place: relays.append(Relay(place)) or relays[0])  # type: ignore[func-returns-value]  # append returns None, so `or` goes on
    n_bytes = [len(stream) for stream in relays[0].streams]
    time.sleep(6.0)
    assert s0.measured() == s1.measured() == Cost()
    for stream, before in zip(relays[0].streams, n_bytes, strict=True):
        assert 0 < len(stream) - before <= 13 * 60  # two heartbeats a second
    assert both(lambda: s0.exchange([b"a"]), lambda: s1.exchange([b"b"])) == [b"b", b"a"]
    assert s0.measured() == s1.measured() == Cost(1, 1, 1)


def test_bulk_that_waits_unread_is_no_silence(stack: ExitStack) -> None:
    """Two servers may send large frames, and both compute before they read."""
    s0, s1 = met(stack)
    for end in (s0, s1):
        end.send([bytes(12 << 20)])  # more than the kernel takes: no heartbeat can follow
    time.sleep(6.0)
    for end in (s0, s1):
        assert len(end.receive()) == 12 << 20


def poll_till_lost(listener: Listener, limit_s: float) -> tuple[list[Kind], bool]:
    """The kinds of the frames that come, and whether the stream ends in time."""
    deadline, found = time.monotonic() + limit_s, []
    while time.monotonic() < deadline:
        if arrival := listener.poll(0.05):
            found.append(arrival.frame.kind)
        if listener.lost_streams():
            return found, True
    return found, False


@pytest.mark.parametrize("ways", SILENCES)
def test_silent_dealer_stream_is_noticed_at_both_ends(stack: ExitStack, ways: set[int]) -> None:
    place = free_port()
    relay = silent(stack, place)
    allowed = {DEALER.public: "dealer"}
    listener = Listener(ANY_PORT, S1, allowed, stream_peers=["dealer"], stream_endpoint=place)
    stack.callback(listener.close)
    dealer = Requester(listener.endpoint, DEALER, S1.public, peer="server1")
    stack.callback(dealer.close)

    def send_till_lost() -> float:
        dealer.open_stream(relay.endpoint)
        dealer.send(Kind.CORRECTION, b"first")
        time.sleep(0.5)
        relay.quiet = frozenset(ways)
        start = time.monotonic()
        with pytest.raises(PeerLost):
            while time.monotonic() - start < 20:
                dealer.send(Kind.CONTROL, b"alive")
                time.sleep(0.05)
        return time.monotonic() - start

    noticed_s, polled = both(send_till_lost, lambda: poll_till_lost(listener, DEADLINE_S + 1))
    assert isinstance(noticed_s, float) and noticed_s < DEADLINE_S
    assert isinstance(polled, tuple)
    kinds, ended = polled
    assert kinds[0] is Kind.CORRECTION and ended and not listener.lost_streams()


def test_dealer_end_reads_the_heartbeats_it_gets(stack: ExitStack) -> None:
    """Nobody else reads there: after some days they would fill the connection."""
    allowed = {DEALER.public: "dealer"}
    listener = Listener(ANY_PORT, S1, allowed, stream_peers=["dealer"])
    stack.callback(listener.close)
    dealer = Requester(listener.endpoint, DEALER, S1.public, peer="server1")
    stack.callback(dealer.close)
    both(dealer.open_stream, lambda: poll_till_lost(listener, 3.0))
    stream = dealer._stream
    assert stream is not None and stream._opener.n_records >= 4  # its HELLO, and heartbeats


@pytest.mark.parametrize("ways", SILENCES)
def test_silent_client_link_is_noticed_by_the_client(stack: ExitStack, ways: set[int]) -> None:
    listener = Listener(ANY_PORT, S0, {S1.public: "user"})
    stack.callback(listener.close)
    relay = silent(stack, listener.endpoint)
    user = Requester(relay.endpoint, S1, S0.public)
    stack.callback(user.close)
    user.wait_peer()
    time.sleep(0.3)
    relay.quiet = frozenset(ways)
    assert seconds_until(PeerLost, "server is gone", lambda: user.receive(20)) < DEADLINE_S


# planted: a stream without its heartbeat


def test_planted_stream_without_heartbeat_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpumpc.wire.stream import Stream

    monkeypatch.setattr(Stream, "_beat", lambda self: None)
    with ExitStack() as stack, pytest.raises((AssertionError, GpumpcError)):
        test_idle_servers_stay_connected_at_no_cost(stack)
