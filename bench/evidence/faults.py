"""Part `faults`: the network between two parties is spoilt, or a party stands still.

A client computes on shares all the time. From the moment of a fault, each request must end in a
right result, or in an error that says what happened, why, and what to do, within 5 s and some
slack; when the fault is over, service must come back by itself.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.evidence.fault_proxy import KINDS, FaultProxy
from bench.evidence.links import LINKS, lead_through
from bench.evidence.part import SEED, Finding, Part
from bench.evidence.processes import (
    LIMIT_S,
    NAMES,
    Parties,
    deals,
    images_of,
    item_ids,
    right,
    running,
)
from gpumpc.client.client import Client
from gpumpc.errors import GpumpcError

BATCH, N_ITEMS = 4, 40  # more batches than the pool holds: the dealer deals while a request runs
WAYS = ((0, 1), (0,), (1,))
# Bytes still move: a request may be slow, and must end all the same.
SLOW, SLOW_LIMIT_S = ("delay", "trickle"), 60.0
LASTS_S = LIMIT_S + 1.0
PAUSES_S = (2.0, 5.0, 10.0, 30.0)
BACK_S = 20.0


@dataclass
class Request:
    """One request of the client: when it began and ended, and with what."""

    begun: float
    ended: float
    outcome: str


class _Client(threading.Thread):
    """Runs the same items again and again, with a new connection after each error."""

    def __init__(self, parties: Parties, items: list[str]) -> None:
        super().__init__(daemon=True)
        self._parties, self._items = parties, items
        self.stopping = threading.Event()
        self.begun = 0.0
        self.requests: list[Request] = []

    def run(self) -> None:
        """What the thread does."""
        client: Client | None = None
        while not self.stopping.is_set():
            self.begun = time.monotonic()
            try:
                client = client or self._parties.client(0.0)
                is_right = right(
                    self._parties.compiled, self._items, client.run(self._items).reveal()
                )
                outcome = "right" if is_right else "wrong"
            except GpumpcError as error:
                whole = error.what and error.why and error.hint
                outcome = f"{'error' if whole else 'unclear'} {type(error).__name__}: {error}"
            except Exception as error:  # no error of ours: the user is not told what to do
                outcome = f"unclear {type(error).__name__}: {error}"
            self.requests.append(Request(self.begun, time.monotonic(), outcome))
            if outcome != "right":
                if client:
                    client.close()
                client = None
                self.stopping.wait(0.2)
        if client:
            client.close()


def judged(
    requests: Sequence[Request], began: float, limit_s: float, unfinished: float | None = None
) -> list[str]:
    """What is wrong with requests around a fault.

    Args:
        began: when the fault began.
        limit_s: how long after that, or after its own begin, a request may end.
        unfinished: how long ago a request began that has not ended, if there is one.
    """
    faults = []
    for request in requests:
        late_s = request.ended - max(began, request.begun)
        if request.outcome == "wrong":
            faults.append("a wrong result")
        if request.outcome.startswith("unclear"):
            faults.append(f"an error without three parts: {request.outcome}")
        if request.ended > began and late_s > limit_s:
            faults.append(f"told after {late_s:.1f} s: {request.outcome}")
    if unfinished is not None and unfinished > limit_s:
        faults.append(f"told nothing for {unfinished:.1f} s")
    return faults


@dataclass
class _World:
    parties: Parties
    proxies: dict[str, FaultProxy]
    items: list[str]


@contextlib.contextmanager
def _world(rng: np.random.Generator) -> Iterator[_World]:
    proxies: dict[str, FaultProxy] = {}

    def through_proxies(parties: Parties) -> None:
        proxies.update(lead_through(parties, lambda target: FaultProxy(target, rng)))

    try:
        with running(BATCH, "2KiB", through_proxies) as parties, parties.ready() as client:
            items = client.share(images_of(ids := item_ids(rng, N_ITEMS)), ids)
            yield _World(parties, proxies, items)
    finally:
        for proxy in proxies.values():
            proxy.close()


def _pause(parties: Parties, name: str, lasts_s: float) -> None:
    pid = parties.processes[name].pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(lasts_s)
    os.kill(pid, signal.SIGCONT)


def _spoil(proxy: FaultProxy, kind: str, ways: tuple[int, ...]) -> None:
    proxy.spoil(kind, ways)
    time.sleep(LASTS_S)
    proxy.heal()


def chosen(world: _World, unit: int) -> tuple[str, float, Callable[[], None], Callable[[], int]]:
    """What a unit does: its name, its limit, the fault, and how often the fault struck."""
    n_pauses = len(NAMES) * len(PAUSES_S)
    if unit % 4 == 3:  # every fourth unit is a pause
        number = unit // 4 % n_pauses
        name, lasts_s = NAMES[number % len(NAMES)], PAUSES_S[number // len(NAMES)]
        pause = partial(_pause, world.parties, name, lasts_s)
        return f"{name} paused for {lasts_s:g} s", LIMIT_S, pause, lambda: 1
    number = unit - unit // 4
    link, kind = LINKS[number % len(LINKS)], KINDS[number // len(LINKS) % len(KINDS)]
    ways = WAYS[number // len(LINKS) // len(KINDS) % len(WAYS)]
    if kind == "one-way" and len(ways) == 2:
        ways = (1,)
    proxy = world.proxies[link]
    limit_s = SLOW_LIMIT_S if kind in SLOW else LIMIT_S
    name = f"{kind} at {link}, ways {ways}"
    return name, limit_s, partial(_spoil, proxy, kind, ways), lambda: proxy.touched


def one_fault(world: _World, unit: int) -> Finding:
    """One fault while a client works, and service afterwards."""
    name, limit_s, fault, touched = chosen(world, unit)
    client = _Client(world.parties, world.items)
    client.start()
    rng = np.random.default_rng([SEED, unit])
    time.sleep(float(rng.uniform(0.3, 1.0)))
    before, began = touched(), time.monotonic()
    fault()
    healed = time.monotonic()
    client.stopping.set()
    client.join(limit_s)
    late_s = time.monotonic() - max(began, client.begun) if client.is_alive() else None
    faults = judged([*client.requests], began, limit_s, late_s)
    struck = touched() - before if touched() != 1 else 1
    try:
        with world.parties.ready() as after:
            if not deals(after, BACK_S):
                faults.append(f"the dealer is not connected {BACK_S:g} s after the fault")
            result = after.run(world.items).reveal()
            if not right(world.parties.compiled, world.items, result):
                faults.append("a wrong result after the fault")
        back_s = round(time.monotonic() - healed, 1)
        if back_s > BACK_S and not client.is_alive():
            faults.append(f"service came back after {back_s} s")
    except GpumpcError as error:
        back_s = -1.0
        faults.append(f"no service after the fault: {type(error).__name__}: {error}")
    ended = [p for p in NAMES if world.parties.processes[p].poll() is not None]
    faults += [f"{party} ended" for party in ended]
    outcomes = [r.outcome for r in client.requests if r.ended > began]
    n_right = sum(outcome == "right" for outcome in outcomes)
    counts = {"faults": 1.0, "requests": len(outcomes), "right": n_right, "struck": bool(struck)}
    errors = sorted({outcome[:160] for outcome in outcomes if outcome != "right"})
    notes = {"fault": name, "back_s": back_s, "errors": errors}
    return Finding(counts, [f"{name}: {fault}" for fault in faults], notes)


def run(units: Sequence[int]) -> Iterator[Finding]:
    """Faults in one world, and in a new one after each finding."""
    ahead = list(units)
    while ahead:
        with _world(np.random.default_rng([SEED, ahead[0]])) as world:
            while ahead:
                finding = one_fault(world, ahead.pop(0))
                yield finding
                if finding.faults:
                    break


PART = Part("faults", "one fault of the network, or one pause", 252, 4, run)
