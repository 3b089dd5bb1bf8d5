"""Two servers, a dealer and their user as real processes, for the campaigns."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpumpc.client.client import Client, connect
from gpumpc.deploy.config import write_local
from gpumpc.deploy.local_cluster import LocalCluster
from gpumpc.local.compile import Plan
from tests.processes.cluster import close, tiny

Array = npt.NDArray[np.float64]
NAMES = ("server0", "server1", "dealer")
READY_S = 15.0
# An error is promised within 5 s; a busy machine gets this long.
LIMIT_S = 6.5


class Parties(LocalCluster):
    """The three parties in a folder of their own, with a tiny network.

    Attributes:
        compiled: the network's plan; its folder is `plan`.
    """

    compiled: Plan
    plan: Path

    @classmethod
    def make(cls, folder: Path, batch_size: int = 4, pool: str = "64KiB") -> Parties:
        """Keys, configuration and plan in a new folder; `start` starts the processes."""
        compiled, plan = tiny(), folder / "plan"
        compiled.save(plan)
        parties = cls(write_local(folder / "local", [plan], batch_size, pool=pool, timeout_s=30.0))
        parties.compiled, parties.plan = compiled, plan
        return parties

    def start(self) -> None:
        """Start what does not run."""
        self._close_pipes()
        super().start()

    def stop(self) -> None:
        """Stop all; safe to call twice."""
        super().stop()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for process in self.processes.values():
            if process.stdin and process.poll() is not None:
                process.stdin.close()

    def state(self, party: int) -> Path:
        """A server's state folder."""
        return self.setup.folder / f"state{party}"

    def kill(self, *names: str) -> None:
        """SIGKILL."""
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes[name].wait()

    def end(self, *names: str) -> None:
        """SIGTERM, and wait until they have ended."""
        for name in names:
            self.processes[name].send_signal(signal.SIGTERM)
        for name in names:
            self.processes[name].wait(10)

    def log(self, name: str) -> str:
        """What a party has written to its log."""
        path = self.log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def client(self, timeout_s: float = READY_S) -> Client:
        """A connection of the user's to both servers."""
        return connect(self.setup.client, self.plan, timeout_s)

    @contextlib.contextmanager
    def ready(self) -> Iterator[Client]:
        """A client of servers that are connected to each other and have weights."""
        with self.client() as client:
            client.wait_connected(READY_S)
            if not client.is_ready:
                client.share_weights(self.compiled.weights)
            client.wait_ready(READY_S)
            yield client


@contextlib.contextmanager
def running(
    batch_size: int = 4, pool: str = "64KiB", prepare: Callable[[Parties], None] | None = None
) -> Iterator[Parties]:
    """Parties in a temporary folder, started and with weights; all is gone afterwards.

    Args:
        prepare: may change the parties' files before they start.
    """
    with tempfile.TemporaryDirectory(prefix="gpumpc-evidence-") as folder:
        parties = Parties.make(Path(folder), batch_size, pool)
        if prepare:
            prepare(parties)
        with parties:
            with parties.ready():
                pass
            yield parties


def image_of(item: str) -> Array:
    """The image (4, 4, 1) of an item: it follows from the id, so no model has to keep it."""
    return np.random.default_rng(int(item, 16)).uniform(-1, 1, (4, 4, 1))


def images_of(items: Sequence[str]) -> Array:
    """Images (n, 4, 4, 1) of items."""
    return np.stack([image_of(item) for item in items])


def item_ids(rng: np.random.Generator, n: int) -> list[str]:
    """New item ids."""
    return [rng.bytes(16).hex() for _ in range(n)]


def right(plan: Plan, items: Sequence[str], features: Array) -> bool:
    """Whether features are what the plan gives for these items, within its error law."""
    return close(plan, images_of(items), features)


def files_of(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def deals(client: Client, timeout_s: float) -> bool:
    """Wait until the dealer is connected to server 1, which takes what it deals; whether it is."""
    return until(lambda: client.status()[1].dealer_connected, timeout_s)


def until(holds: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until a function says true; whether it did in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False
