"""Part `strangers`: connections without a key at every port of the servers, while a user works.

No request of the user may fail, no server may end, and memory must stay bounded.
"""

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bench.evidence.part import SEED, Finding, Part
from bench.evidence.processes import Parties, memory_bytes, running
from bench.evidence.steady import Steady
from gpumpc.deploy.config import load_server
from tests.processes.cluster import rewrite

UNIT_S = 8.0
# The limit of files that most systems give a process; the servers start under it.
SERVER_FILES = 1024
GROWTH_BYTES = 200 << 20
# ZMTP 3.0: a greeting with the mechanism CURVE, then a command that claims so many bytes.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
CLAIM = b"\x06" + (1 << 30).to_bytes(8, "big")


def _connect(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        end = socket.create_connection(("127.0.0.1", port), 0.5)
        end.setblocking(False)
        return end
    return None


def _send(end: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        end.send(data)


def idle(port: int, rng: np.random.Generator, deadline: float, n: int) -> int:
    """n connections that say nothing; those that the server ends are made again."""
    open_ends: list[socket.socket] = []
    made = 0
    while time.monotonic() < deadline:
        for end in [*open_ends]:
            with contextlib.suppress(BlockingIOError):
                try:
                    ended = not end.recv(4096, socket.MSG_PEEK)
                except BlockingIOError:
                    raise
                except OSError:
                    ended = True
                if ended:
                    open_ends.remove(end)
                    end.close()
        while len(open_ends) < n and time.monotonic() < deadline:
            if (fresh := _connect(port)) is None:
                break
            made += 1
            open_ends.append(fresh)
        time.sleep(0.05)
    for end in open_ends:
        end.close()
    return made


def few(port: int, rng: np.random.Generator, deadline: float) -> int:
    """40 half-open connections."""
    return idle(port, rng, deadline, 40)


def many(port: int, rng: np.random.Generator, deadline: float) -> int:
    """More half-open connections than the server may have files."""
    return idle(port, rng, deadline, SERVER_FILES + 300)


def _told(port: int, deadline: float, first: bytes, more: Callable[[], bytes]) -> int:
    """Eight connections at a time that say `first` and go on with `more`; how many were made."""
    made = 0
    ends: list[socket.socket] = []
    while time.monotonic() < deadline:
        while len(ends) < 8 and (fresh := _connect(port)):
            _send(fresh, first)
            ends.append(fresh)
            made += 1
        for end in [*ends]:
            try:
                end.send(more())
            except BlockingIOError:
                continue
            except OSError:
                ends.remove(end)
                end.close()
        time.sleep(0.002)
    for end in ends:
        end.close()
    return made


def garbage(port: int, rng: np.random.Generator, deadline: float) -> int:
    """Random bytes."""
    return _told(port, deadline, b"", lambda: rng.bytes(1000))


def claims(port: int, rng: np.random.Generator, deadline: float) -> int:
    """The beginning of a handshake, then a gigabyte that is claimed and sent."""
    zeros = bytes(1 << 20)
    return _told(port, deadline, GREETING + CLAIM, lambda: zeros)


ATTACKS = (few, garbage, claims, many)


def _fixed_ports(parties: Parties) -> None:
    """Give the streams ports of their own, so that they are known."""
    listen = load_server(parties.setup.server1).listen
    first = int(listen.rsplit(":", 1)[1])
    peer, dealing = (f"tcp://127.0.0.1:{first + i}" for i in (1, 2))
    rewrite(parties.setup.server0, peer_bulk=peer)
    rewrite(parties.setup.server1, peer_bulk=peer, dealer_bulk=dealing)
    rewrite(parties.setup.dealer, dealer_bulk=dealing)


def ports(parties: Parties) -> dict[str, int]:
    """Every port at which a server listens, by name."""
    first, second = (load_server(f) for f in (parties.setup.server0, parties.setup.server1))
    ends = {
        "server0 listen": first.listen,
        "server1 listen": second.listen,
        "peer_listen": str(first.peer_listen),
        "peer_bulk": str(first.peer_bulk),
        "dealer_bulk": str(second.dealer_bulk),
    }
    return {name: int(end.rsplit(":", 1)[1]) for name, end in ends.items()}


@contextlib.contextmanager
def _limited() -> Iterator[Parties]:
    """Parties that may have as many files as most systems give; this process keeps its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(SERVER_FILES, hard), hard))
    try:
        with running(pool="2KiB", prepare=_fixed_ports) as parties:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            yield parties
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def one_attack(parties: Parties, unit: int, seconds: float = UNIT_S) -> Finding:
    """One attack at one port."""
    rng = np.random.default_rng([SEED, unit])
    found = ports(parties)
    attack = ATTACKS[unit // len(found) % len(ATTACKS)]
    name = sorted(found)[unit % len(found)]
    servers = {n: p.pid for n, p in parties.processes.items() if n.startswith("server")}
    with parties.ready():
        pass
    before = {server: memory_bytes(pid) for server, pid in servers.items()}
    user = Steady(parties, np.random.default_rng([SEED, unit, 1]), parties.client)
    user.start()
    most = dict(before)
    deadline, made = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        made += attack(found[name], rng, min(deadline, time.monotonic() + 2.0))
        for server, pid in servers.items():
            if parties.processes[server].poll() is None:
                most[server] = max(most[server], memory_bytes(pid))
    faults = user.finish()
    faults += [f"{n} ended" for n, p in parties.processes.items() if p.poll() is not None]
    growth = max(most[server] - before[server] for server in servers)
    if growth > GROWTH_BYTES:
        faults.append(f"a server's memory grew by {growth >> 20} MiB")
    where = f"{attack.__name__} at {name}"
    counts = {"connections": float(made), "rounds right": user.n_right}
    return Finding(counts, [f"{where}: {fault}" for fault in faults], {"growth_bytes": growth})


def run(units: Sequence[int]) -> Iterator[Finding]:
    """Attacks on one set of parties, and on a new one after each finding."""
    ahead = list(units)
    while ahead:
        with _limited() as parties:
            while ahead:
                finding = one_attack(parties, ahead.pop(0))
                yield finding
                if finding.faults:
                    break


PART = Part("strangers", f"{UNIT_S:g} s of one attack at one port", 20, 3, run)
