"""Part `restore`: states that are older than they should be, shared, full, or not writable.

An older state must never let a batch number be used again, must never give a wrong answer, and must
not make the healthy server lose rows: with the right folder put back, everything is there again.
"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.evidence.copies import INDEX, serving
from bench.evidence.part import SEED, Finding, Part
from bench.evidence.processes import Array, Parties, images_of, item_ids, right, running, until
from gpumpc.client.client import Client
from gpumpc.errors import GpumpcError

N_ITEMS = 8
PAGE_BYTES = 4096
FREE_BYTES = 1 << 20
# What was wrong, and what was refused.
Outcome = tuple[list[str], list[str]]
Case = Callable[[np.random.Generator], Outcome]


@dataclass
class _Past:
    """Parties with rows from before and after a copy of both states, all stopped.

    Attributes:
        old: folder with the copies, named as the state folders.
        first, second: items from before and after the copy.
        features: of all items, as they were revealed.
        marks: session and next batch number at the end, at each server.
    """

    parties: Parties
    old: Path
    first: list[str]
    second: list[str]
    features: Array
    marks: list[tuple[str, int]]

    @property
    def items(self) -> list[str]:
        """All items."""
        return self.first + self.second

    def put_back(self, *servers: int) -> None:
        """Put the old copies in the place of these servers' states."""
        for party in servers:
            state = self.parties.state(party)
            shutil.move(state, state.with_suffix(".new"))
            shutil.copytree(self.old / state.name, state)

    def put_right(self, *servers: int) -> None:
        """Put the newest states back."""
        for party in servers:
            state = self.parties.state(party)
            shutil.rmtree(state)
            shutil.move(state.with_suffix(".new"), state)


def marks(client: Client) -> list[tuple[str, int]]:
    """Session and next batch number at each server."""
    return [(status.session, status.next_batch) for status in client.plan_status()]


def _store(client: Client, items: list[str]) -> None:
    client.extract(client.share(images_of(items), items))
    client.create_index(INDEX, "l2").add(items)


@contextlib.contextmanager
def _past(rng: np.random.Generator) -> Iterator[_Past]:
    with running(pool="2KiB") as parties:
        first, second = item_ids(rng, N_ITEMS), item_ids(rng, N_ITEMS)
        with parties.ready() as client:
            _store(client, first)
        parties.end(*parties.processes)
        old = parties.setup.folder / "old"
        for party in (0, 1):
            shutil.copytree(parties.state(party), old / parties.state(party).name)
        parties.start()
        with parties.ready() as client:
            _store(client, second)
            features = client.features(first + second).reveal()
            seen = marks(client)
        parties.end(*parties.processes)
        yield _Past(parties, old, first, second, features, seen)


def used_again(before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]) -> bool:
    """Whether a server is in a session that it was in before, at a batch number it had passed."""
    pairs = zip(before, after, strict=True)
    return any(now[0] == then[0] and now[1] < then[1] for then, now in pairs)


def _ask_in_the_past(past: _Past, rng: np.random.Generator) -> Outcome:
    """Ask parties of whom some have an old state: what is wrong, and what was refused."""
    faults: list[str] = []
    refused: list[str] = []
    client = serving(past.parties)
    if isinstance(client, str):
        return [], [client]
    with client:
        begins = marks(client)

        def works() -> bool:
            fresh = item_ids(rng, N_ITEMS)
            _store(client, fresh)
            return right(past.parties.compiled, fresh, client.features(fresh).reveal())

        def kept() -> bool:
            items = [item for item in past.items if item in client.list_features()]
            rows = [past.items.index(item) for item in items]
            same = np.array_equal(client.features(items).reveal(), past.features[rows])
            return {*past.first} <= {*items} and same

        def found() -> bool:
            _, names = client.open_index(INDEX).search(past.first, 1)
            return names == [[item] for item in past.first]

        def again() -> bool:
            client.extract(past.first)
            return right(past.parties.compiled, past.first, client.run(past.first).reveal())

        for question in (kept, found, works, again):
            try:
                if not question():
                    faults.append(f"{question.__name__}: a wrong answer without an error")
                elif question is works and used_again(past.marks, begins):
                    faults.append(f"batch numbers are used again: {past.marks} then {begins}")
            except GpumpcError as error:
                refused.append(f"{question.__name__}: {error}")
    return faults, refused


def _old_state(*servers: int) -> Case:
    def try_it(rng: np.random.Generator) -> Outcome:
        with _past(rng) as past:
            past.put_back(*servers)
            past.parties.start()
            faults, refused = _ask_in_the_past(past, rng)
            past.parties.stop()
            if len(servers) == 1:  # the other server must not have lost what it had
                past.put_right(*servers)
                past.parties.start()
                client = serving(past.parties)
                if isinstance(client, str):
                    faults.append(f"no service with the right folder back: {client}")
                else:
                    with client:
                        lost = {*past.items} - {*client.list_features()}
                    if lost:
                        faults.append(
                            f"{len(lost)} of {2 * N_ITEMS} rows are lost at the healthy server"
                        )
        return faults, refused

    return try_it


