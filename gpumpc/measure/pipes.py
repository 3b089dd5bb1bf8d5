"""Messages between a process benchmark and its processes: JSON lines over pipes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gpumpc.errors import PeerLost

Message = dict[str, Any]
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
_STOP_S = 5.0


class Child:
    """One process of a benchmark; its log goes to a file.

    Args:
        name: dealer, server0 or server1.
        module: what `python -m` runs.
        setup: its first message.
    """

    def __init__(self, name: str, module: str, log: Path, setup: Message) -> None:
        self.name, self._log = name, log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,
            )
        self.send(setup)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, message: Message) -> None:
        """Send a message. Raises PeerLost if the process has ended."""
        try:
            pipe = self._pipe(self._process.stdin)
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except OSError as error:
            raise self._lost() from error

    def receive(self) -> Message:
        """Its next answer. Raises PeerLost with the end of its log if there is none."""
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise self._lost()
        answer: Message = json.loads(line)
        return answer

    def ask(self, message: Message) -> Message:
        """Send a message and wait for its answer."""
        self.send(message)
        return self.receive()

    def stop(self) -> None:
        """End it, by force if it does not stop; safe to call twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:  # it has ended already
                    continue
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None or pipe.closed:
            raise OSError("the pipe is closed")
        return pipe

    def _lost(self) -> PeerLost:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        what = f"the process {self.name} of the benchmark has ended"
        hint = "the network of the machine is not at fault: see the message, and run it again"
        return PeerLost(what, lines[-1] if lines else "its log is empty", hint)


def messages() -> Iterator[Message]:
    """Lines of stdin, until it is closed."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(message: Message) -> None:
    """Send one line to the benchmark."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def peak_memory_bytes() -> int:
    """The largest resident size of this process; getrusage's begins with the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
