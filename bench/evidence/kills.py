"""Part `kills`: a party dies at a random moment of a client's work, and starts again.

The victim is a server, the dealer, the client, or two of them; sometimes it dies a second time
while it starts. Sometimes the files that were being written are left as a loss of power leaves
them. Afterwards everything is compared with what the client was told (`bench/evidence/told.py`).
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.evidence import busy_client
from bench.evidence.part import SEED, Counts, Finding, Part
from bench.evidence.processes import (
    LIMIT_S,
    READY_S,
    Array,
    Parties,
    deals,
    images_of,
    right,
    running,
)
from bench.evidence.told import ROWS, Diary, Model
from gpumpc.client.client import Client
from gpumpc.errors import GpumpcError

INDEX = busy_client.INDEX
VICTIMS = (
    ("server0",),
    ("server1",),
    ("dealer",),
    ("client",),
    ("server0",),
    ("server1",),
    ("server0", "server1"),
    ("server1", "dealer"),
)
LONGEST_WORK_S = 0.8
TORN_SHARE = 0.25
SECOND_KILL_SHARE = 0.1


@dataclass
class _World:
    """Living parties and what is known of their items; a fault makes a new world."""

    parties: Parties
    model: Model = field(default_factory=Model)
    features: dict[str, Array] = field(default_factory=dict)


def tear(state: Path, rng: np.random.Generator) -> str:
    """Leave a state folder as a loss of power may: bytes behind the end of a log that was being
    written, or half a segment that no manifest names yet.
    """
    logs = sorted(state.rglob("*-wal"))
    segments = sorted(state.rglob("*.seg"))
    if segments and rng.random() < 0.5:
        whole = segments[int(rng.integers(len(segments)))]
        half = whole.with_name(f"{rng.bytes(16).hex()}.seg")
        half.write_bytes(whole.read_bytes()[: int(rng.integers(whole.stat().st_size))])
        half.chmod(0o600)
        return "half a segment"
    for log in logs[: 1 + int(rng.integers(2))]:
        with log.open("ab") as file:  # a frame that was begun; its checksum cannot be right
            file.write(rng.bytes(int(rng.integers(1, 6000))))
    return "bytes behind a log"


def _again(client: Client, model: Model) -> None:
    """Ask once more what nobody answered, as the documentation tells a user to do."""
    index = client.open_index(INDEX)
    for verb, items in model.open_requests:
        if verb == "share":
            client.share(images_of(items), items)
        elif verb == "extract":
            client.extract(items)
        elif verb == "add":
            index.add(items)
        elif verb == "remove":
            index.remove(items)
        elif verb == "delete":
            client.delete(items)


def _named(client: Client, model: Model) -> list[str]:
    """Whether each index that was asked for can be had under its name."""
    faults = []
    for name, was_told in model.names.items():
        try:
            if was_told:
                client.open_index(name)
            else:
                client.create_index(name, "l2")
                client.open_index(name)
        except GpumpcError as error:
            faults.append(f"index name {name[:8]} is stuck: {error}")
    return faults


def compare(client: Client, model: Model) -> list[str]:
    """How what the servers list differs from the model."""
    listed = (client.list_inputs(), client.list_features(), client.open_index(INDEX).ids)
    pairs = zip(ROWS, listed, strict=True)
    return [fault for row, found in pairs for fault in model.violations(row, found)]


def _counted(client: Client, model: Model) -> list[str]:
    """Whether each server has as many rows as the model, none of them pending."""
    faults = []
    wanted = {row: len(model.items(row)) for row in ROWS}
    for party, status in enumerate(client.store_status()):
        n_rows = dict.fromkeys(ROWS, 0)
        for kind, n in status.rows.items():
            row, state = kind.split("/")[0], kind.rsplit(" ", 1)[-1]
            n_rows[row] = n_rows.get(row, 0) + n
            if n and state != "ready":
                faults.append(f"server {party} has {n} rows of '{row}' that are {state}")
        if n_rows != wanted:
            faults.append(f"server {party} has rows {n_rows}, and {wanted} are right")
    return faults


def _results(client: Client, world: _World) -> list[str]:
    """Whether features are what they were, new ones are right, and each row finds itself."""
    faults, items = [], world.model.items("feature")
    if items:
        revealed = client.features(items).reveal()
        if not right(world.parties.compiled, items, revealed):
            faults.append("features are not what the plan gives")
        for item, feature in zip(items, revealed, strict=True):
            if not np.array_equal(world.features.setdefault(item, feature), feature):
                faults.append(f"the feature of {item[:8]} changed")
    rows = world.model.items("index")
    if rows:
        _, found = client.open_index(INDEX).search(rows, 1)
        wrong = [item for item, [first] in zip(rows, found, strict=True) if item != first]
        faults += [f"the nearest of {wrong[0][:8]} is another item"] if wrong else []
    return faults


def check(client: Client, world: _World) -> list[str]:
    """Compare everything with what the client was told; then ask again what was cut, and once more.

    After that nothing may be undecided any more.
    """
    faults = compare(client, world.model)
    _again(client, world.model)
    world.model.settle()
    faults += _named(client, world.model) + compare(client, world.model)
    faults += _counted(client, world.model) + _results(client, world)
    world.model.forget_deleted()
    return faults


def _kill(world: _World, rng: np.random.Generator, folder: Path) -> tuple[Counts, list[str]]:
    """Let a client work, kill at a random moment, start again; what was done and what was wrong."""
    parties, victims = world.parties, VICTIMS[int(rng.integers(len(VICTIMS)))]
    diary_path = folder / "diary"
    diary_path.unlink(missing_ok=True)
    diary = Diary(diary_path)
    rows = {row: world.model.items(row) for row in ROWS}
    arguments = (str(parties.setup.client), str(parties.plan), str(diary_path), rows)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.evidence.busy_client"])
    client = context.Process(target=busy_client.work, args=(*arguments, int(rng.integers(1 << 30))))
    client.start()
    while client.is_alive() and not diary.read():
        time.sleep(0.01)
    time.sleep(float(rng.uniform(0, LONGEST_WORK_S)))
    counts: Counts = {f"kills of {name}": 1 for name in victims}
    counts["kills"] = len(victims)
    if victims == ("client",):
        client.kill()
    else:
        parties.kill(*victims)
    client.join(LIMIT_S + 1)
    faults = []
    if client.is_alive():
        faults.append(f"the client heard nothing {LIMIT_S + 1:g} s after a kill of {victims}")
        client.kill()
        client.join()
    torn = [name for name in victims if name.startswith("server") and rng.random() < TORN_SHARE]
    for name in torn:
        tear(parties.state(int(name[-1])), rng)
        counts["torn"] = counts.get("torn", 0) + 1
    if victims != ("client",) and rng.random() < SECOND_KILL_SHARE:
        parties.start()
        time.sleep(float(rng.uniform(0.3, 1.5)))
        parties.kill(*victims)
        counts["kills"] += len(victims)
    parties.start()
    lines = diary.read()
    counts["requests"] = sum("told" in line for line in lines)
    world.model.take(lines)
    return counts, faults + heard(lines)


def heard(lines: Sequence[dict[str, Any]]) -> list[str]:
    """What a client's lines themselves say is wrong."""
    faults = [line["fault"] for line in lines if "fault" in line]
    for line in lines:
        if "error" in line and line["seconds"] > LIMIT_S:
            faults.append(f"an error came after {line['seconds']} s: {line['error']}")
        if "error" in line and not line["three_parts"]:
            faults.append(f"an error lacks a part: {line['error']}")
    return faults


def cycle(world: _World, unit: int, folder: Path) -> Finding:
    """One kill and what is left of everything."""
    counts, faults = _kill(world, np.random.default_rng([SEED, unit]), folder)
    try:
        with world.parties.client() as client:
            client.wait_ready(READY_S)
            if not deals(client, READY_S):
                faults.append(f"the dealer did not come back within {READY_S:g} s")
            faults += check(client, world)
            # A fault of the status alone: it is counted, and hides no other one.
            counts["server 0 says it has no dealer"] = not client.status()[0].dealer_connected
    except GpumpcError as error:
        faults.append(f"no service after the restart: {type(error).__name__}: {error}")
    return Finding({**counts, "cycles": 1}, faults)


def run(units: Sequence[int]) -> Iterator[Finding]:
    """Cycles in one world, and in a new one after each fault."""
    ahead = list(units)
    while ahead:
        with running(pool="2KiB") as parties:
            world = _World(parties)
            with parties.ready() as client:
                client.create_index(INDEX, "l2")
            while ahead:
                finding = cycle(world, ahead.pop(0), parties.setup.folder)
                yield finding
                if finding.faults:
                    break


PART = Part("kills", "one kill, restart and comparison", 800, 8, run)
