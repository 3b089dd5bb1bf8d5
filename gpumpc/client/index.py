"""An index at the two servers, as its owner sees it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc import arguments
from gpumpc import messages as m
from gpumpc.client.connection import ITEMS_PER_REQUEST, Parts, Progress, RowLists
from gpumpc.client.deletions import Deletion
from gpumpc.client.served_plan import ServedPlan
from gpumpc.errors import BadFrame, BadShape, BadValue, CorruptPlan, MissingFile, RevealError
from gpumpc.offline.secret import file_error
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.programs import Metric, label_bits
from gpumpc.ring.fixed_point import signed

Array = npt.NDArray[np.float64]


class SavedIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A handle on disk."""

    name: str
    metric: Metric
    plan: str


class Index:
    """An index over the features at the two servers, in the words of faiss; ids are item ids.

        index = client.create_index("archive", metric="cosine")  # or client.open_index("archive")
        index.add(items)  # items that were extracted
        scores, ids = index.search(items[:3], k=5)  # (3, 5) and 3 lists of 5 ids, best first

    The servers learn neither scores nor which rows were found.

    Attributes:
        name, metric: as it was created.
        classes: names of the rows' secret labels; empty for an index without labels.
    """

    def __init__(
        self, plan: ServedPlan, name: str, metric: Metric, classes: tuple[str, ...] = ()
    ) -> None:
        self._plan, self._connection = plan, plan.connection
        self.name, self.metric, self.classes = name, metric, classes
        self._geometry = geometry_of(plan.program, metric)
        self._known_rows: tuple[str, list[str]] = ("", [])  # their digest, and ids by position

    @classmethod
    def open(cls, plan: ServedPlan, name: str) -> Index:
        """An index that is there. Raises RemoteError if it is not."""
        request = m.IndexInfo(plan.plan_id, name)
        (first, _), (second, _) = plan.connection.both(request, m.ItemList)
        if first != second:
            hint = "restart both servers, and create it again"
            raise BadFrame("the servers describe an index differently", hint=hint)
        return cls(plan, name, cast(Metric, first.metric), first.classes)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._geometry.dim

    @property
    def score_name(self) -> str:
        """The name of the scores of a search, for people."""
        return {"l2": "squared distance", "ip": "inner product", "cosine": "cosine"}[self.metric]

    @property
    def ids(self) -> list[str]:
        """Item ids by position. Raises RevealError if the servers hold different rows."""
        first, second = self._connection.listed(m.IndexInfo(self._plan.plan_id, self.name))
        if first != second:
            what = "the servers hold different rows of this index"
            raise RevealError(what, "one of them is behind", "search again")
        return first

    @property
    def ntotal(self) -> int:
        """How many rows there are."""
        return len(self.ids)

    def save(self, path: str | Path) -> None:
        """Write name, metric and plan down as JSON, for `Client.load_index`; the rows stay shared.

        Raises ConfigError for a full disk.
        """
        path, record = (
            arguments.path("path", path),
            SavedIndex(self.name, self.metric, self._plan.plan_id),
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        except OSError as error:
            raise file_error(f"the index cannot be saved in {path}", error) from error

    @classmethod
    def load(cls, plan: ServedPlan, path: Path) -> Index:
        """The index that `save` wrote down. Raises MissingFile, CorruptPlan, and like `open`."""
        try:
            record = msgspec.json.decode(path.read_bytes(), type=SavedIndex)
        except FileNotFoundError:
            hint = "save an index first, or open it by its name"
            what, why = f"there is no file {path}", "no index was saved there"
            raise MissingFile(what, why, hint) from None
        except (OSError, msgspec.DecodeError) as error:
            hint = "open the index by its name, and save it again"
            raise CorruptPlan(f"{path} is not a saved index", str(error), hint) from error
        if record.plan != plan.plan_id:
            why = "features of two networks cannot be compared"
            raise CorruptPlan(f"{path} is of an index over another plan", why, "use its plan")
        return cls.open(plan, record.name)

    def add(
        self,
        items: Sequence[str],
        progress: Progress | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Add extracted items; those that are in the index already stay.

        Args:
            labels: for an index with classes, the class of each item; the servers get shares of it.

        Raises BadShape, BadValue for labels that do not fit, RemoteError naming an item without
        features.
        """
        all_names = m.item_ids(items)
        arguments.called_back("progress", progress)
        connection, words = self._connection, self._numbered(all_names, labels)
        for start in range(0, len(all_names), ITEMS_PER_REQUEST):
            portion = slice(start, start + ITEMS_PER_REQUEST)
            names, chosen = all_names[portion], words[portion]
            pad = np.frombuffer(secrets.token_bytes(8 * len(chosen)), dtype="<u8")
            bulks = (pad.tobytes(), (chosen - pad).astype("<u8").tobytes())  # shares modulo 2^64
            request = m.IndexAdd(self._plan.plan_id, secrets.token_hex(16), self.name, names)
            connection.until_done(connection.ask_together(request, bulks), progress)

    def _numbered(
        self, items: Sequence[str], labels: Sequence[str] | None
    ) -> npt.NDArray[np.uint64]:
        """Labels as numbers; none for an index without classes."""
        expected = len(items) if self.classes else None
        given = None if labels is None else arguments.texts("labels", labels)
        if (None if given is None else len(given)) != expected:
            why = f"index '{self.name}' has {len(self.classes)} classes"
            hint = "give each item a label if the index has classes, and none if it has not"
            raise BadShape(f"{len(given or ())} labels came for {len(items)} items", why, hint)
        unknown = {*(given or ())} - {*self.classes}
        if unknown:
            what = f"'{min(unknown)}' is not a class of index '{self.name}'"
            why = "it was created with others"
            raise BadValue(what, why, f"use {', '.join(self.classes)}")
        return np.array([self.classes.index(label) for label in given or ()], dtype=np.uint64)

    def classify(self, items: Sequence[str], k: int = 5) -> list[str]:
        """For each extracted item the class that most of its k nearest rows have; where two classes
        have equally many, the one with the nearest row.

        Neither server learns a label, and the user learns nothing but the answer. Raises
        BadValue for an index without classes.
        """
        if not self.classes:
            why, hint = "it was created without any", "use `search`, or an index with classes"
            raise BadValue(f"index '{self.name}' has no classes to choose from", why, hint)
        bits, found = label_bits(len(self.classes)), list[str]()
        for request in self._requests(items, k, vote=True):
            sequence = self._connection.ask_together(request)
            parts = self._connection.collect(request.job, sequence)
            numbers = self._opened(request, parts, (), bits)
            found += [self.classes[int(number)] for number in numbers]
        return found

    def remove(self, items: Sequence[str]) -> Deletion:
        """Remove items from the index; their features stay. Returns both servers' receipts."""
        job = secrets.token_hex(16)
        request = m.IndexRemove(self._plan.plan_id, job, self.name, m.item_ids(items, least=1))
        return self._connection.deleted_together(request)

    def search(self, items: Sequence[str], k: int) -> tuple[Array, list[list[str]]]:
        """The k best rows for each extracted item: scores (n, k) and item ids, best first.

        Scores are squared distances, ascending, or inner products or cosines, descending, of the
        quantised features; equal scores come in order of position. A search beside a change of the
        index answers for the rows before it or after it. Raises RemoteError.
        """
        scores, found = [], list[list[str]]()
        for request in self._requests(items, k, vote=False):
            lists: RowLists = {}
            sequence = self._connection.ask_together(request)
            parts = self._connection.collect(request.job, sequence, row_lists=lists)
            positions = self._searched_rows(lists)
            id_bits = self._geometry.id_bits(len(positions))
            bits = self._geometry.score_bits + id_bits
            keys = signed(self._opened(request, parts, (k,), bits), bits)
            ids = keys & ((1 << id_bits) - 1)
            scores.append(((keys - ids) >> id_bits) / self._geometry.score_scale)
            found += [[positions[i] for i in row] for row in ids]
        total = np.concatenate(scores)
        return total if self.metric == "l2" else -total, found

    def _requests(self, items: Sequence[str], k: int, *, vote: bool) -> Iterator[m.IndexSearch]:
        chosen, k = m.item_ids(items, least=1), arguments.whole("k", k)
        for start in range(0, len(chosen), ITEMS_PER_REQUEST):
            job, names = secrets.token_hex(16), chosen[start : start + ITEMS_PER_REQUEST]
            known = "" if vote else self._known_rows[0]
            yield m.IndexSearch(self._plan.plan_id, job, self.name, names, k, vote, known)

    def _opened(
        self, request: m.IndexSearch, parts: Parts, shape: tuple[int, ...], bits: int
    ) -> npt.NDArray[np.uint64]:
        """Both servers' shares of a request's answers, added: (n, *shape)."""
        return self._connection.opened(self._plan.plan_id, request.job, parts, shape, bits)

    def _searched_rows(self, lists: RowLists) -> list[str]:
        """Item ids by position, of the rows in which both servers searched. Raises RevealError."""
        records = [lists[party][0] for party in (0, 1) if party in lists]
        digests = {(record.digest, record.n_rows) for record in records}
        if len(records) == 2 and len(digests) == 1:
            [(digest, n_rows)] = digests
            for _, bulk in lists.values():
                if bulk and digest != self._known_rows[0]:
                    items = m.unpack_items(bulk)
                    self._known_rows = (m.items_digest(items), items)
            if self._known_rows[0] == digest and len(self._known_rows[1]) == n_rows:
                return self._known_rows[1]
        why = "the servers do not name the same rows, or their list is not the one they name"
        raise RevealError("the rows that were found cannot be told", why, "search again")