def _shared_state(rng: np.random.Generator) -> Outcome:
    """A second process is started for each server, on the state folder of the first."""
    faults: list[str] = []
    refused: list[str] = []
    with running() as parties:
        for party, config in enumerate((parties.setup.server0, parties.setup.server1)):
            command = ["-m", "gpumpc", "server", "--party", str(party), "--config", str(config)]
            second = subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, timeout=20, check=False
            )
            refused.append((second.stdout + second.stderr).strip()[-300:])
            if second.returncode == 0:
                faults.append("a second server started on the state of the first")
        with parties.ready() as client:
            items = item_ids(rng, 4)
            _store(client, items)
            if not right(parties.compiled, items, client.features(items).reveal()):
                faults.append("a wrong result beside a second server")
    return faults, refused


@contextlib.contextmanager
def _mounted(state: Path) -> Iterator[None]:
    """A small file system in a state's place, with what was there; needs the right to mount."""
    aside = state.with_suffix(".aside")
    shutil.move(state, aside)
    pages = sum(-(-path.stat().st_size // PAGE_BYTES) + 1 for path in aside.rglob("*"))
    size = pages * PAGE_BYTES + FREE_BYTES
    state.mkdir(mode=0o700)
    options = f"mode=700,size={size}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", state], check=True)
    try:
        shutil.copytree(aside, state, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", state], check=True)


def _fill(state: Path) -> Path:
    """A file that takes what is left of the disk."""
    ballast = state / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", 0) as file:
        while file.write(bytes(4096)):
            pass
    return ballast


def _refusals(parties: Parties, rng: np.random.Generator) -> Outcome:
    """Large requests to parties on a bad disk."""
    faults: list[str] = []
    refused: list[str] = []
    for _ in range(3):
        try:
            with parties.client() as client:
                items = item_ids(rng, 200)
                client.extract(client.share(images_of(items), items))
                if not right(parties.compiled, items, client.features(items).reveal()):
                    faults.append("a wrong result on a bad disk")
        except GpumpcError as error:
            refused.append(str(error))
    return faults, refused


def _serves(parties: Parties, first: list[str], rng: np.random.Generator) -> bool:
    """Whether parties keep what they had and take new items."""
    parties.start()
    client = serving(parties)
    if isinstance(client, str):
        return False
    with client, contextlib.suppress(GpumpcError):
        items = item_ids(rng, 4)
        _store(client, items)
        return right(parties.compiled, first + items, client.features(first + items).reveal())
    return False


def _disk(party: int, full: bool) -> Case:
    """A full disk below a server that runs, or a read-only one at its start; then a good one."""

    def full_disk(parties: Parties, state: Path, rng: np.random.Generator) -> Outcome:
        parties.start()
        with parties.ready():
            ballast = _fill(state)
        outcome = _refusals(parties, rng)
        ballast.unlink()
        return outcome

    def read_only(parties: Parties, state: Path, rng: np.random.Generator) -> Outcome:
        subprocess.run(["mount", "-o", "remount,ro", state], check=True)
        parties.start()
        client = serving(parties)
        subprocess.run(["mount", "-o", "remount,rw", state], check=True)
        if isinstance(client, str):
            return [], [client]
        client.close()
        return ["a server started on a state that it cannot write"], []

    def try_it(rng: np.random.Generator) -> Outcome:
        with running() as parties:
            with parties.ready() as client:
                _store(client, first := item_ids(rng, 4))
            parties.end(*parties.processes)
            state = parties.state(party)
            with _mounted(state):
                faults, refused = (full_disk if full else read_only)(parties, state, rng)
                if not until(lambda: _serves(parties, first, rng), 30):
                    faults.append("no service when the disk was good again")
                parties.stop()
        if not refused:
            faults.append("nothing was refused, so the disk was not bad")
        words = ("space", "read-only", "readonly")
        if refused and not any(word in refused[0].lower() for word in words):
            faults.append(f"the error does not name the disk: {refused[0]}")
        return faults, refused

    return try_it


CASES: dict[str, Case] = {
    "old state at server 0": _old_state(0),
    "old state at server 1": _old_state(1),
    "old states at both": _old_state(0, 1),
    "two servers on one state": _shared_state,
    "full disk at server 0": _disk(0, full=True),
    "full disk at server 1": _disk(1, full=True),
    "read-only state at server 0": _disk(0, full=False),
    "read-only state at server 1": _disk(1, full=False),
}


def run(units: Sequence[int]) -> Iterator[Finding]:
    """One case a unit."""
    for unit in units:
        name = list(CASES)[unit % len(CASES)]
        faults, refused = CASES[name](np.random.default_rng([SEED, unit]))
        notes = {"case": name, "refused": [text[:300] for text in refused]}
        yield Finding(
            {"cases": 1.0, "refusals": len(refused)}, [f"{name}: {f}" for f in faults], notes
        )


PART = Part("restore", "one case", len(CASES), 2, run)
