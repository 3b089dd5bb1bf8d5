"""A process that runs out of file numbers waits for one: nothing ends, nothing is damaged."""

import errno
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
import zmq

from gpumpc.errors import OutOfResources
from gpumpc.wire.frames import Kind
from gpumpc.wire.resources import SeldomWarning, check_free_files, passing_lack
from gpumpc.wire.stream import StreamListener, dial
from gpumpc.wire.zmq_channel import Listener, PeerSocket, Requester, endpoint, requests
from tests.wire.ends import ANY_PORT, DEALER, S0, S1, free_port, met
from tests.wire.files import high_file_numbers, no_free_files
from tests.wire.stream.wires import both_keys


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "x"),
        zmq.ZMQError(errno.ENFILE),
        OSError(errno.ENOSPC, "x"),
        MemoryError(),
    ],
)
def test_a_passing_lack_is_named_with_cause_and_hint(error: Exception) -> None:
    text = r"cannot do it.*limit of open files.*tried again"
    with pytest.raises(OutOfResources, match=text), passing_lack("cannot do it"):
        raise error


def test_another_error_stays_as_it_is() -> None:
    with pytest.raises(FileNotFoundError), passing_lack("cannot do it"):
        raise FileNotFoundError(errno.ENOENT, "x")


def test_no_free_file_number_is_out_of_resources() -> None:
    host = free_port()
    inside, _ = both_keys()
    with no_free_files():
        for make in (
            lambda: PeerSocket.bind(ANY_PORT, S0, S1.public),
            lambda: PeerSocket.connect(host, S1, S0.public),
            lambda: Requester(host, S1, S0.public),
            lambda: Listener(ANY_PORT, S0, {}),
            lambda: StreamListener(ANY_PORT),
            lambda: dial(host, inside, "server0", 1.0),
        ):
            with pytest.raises(OutOfResources):
                make()


@pytest.mark.parametrize("left", [2, 4, 11, 23])
def test_few_free_file_numbers_never_end_the_process(left: int) -> None:
    """ZeroMQ ends it if a context or a socket finds none half-way: so with 2, 4 and 11 free."""
    code = f"""
from gpumpc.errors import OutOfResources
from gpumpc.wire.zmq_channel import Listener, curve_keypair
from tests.wire.files import no_free_files
with no_free_files({left}):
    try:
        Listener("tcp://127.0.0.1:0", curve_keypair(), {{}})
    except OutOfResources:
        print("waits")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "waits\n"), done.stderr


def test_a_listener_goes_on_when_file_numbers_return(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(ANY_PORT, S0, {DEALER.public: "dealer"}, stream_peers=["dealer"])
    stack.callback(listener.close)
    dealer = Requester(listener.endpoint, DEALER, S0.public)
    stack.callback(dealer.close)
    dealer.wait_peer()
    host, port = listener.stream_endpoint.removeprefix("tcp://").split(":")
    with no_free_files(1), socket.create_connection((host, int(port))):
        start = time.process_time()
        assert listener.poll(0.6) is None
        assert time.process_time() - start < 0.3  # it does not spin
        dealer.send(Kind.REQUEST, b"meanwhile")
        assert listener.poll(5) is not None
    assert len([r for r in caplog.records if "no connection can be accepted" in r.message]) == 1
    dealer.send(Kind.REQUEST, b"again")
    assert listener.poll(5) is not None


def test_a_lack_in_receiving_is_waited_out(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener(ANY_PORT, S0, {DEALER.public: "dealer"})
    stack.callback(listener.close)
    dealer = Requester(listener.endpoint, DEALER, S0.public)
    stack.callback(dealer.close)
    dealer.send(Kind.REQUEST, b"x")
    lacks = [zmq.ZMQError(errno.EMFILE), OSError(errno.ENOMEM, "x")]
    joined = endpoint.joined
    monkeypatch.setattr(
        requests, "joined", lambda parts: joined(parts) if not lacks else _raise(lacks.pop())
    )
    for word in (b"y", b"z"):
        dealer.send(Kind.REQUEST, word)
    arrival = listener.poll(5)
    assert arrival is not None and arrival.frame.payload == b"z" and not lacks
    assert caplog.text.count("a request cannot be received now") == 1


def _raise(error: Exception) -> list[bytes]:
    raise error


def test_file_numbers_above_1023_are_used(stack: ExitStack) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("this machine allows no file numbers above 1023")
    with high_file_numbers(), ExitStack() as high:
        s0, s1 = met(high)
        s1.send_control(b"in")
        assert s0.receive_control(5) == b"in"
        assert s0.transport._stream is not None and s0.transport._stream.fileno() > 1023


def test_free_file_numbers_are_counted() -> None:
    with no_free_files(7):
        check_free_files(7)
        with pytest.raises(OSError, match="Too many open files"):
            check_free_files(8)
        check_free_files(7)  # all were given back


def test_server_and_dealer_raise_the_soft_limit() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 500))
from typer.testing import CliRunner
from gpumpc.cli.main import app
for words in (["server", "--party", "0"], ["dealer"]):
    CliRunner().invoke(app, [*words, "--config", "/nonexistent"])
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 500))
print(CliRunner().invoke(app, ["doctor"]).output)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("(500, 500)") == 2
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "soft limit 300, hard limit 500; WARNING: fewer than 4096" in text


def test_a_warning_that_repeats_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    warning = SeldomWarning()
    for _ in range(5):
        warning.warn("the same")
    assert caplog.text.count("the same") == 1
