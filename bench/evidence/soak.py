"""Part `soak`: eight clients work for half an hour, and what the parties take is watched.

No answer may be wrong and no request refused; open files and threads must not grow, and memory must
level off. The growth of every file is printed, an hour's worth.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.evidence.part import SEED, Finding, Part
from bench.evidence.processes import Parties, files_of, memory_bytes, running
from bench.evidence.steady import Steady

N_CLIENTS = 8
UNIT_S = 60.0
# What is measured after so many units is growth, and no warming up.
WARM_UNITS = 5
MEMORY_BYTES_PER_HOUR = 32 << 20
COUNT_PER_HOUR = 4.0
Sample = dict[str, float]


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def _size(paths: Iterator[Path]) -> float:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # deleted while it was listed
            continue
    return float(total)


def sample(parties: Parties) -> Sample:
    """What the parties take now: bytes and counts by name."""
    taken: Sample = {}
    for name, process in parties.processes.items():
        taken[f"{name} memory_bytes"] = memory_bytes(process.pid)
        taken[f"{name} files"] = files_of(process.pid)
        taken[f"{name} threads"] = _threads(process.pid)
        taken[f"{name} log_bytes"] = _size(iter([parties.log_path(name)]))
    for party in (0, 1):
        state = parties.state(party)
        taken[f"server{party} ledger_bytes"] = _size(state.glob("ledger*"))
        taken[f"server{party} manifest_bytes"] = _size(state.rglob("manifest*"))
        taken[f"server{party} segments"] = sum(1 for _ in state.rglob("*.seg"))
        taken[f"server{party} state_bytes"] = _size(state.rglob("*"))
    return taken


def slopes(samples: Sequence[Sample], hours: Sequence[float]) -> Sample:
    """Growth an hour of everything, by least squares."""
    return {
        name: round(float(np.polyfit(hours, [taken[name] for taken in samples], 1)[0]), 1)
        for name in samples[0]
    }


def grown(slope: Sample) -> list[str]:
    """What grows faster than it may."""
    most = {"memory_bytes": MEMORY_BYTES_PER_HOUR, "files": COUNT_PER_HOUR}
    most["threads"] = COUNT_PER_HOUR
    return [
        f"{name} grows by {value:,.0f} an hour"
        for name, value in slope.items()
        if value > most.get(name.rsplit(" ", 1)[-1], float("inf"))
    ]


def run(units: Sequence[int]) -> Iterator[Finding]:
    """Minutes of work of the same clients."""
    if not units:
        return
    samples: list[Sample] = []
    hours: list[float] = []
    with running(batch_size=4, pool="64KiB") as parties:
        users = [
            Steady(parties, np.random.default_rng([SEED, i]), parties.client, f"steady-{i}")
            for i in range(N_CLIENTS)
        ]
        for user in users:
            user.start()
        start = time.monotonic()
        for _ in units:
            done = [(user.n_right, len(user.seconds)) for user in users]
            time.sleep(UNIT_S)
            samples.append(sample(parties))
            hours.append((time.monotonic() - start) / 3600)
            faults = [fault for user in users for fault in user.faults]
            for user in users:
                user.faults.clear()
            took = [s for user, (_, n) in zip(users, done, strict=True) for s in user.seconds[n:]]
            p50, p99 = np.quantile(took, (0.5, 0.99)) if took else (0.0, 0.0)
            warm, n_warm = slice(WARM_UNITS, None), len(samples) - WARM_UNITS
            slope = slopes(samples[warm], hours[warm]) if n_warm >= WARM_UNITS else {}
            if len(samples) == len(units):
                faults += grown(slope)
            notes = {
                "p50_s": round(float(p50), 3),
                "p99_s": round(float(p99), 3),
                "taken": samples[-1],
                "slopes_per_hour": slope,
            }
            n_right = sum(user.n_right - n for user, (n, _) in zip(users, done, strict=True))
            yield Finding({"rounds": len(took), "right": n_right}, faults[:10], notes)
        for user in users:
            user.stopping.set()
        for user in users:
            user.join(30)


PART = Part("soak", f"{UNIT_S:g} s of {N_CLIENTS} clients", 30, 0, run)
