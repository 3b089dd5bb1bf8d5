"""Part `search`: rows of an index are searched while other rows of it come and go.

Each answer is checked: the nearest row of an item is itself, every score is the distance to the row
that is named, every row is one that may be there, and no row that stayed is left out.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from bench.evidence.part import SEED, Finding, Part
from bench.evidence.processes import Array, Parties, images_of, item_ids, running
from gpumpc.client.index import Index
from gpumpc.errors import GpumpcError

UNIT_S = 20.0
K = 5
# Rows closer than this in features could change places by quantisation.
APART = 0.08
# Quantisation and truncation move a squared distance by less: 4 * 2^-7 * |feature| * 3 entries.
SLACK = 0.06
# So long a client waits before it asks again, and so many searches may be refused.
REFUSED_PAUSE_S = 0.2
REFUSED_SHARE = 0.01
INDEX = "archive"


def apart(parties: Parties, rng: np.random.Generator, n: int) -> list[str]:
    """n items whose features are pairwise apart."""
    items: list[str] = []
    features: list[Array] = []
    while len(items) < n:
        [item] = item_ids(rng, 1)
        feature = parties.compiled.evaluate(images_of([item]), fixed_point=True)[0]
        if all(np.linalg.norm(feature - other) > APART for other in features):
            items.append(item)
            features.append(feature)
    return items


def wrong_answers(
    asked: Sequence[str],
    answer: tuple[Array, list[list[str]]],
    features: dict[str, Array],
    stay: set[str],
) -> list[str]:
    """What is wrong with the answer to a search for these items by squared distance, K rows each.

    Args:
        features: of every row that may be there.
        stay: the rows that are there all the time.
    """
    faults = []
    for item, row, names in zip(asked, *answer, strict=True):
        if names[0] != item:
            faults.append(f"the nearest of {item[:8]} was {names[0][:8]}, at {row[0]:.4f}")
            continue
        if len({*names}) != K or not {*names} <= features.keys():
            faults.append(f"the rows of {item[:8]} are not {K} rows that may be there")
            continue
        exact = {name: float(((features[item] - f) ** 2).sum()) for name, f in features.items()}
        if max(abs(exact[name] - score) for name, score in zip(names, row, strict=True)) > SLACK:
            faults.append(f"a score of {item[:8]} is not the distance to the row it names")
        if any(exact[name] < row[-1] - SLACK for name in stay - {*names}):
            faults.append(f"a row near {item[:8]} was left out")
    return faults


class _Writer(threading.Thread):
    """Removes and adds rows, some at a time, until it is told to stop."""

    def __init__(self, parties: Parties, items: list[str], rng: np.random.Generator) -> None:
        super().__init__(daemon=True)
        self._parties, self._items, self._rng = parties, items, rng
        self.stopping = threading.Event()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self) -> None:
        """What the thread does."""
        with self._parties.client() as client:
            index = client.open_index(INDEX)
            while not self.stopping.is_set():
                some = [str(item) for item in self._rng.choice(self._items, 3, replace=False)]
                for name, change in (("removed", index.remove), ("added", index.add)):
                    try:
                        change(some)
                        self.counts[name] += 1
                    except GpumpcError as error:
                        self.counts["changes refused"] += 1
                        self.faults.append(f"a change was refused: {error}")
                        self.stopping.wait(REFUSED_PAUSE_S)


def search_beside(index: Index, stay: list[str], features: dict[str, Array], s: float) -> Finding:
    """Search items that stay for `s` seconds."""
    counts: Counter[str] = Counter(searches=0, wrong=0, refused=0)
    faults, refusals = list[str](), Counter[str]()
    deadline = time.monotonic() + s
    while time.monotonic() < deadline:
        at = int(counts["searches"]) % (len(stay) - 1)
        asked = stay[at : at + 2]
        counts["searches"] += 1
        try:
            found = wrong_answers(asked, index.search(asked, K), features, {*stay})
        except GpumpcError as error:
            counts["refused"] += 1
            refusals[f"{type(error).__name__}: {error}"[:160]] += 1
            time.sleep(REFUSED_PAUSE_S)
            continue
        except (IndexError, ValueError) as error:  # a position that no row has
            found = [f"{type(error).__name__} in a search: {error}"]
        counts["wrong"] += bool(found)
        faults += found
    if counts["refused"] > REFUSED_SHARE * counts["searches"]:
        faults.append(f"{counts['refused']} of {counts['searches']} searches were refused")
    return Finding(dict(counts), faults, {"refusals": dict(refusals.most_common(5))})


def one_run(parties: Parties, unit: int, seconds: float = UNIT_S) -> Finding:
    """One searching client and one changing client, for so many seconds."""
    rng = np.random.default_rng([SEED, unit])
    items = apart(parties, rng, 14)
    stay, change = items[:8], items[8:]
    with parties.ready() as client:
        client.extract(client.share(images_of(items), items))
        revealed = client.features(items).reveal()
        features = dict(zip(items, revealed, strict=True))
        index = client.create_index(INDEX, "l2")
        index.add(items)
        writer = _Writer(parties, change, rng)
        writer.start()
        finding = search_beside(index, stay, features, seconds)
        writer.stopping.set()
        writer.join(30)
        if writer.is_alive():
            writer.faults.append("a change of the index did not end in 30 s")
        if not writer.counts["added"]:
            writer.faults.append("the index did not change, so the searches show nothing")
    with parties.ready() as client:
        client.delete(items)
    counts = {**finding.counts, **writer.counts}
    return Finding(counts, [*finding.faults, *writer.faults][:20], finding.notes)


def run(units: Sequence[int]) -> Iterator[Finding]:
    """A fresh set of parties a unit."""
    for unit in units:
        with running() as parties:
            yield one_run(parties, unit)


PART = Part("search", f"{UNIT_S:g} s of searches beside changes of the index", 15, 1, run)
