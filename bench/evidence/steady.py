"""A user who works all the time and checks each answer, beside whatever a campaign does."""

import threading
import time
from collections.abc import Callable

import numpy as np

from bench.evidence.processes import Parties, images_of, item_ids, right
from gpumpc.client.client import Client

N_ITEMS = 4


class Steady(threading.Thread):
    """Shares, extracts, searches and deletes in turns until it is told to stop.

    Args:
        connect: makes the user's connection; a new one after each error.
        index: the name of an index of this thread's own.

    Attributes:
        n_right: rounds in which every answer was right.
        faults: what went wrong: any error, and any wrong answer.
        seconds: how long each round took.
    """

    def __init__(
        self,
        parties: Parties,
        rng: np.random.Generator,
        connect: Callable[[], Client],
        index: str = "steady",
    ) -> None:
        super().__init__(daemon=True)
        self._parties, self._rng, self._connect = parties, rng, connect
        self._index = index
        self.stopping = threading.Event()
        self.n_right = 0
        self.faults: list[str] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        """What the thread does."""
        while not self.stopping.is_set():
            try:
                with self._connect() as client:
                    client.create_index(self._index, "l2")
                    while not self.stopping.is_set():
                        self._round(client)
            except Exception as error:  # any error at all is a finding here
                self.faults.append(f"{type(error).__name__}: {error}"[:300])
                self.stopping.wait(0.3)

    def _round(self, client: Client) -> None:
        start, items = time.monotonic(), item_ids(self._rng, N_ITEMS)
        client.extract(client.share(images_of(items), items))
        index = client.open_index(self._index)
        index.add(items)
        _, found = index.search(items, 1)
        kept, ran = client.features(items).reveal(), client.run(items).reveal()
        client.delete(items)
        if found != [[item] for item in items]:
            self.faults.append("a search named another item")
        elif not all(right(self._parties.compiled, items, got) for got in (kept, ran)):
            self.faults.append("a result was wrong")
        else:
            self.n_right += 1
        self.seconds.append(time.monotonic() - start)

    def finish(self, timeout_s: float = 20.0) -> list[str]:
        """Stop; what went wrong, shortened, and whether anything was done at all."""
        self.stopping.set()
        self.join(timeout_s)
        late = [f"a round did not end in {timeout_s:g} s"] if self.is_alive() else []
        none = [] if self.n_right else ["no round was right"]
        n = len(self.faults)
        many = [f"{n} rounds failed; the first: {self.faults[0]}"] if n else []
        return many + late + none
