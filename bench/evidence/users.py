"""Part `users`: one listed user's hostile but legal requests beside another user's normal work.

Each request of the other user must succeed, and be right.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bench.evidence.part import SEED, Finding, Part
from bench.evidence.processes import READY_S, Parties, images_of, item_ids, memory_bytes, running
from bench.evidence.steady import Steady
from gpumpc import messages as m
from gpumpc.client.client import Client, connect
from gpumpc.deploy.config import load_client
from gpumpc.deploy.keys import keygen
from gpumpc.errors import GpumpcError
from tests.processes.cluster import rewrite

UNIT_S = 12.0
GROWTH_BYTES = 500 << 20
HOSTILE = "hostile"
N_ROWS = 300
Hostile = Callable[[Parties, np.random.Generator], None]


def _second_user(parties: Parties) -> None:
    keygen(parties.setup.folder / HOSTILE, HOSTILE, "user")
    for file in (parties.setup.server0, parties.setup.server1):
        rewrite(file, user_cards=["user/card.toml", f"{HOSTILE}/card.toml"])


def hostile(parties: Parties) -> Client:
    """The other listed user's connection."""
    config = replace(load_client(parties.setup.client), identity=parties.setup.folder / HOSTILE)
    return connect(config, parties.plan, READY_S)


def huge_k(parties: Parties, rng: np.random.Generator) -> None:
    """Search for as many rows as there are."""
    with hostile(parties) as client:
        index = client.create_index("large", "l2")
        if index.ntotal < N_ROWS:
            items = item_ids(rng, N_ROWS)
            client.extract(client.share(images_of(items), items))
            index.add(items)
        rows = index.ids
        index.search(rows[:4], len(rows))


def delete_in_run(parties: Parties, rng: np.random.Generator) -> None:
    """Delete the last of many items while they are run."""
    with hostile(parties) as client, hostile(parties) as other:
        items = item_ids(rng, 60)
        client.share(images_of(items), items)
        timer = threading.Timer(float(rng.uniform(0, 0.1)), _quietly, (other, items[30:]))
        timer.start()
        try:
            client.run(items)
        finally:
            timer.join()


def _quietly(client: Client, items: list[str]) -> None:
    with contextlib.suppress(GpumpcError):
        client.delete(items)


def reused_ids(parties: Parties, rng: np.random.Generator) -> None:
    """Share other images under ids that are there."""
    with hostile(parties) as client:
        items = client.list_inputs()[:4] or item_ids(rng, 4)
        client.share(images_of(item_ids(rng, len(items))), items)
        client.extract(items)


def many_indexes(parties: Parties, rng: np.random.Generator) -> None:
    """Create indexes with many classes."""
    classes = [f"class {i:05d}" for i in range(2000)]
    with hostile(parties) as client:
        for _ in range(20):
            client.create_index(rng.bytes(8).hex(), "l2", classes=classes)


def pending_rows(parties: Parties, rng: np.random.Generator) -> None:
    """Send rows again and again that nobody settles."""
    with hostile(parties) as client:
        items, value = item_ids(rng, 64), client.program.input
        n_bytes = len(
            client.backend.pack(client.backend.upload(np.zeros((1, 16), "u8")), value.bits)
        )
        bulks = (secrets.token_bytes(32 * len(items)), secrets.token_bytes(n_bytes * len(items)))
        for _ in range(20):
            request = m.Share(client.plan_id, secrets.token_hex(16), items)
            client.both_done(client.ask((request, request), bulks), READY_S)


def early_leaver(parties: Parties, rng: np.random.Generator) -> None:
    """Ask for a run and go away before the answer."""
    with hostile(parties) as client:
        items = item_ids(rng, 40)
        client.share(images_of(items), items)
        client.ask_together(m.Run(client.plan_id, secrets.token_hex(16), items))


BEHAVIOURS: tuple[Hostile, ...] = (
    delete_in_run,
    huge_k,
    reused_ids,
    many_indexes,
    pending_rows,
    early_leaver,
)


def one_behaviour(parties: Parties, unit: int, seconds: float = UNIT_S) -> Finding:
    """One behaviour again and again, beside normal work."""
    behaviour = BEHAVIOURS[unit % len(BEHAVIOURS)]
    rng = np.random.default_rng([SEED, unit])
    before = {n: memory_bytes(p.pid) for n, p in parties.processes.items()}
    user = Steady(parties, np.random.default_rng([SEED, unit, 1]), parties.client)
    user.start()
    deadline, done, refusals = time.monotonic() + seconds, 0, set[str]()
    while time.monotonic() < deadline:
        try:
            behaviour(parties, rng)
            done += 1
        except GpumpcError as error:  # a refusal is a right answer to a hostile user
            refusals.add(f"{type(error).__name__}: {error}"[:160])
            time.sleep(0.05)
    faults = user.finish(40.0)
    for name, process in parties.processes.items():
        if process.poll() is not None:
            faults.append(f"{name} ended")
        elif (growth := memory_bytes(process.pid) - before[name]) > GROWTH_BYTES:
            faults.append(f"the memory of {name} grew by {growth >> 20} MiB")
    name = behaviour.__name__
    counts = {"hostile requests": float(done), "refusals": len(refusals), "right": user.n_right}
    slowest = round(max(user.seconds, default=0.0), 2)
    notes = {"behaviour": name, "refusals": sorted(refusals)[:5], "slowest_round_s": slowest}
    return Finding(counts, [f"{name}: {fault}" for fault in faults], notes)


def run(units: Sequence[int]) -> Iterator[Finding]:
    """Behaviours in one world, and in a new one after each finding."""
    ahead = list(units)
    while ahead:
        with running(prepare=_second_user) as parties:
            while ahead:
                finding = one_behaviour(parties, ahead.pop(0))
                yield finding
                if finding.faults:
                    break


PART = Part("users", f"{UNIT_S:g} s of one hostile behaviour", 12, 2, run)
