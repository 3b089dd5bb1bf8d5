"""The engines behind one contract: start on a case, run, count rounds, stop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.peers import child_pipe
from bench.peers.peer_workloads import Array
from gpumpc.measure.relay import Relay, Shape

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / "out" / "peers"
TIMEOUT_S = 900.0
# For a peer that does not show its first opened message.
NO_MESSAGE = "the runtime hands out no message; the digest is of party 0's share of the output"


class EngineFailed(RuntimeError):
    """An engine does not run; the message says why, for the table."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One run of one engine.

    Attributes:
        seconds_online: with corrections lying ready; None where an engine deals on demand.
        online_bytes: between the two parties, the larger direction.
        offline_bytes: from the dealer; None where a party deals.
    """

    seconds_total: float
    seconds_online: float | None
    online_bytes: int
    offline_bytes: int | None
    opened_digest: str
    output: Array
    peak_memory_bytes: dict[str, int]
    why_no_message: str = ""


class Engine(Protocol):
    """One engine with one case, ready to run."""

    def run(self) -> Measured:
        """One run under fresh randomness. Raises EngineFailed."""

    def rounds(self) -> int | None:
        """Of one run; None where the engine does not count them."""

    def stop(self) -> None:
        """End its processes; safe to call twice."""

    @property
    def extra(self) -> dict[str, Any]:
        """Columns of a row that this engine alone has."""


def python_of(name: str, environments: Path = ENVIRONMENTS) -> Path:
    """A peer's own Python. Raises EngineFailed if it is not installed."""
    python = environments / name / "bin" / "python"
    if not (environments / name / ".installed").exists() or not python.exists():
        raise EngineFailed(f"not installed: python -m bench.peers.setup {name}")
    return python


class Peer:
    """A peer's runner in its own environment.

    Args:
        name: crypten or spu.
        folder: a new one, with the case's inputs in it.
        link: between the parties; only SPU takes the ports to connect to.

    Raises EngineFailed with the last line of its log.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        workload: str,
        frac_bits: int,
        python: Path,
        link: Shape | None = None,
    ) -> None:
        self.name, self._folder, self._frac_bits = name, folder, frac_bits
        self._relays = [Relay(link), Relay(link)] if link else []
        ports = _free_ports(2)
        relayed = [
            int(relay.endpoint_to(f"tcp://127.0.0.1:{port}").rsplit(":", 1)[1])
            for relay, port in zip(self._relays, ports, strict=False)
        ]
        first, second = relayed or ports
        case = child_pipe.Case(workload, frac_bits, (ports[0], ports[1]), (first, second))
        case.write(folder)
        with (folder / f"{name}.log").open("ab") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", f"bench.peers.run_{name}", str(folder)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=peer_environment(),
                start_new_session=True,
                bufsize=0,  # nothing may wait in a buffer for a process that has ended
            )
        self._unread = b""
        try:
            self._hear()
        except BaseException:
            self.stop()
            raise

    def run(self) -> Measured:
        """One run. Raises EngineFailed."""
        answer = self._ask("run")
        return Measured(
            seconds_total=answer["seconds_total"],
            seconds_online=None,
            online_bytes=answer["online_bytes"],
            offline_bytes=answer.get("offline_bytes"),
            opened_digest=answer.get("opened_digest") or answer["share_digest"],
            output=np.load(answer["output"]),
            peak_memory_bytes=answer["peak_memory_bytes"],
            why_no_message="" if answer.get("opened_digest") else NO_MESSAGE,
        )

    def rounds(self) -> int | None:
        """By the engine's own counters, in an untimed run."""
        rounds: int | None = self._ask("rounds")["rounds"]
        return rounds

    @property
    def extra(self) -> dict[str, Any]:
        """Its fraction bits are ours."""
        return {}

    def stop(self) -> None:
        """Ask it to stop, then kill it and its parties."""
        with contextlib.suppress(OSError, ValueError):
            self._say("stop")
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        for relay in self._relays:
            relay.close()

    def _ask(self, command: str) -> dict[str, Any]:
        try:
            self._say(command)
        except OSError as error:
            raise self._failed() from error
        return self._hear()

    def _say(self, command: str) -> None:
        if self._process.stdin:
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        line = self._line()
        if not line:
            raise self._failed()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _line(self) -> bytes:
        """The next line of stdout; empty at its end.

        Raises EngineFailed after `TIMEOUT_S` seconds.
        """
        deadline = time.monotonic() + TIMEOUT_S
        out = self._process.stdout
        while out is not None and b"\n" not in self._unread:
            ready, _, _ = select.select([out], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise EngineFailed(f"no answer for {TIMEOUT_S:g} s")
            data = os.read(out.fileno(), 1 << 16)
            if not data:
                return b""
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _failed(self) -> EngineFailed:
        log = (self._folder / f"{self.name}.log").read_text(errors="replace")
        return EngineFailed(last_words(log))


def peer_environment() -> dict[str, str]:
    """This one with a single compute thread, and without a path to our own packages."""
    kept = os.environ.keys() - {"PYTHONPATH", "VIRTUAL_ENV"}
    return {**{name: os.environ[name] for name in kept}, **child_pipe.ONE_THREAD}


def last_words(log: str) -> str:
    """The last error of a log, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or ["it ended and its log is empty"])[-1][:200]


def _free_ports(n: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
