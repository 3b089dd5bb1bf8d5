"""Messages between the comparison and an engine's runner. Needs the standard library and NumPy.

Commands are lines: `run` (one run, fresh randomness), `rounds` (an untimed run that counts them),
`stop`. Answers are JSON lines; the runner's other output goes to a log.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.peers.traffic import Counter, peak_memory_bytes

__all__ = ["Case", "Counter", "Stage", "commands", "digest", "end", "peaks", "save_output"]

INPUTS = "inputs.npz"
DIGEST_BYTES = 1 << 16
# One compute thread a process, whatever library computes.
ONE_THREAD: Mapping[str, str] = {
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
    ),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


@dataclass(frozen=True)
class Case:
    """One workload for one engine, in the folder that holds its inputs.

    Attributes:
        ports: where party 0 and party 1 listen, for engines that take ports.
        reached_at: where the other party connects: the same ports, or a relay's.
    """

    workload: str
    frac_bits: int
    ports: tuple[int, int] = (0, 0)
    reached_at: tuple[int, int] = (0, 0)

    def write(self, folder: Path) -> None:
        """Write it next to the inputs."""
        (folder / "case.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Case:
        """Read the file that `write` wrote."""
        fields: dict[str, Any] = json.loads((folder / "case.json").read_text())
        return cls(**fields | {name: tuple(fields[name]) for name in ("ports", "reached_at")})


class Stage:
    """Stdout for answers alone: whatever else this process and its children print goes to `log`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._out = os.fdopen(os.dup(1), "w")
        with log.open("ab") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)

    def say(self, **fields: Any) -> None:
        """One answer."""
        self._out.write(json.dumps(fields) + "\n")
        self._out.flush()

    def spawn(self, module: str, folder: Path, rank: int) -> subprocess.Popen[bytes]:
        """Another party, in the same environment."""
        return subprocess.Popen(
            [sys.executable, "-m", module, str(folder), str(rank)], stdin=subprocess.DEVNULL
        )


def commands() -> Iterator[str]:
    """Lines of stdin; `stop` when it ends."""
    for line in sys.stdin:
        yield line.strip()
    yield "stop"


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for parties that were asked to stop; kill those that do not."""
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def digest(message: bytes) -> str:
    """Of the beginning of a message: it differs where the randomness of two runs does."""
    return hashlib.sha256(message[:DIGEST_BYTES]).hexdigest()


def save_output(folder: Path, output: npt.NDArray[Any]) -> str:
    """Save the revealed output; return its path."""
    path = folder / "output.npy"
    np.save(path, output)
    return str(path)


def peaks(pids: Mapping[str, int]) -> dict[str, int]:
    """Peak memory of each process."""
    return {name: peak_memory_bytes(pid) for name, pid in pids.items()}
