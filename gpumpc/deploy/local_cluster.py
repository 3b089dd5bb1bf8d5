"""All three processes on this machine, started together, watched, and stopped together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from gpumpc.deploy.config import LocalSetup
from gpumpc.errors import PeerLost
from gpumpc.ring.choose import choose_backend

_STOP_S = 8.0
# Each process has one compute thread: three share the machine.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class LocalCluster:
    """Dealer and two servers as processes of this machine, for trying out: it protects nothing.

    Use as a context manager; leaving it stops all three.
    """

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start what does not run."""
        choose_backend()  # compiles once what three processes would each compile
        for name, arguments in self._commands().items():
            if name not in self.processes or self.processes[name].poll() is not None:
                self.processes[name] = self._spawn(name, arguments)

    def _commands(self) -> dict[str, list[str]]:
        return {
            "server0": ["server", "--party", "0", "--config", str(self.setup.server0)],
            "server1": ["server", "--party", "1", "--config", str(self.setup.server1)],
            "dealer": ["dealer", "--config", str(self.setup.dealer)],
        }

    def log_path(self, name: str) -> Path:
        """Where a process writes its log."""
        return self.setup.folder / f"{name}.log"

    def _spawn(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        with self.log_path(name).open("ab") as output:
            return subprocess.Popen(
                # Its stdin ends with this process, however that ends: none is left behind.
                [sys.executable, "-m", "gpumpc", *arguments, "--supervised"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ONE_THREAD},
                # Ctrl-C at the terminal reaches the supervisor alone, which stops them in order.
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises PeerLost with the end of its log if one of the processes has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                what = f"{name} ended with status {process.returncode}"
                raise PeerLost(what, self._last_words(name), f"see {self.log_path(name)}")

    def _last_words(self, name: str) -> str:
        lines = self.log_path(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self) -> None:
        """Ask all to stop, wait, and kill what does not; safe to call twice."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
