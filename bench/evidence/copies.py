"""Worlds that stand still: parties with known items, stopped, whose folder is copied to try out
what happens to damaged, old or unwritable states.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.evidence.processes import Array, Parties, images_of, item_ids, right, running, until
from gpumpc.client.client import Client
from gpumpc.deploy.config import LocalSetup
from gpumpc.errors import GpumpcError
from gpumpc.local.compile import Plan

INDEX = "archive"
N_ITEMS = 8
READY_S = 12.0


@dataclass
class Still:
    """A stopped world: its folder, what it holds, and what was revealed of it."""

    folder: Path
    plan: Path
    compiled: Plan
    items: list[str]
    features: Array

    @contextlib.contextmanager
    def copied(self) -> Iterator[Parties]:
        """Parties over a copy of the folder, not started; all processes are ended afterwards."""
        with tempfile.TemporaryDirectory(prefix="gpumpc-evidence-") as folder:
            local = Path(folder) / "local"
            shutil.copytree(self.folder, local)
            parties = Parties(LocalSetup.of(local))
            parties.compiled, parties.plan = self.compiled, self.plan
            try:
                yield parties
            finally:
                parties.stop()


@contextlib.contextmanager
def still(rng: np.random.Generator, killed: bool) -> Iterator[Still]:
    """A world with items in every stage, stopped in order or by SIGKILL."""
    with running(pool="2KiB") as parties:
        items = item_ids(rng, N_ITEMS)
        with parties.ready() as client:
            client.extract(client.share(images_of(items), items))
            features = client.features(items).reveal()
            client.create_index(INDEX, "l2").add(items)
        if killed:
            parties.kill(*parties.processes)
        else:
            parties.end(*parties.processes)
        yield Still(parties.setup.folder, parties.plan, parties.compiled, items, features)


def serving(parties: Parties, timeout_s: float = READY_S) -> Client | str:
    """A client of parties that were started, or why there is no service."""
    last = ["nothing was heard"]
    clients: list[Client] = []

    def is_over() -> bool:
        try:
            parties.check()
        except GpumpcError as error:
            last[0] = str(error)
            return True
        client = None
        try:
            client = parties.client(0.0)
            if client.is_ready:
                clients.append(client)
                return True
        except GpumpcError as error:
            last[0] = str(error)
        if client:
            client.close()
        return False

    until(is_over, timeout_s)
    return clients[0] if clients else last[0]


def questions(client: Client, world: Still, fresh: Sequence[str]) -> dict[str, Callable[[], bool]]:
    """What can be asked of a world, each with whether the answer is right."""

    def extract() -> bool:
        client.extract(client.share(images_of(fresh), list(fresh)))
        return right(world.compiled, fresh, client.features(fresh).reveal())

    def kept() -> bool:
        return np.array_equal(client.features(world.items).reveal(), world.features)

    def run() -> bool:
        return right(world.compiled, world.items, client.run(world.items).reveal())

    def find() -> bool:
        _, found = client.open_index(INDEX).search(world.items, 1)
        return found == [[item] for item in world.items]

    return {"kept features": kept, "run": run, "search": find, "new items": extract}


def ask(client: Client, world: Still, fresh: Sequence[str]) -> dict[str, str]:
    """The answer to each question: "right", "wrong", or the error."""
    answers = {}
    for name, question in questions(client, world, fresh).items():
        try:
            answers[name] = "right" if question() else "wrong"
        except GpumpcError as error:
            answers[name] = f"{type(error).__name__}: {error}"
        except Exception as error:  # no error of ours: the user is not told what to do
            answers[name] = f"untold {type(error).__name__}: {error}"
    return answers
