"""An index at the two servers, as its owner sees it: the words are faiss's, ids are item ids."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc import messages as m
from gpumpc.client.connection import ANSWER_S, ITEMS_PER_REQUEST, Progress
from gpumpc.errors import BadShape, BadValue, CorruptPlan, MissingFile, RevealError
from gpumpc.offline.secret import file_error
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.programs import Metric, label_bits
from gpumpc.ring.fixed_point import signed

if TYPE_CHECKING:  # a client makes indexes, so this would be a circle at run time
    from gpumpc.client.client import Client

Array = npt.NDArray[np.float64]


class SavedIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A handle on disk."""

    name: str
    metric: Metric
    plan: str


class Index:
    """An index at the two servers, in the words of faiss; ids are item ids.

    Made by `Client.index`.
    """

    def __init__(
        self, client: Client, name: str, metric: Metric, classes: tuple[str, ...] = ()
    ) -> None:
        self._client, self.name, self.metric, self.classes = client, name, metric, classes
        self._geometry = geometry_of(client.program, metric)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._geometry.dim

    @property
    def score_name(self) -> str:
        """What the scores of a search are."""
        return {"l2": "squared distance", "ip": "inner product", "cosine": "cosine"}[self.metric]

    @property
    def ids(self) -> list[str]:
        """Item ids by position. Raises RevealError if the servers hold different rows."""
        first, second = self._client.listed(m.IndexInfo(self._client.plan_id, self.name))
        if first != second:
            raise RevealError(
                "the servers hold different rows of this index",
                "one of them is behind",
                "search again",
            )
        return first

    @property
    def ntotal(self) -> int:
        """How many rows there are."""
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write down what this index is, as JSON: its name, metric and plan. The rows stay at the
        servers, as shares.

        Raises ConfigError for a full disk.
        """
        record = SavedIndex(self.name, self.metric, self._client.plan_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        except OSError as error:
            raise file_error(f"the index cannot be saved in {path}", error) from error

    @classmethod
    def load(cls, client: Client, path: Path) -> Index:
        """The index that `save` wrote down.

        Raises MissingFile, CorruptPlan, and what `Client.open_index` raises.
        """
        try:
            record = msgspec.json.decode(path.read_bytes(), type=SavedIndex)
        except FileNotFoundError:
            raise MissingFile(
                f"there is no file {path}", hint="save an index first, or open it by its name"
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise CorruptPlan(
                f"{path} is no saved index",
                str(error),
                "open the index by its name, and save it again",
            ) from error
        if record.plan != client.plan_id:
            raise CorruptPlan(
                f"{path} is of an index over another plan",
                "features of two networks cannot be compared",
                "use its plan",
            )
        return client.open_index(record.name)

    def add(
        self,
        items: Sequence[str],
        progress: Progress | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Take kept results in; what is there already stays.

        Args:
            labels: for an index with classes, the class of each item; the servers get shares of it.

        Raises BadShape, BadValue for labels that do not fit, RemoteError naming an item without a
        result.
        """
        client = self._client
        words = self._numbered(items, labels)
        for start in range(0, len(items), ITEMS_PER_REQUEST):
            names, chosen = (
                list(items[start : start + ITEMS_PER_REQUEST]),
                words[start : start + ITEMS_PER_REQUEST],
            )
            pad = np.frombuffer(secrets.token_bytes(8 * len(chosen)), dtype="<u8")
            bulks = (pad.tobytes(), (chosen - pad).astype("<u8").tobytes())  # shares modulo 2^64
            request = m.IndexAdd(client.plan_id, secrets.token_hex(16), self.name, names)
            client.until_done(client.ask_together(request, bulks), progress)

    def _numbered(
        self, items: Sequence[str], labels: Sequence[str] | None
    ) -> npt.NDArray[np.uint64]:
        """Labels as numbers; none for an index without classes."""
        if (labels is not None) != bool(self.classes) or (
            labels is not None and len(labels) != len(items)
        ):
            raise BadShape(
                f"{len(labels or ())} labels came for {len(items)} items",
                f"index '{self.name}' has {len(self.classes)} classes",
                "give each item a label if the index has classes, and none if it has not",
            )
        unknown = {*(labels or ())} - {*self.classes}
        if unknown:
            raise BadValue(
                f"'{min(unknown)}' is no class of index '{self.name}'",
                hint=f"use {', '.join(self.classes)}",
            )
        return np.array([self.classes.index(label) for label in labels or ()], dtype=np.uint64)

    def classify(self, items: Sequence[str], k: int = 5) -> list[str]:
        """The class that most of the k nearest rows have, for each kept item; of equals, the one
        whose first is nearest.

        Neither server learns a label, and the user learns nothing but the answer. Raises
        RemoteError for an index without classes.
        """
        numbers = self._answers(items, k, vote=True, shape=(), bits=label_bits(len(self.classes)))
        return [self.classes[int(number)] for number in numbers]

    def remove(self, items: Sequence[str]) -> None:
        """Take items out."""
        client = self._client
        client.both_done(
            client.ask((m.IndexRemove(client.plan_id, self.name, list(items)),) * 2), ANSWER_S
        )

    def search(self, items: Sequence[str], k: int) -> tuple[Array, list[list[str]]]:
        """The k best rows for each kept item: scores (n, k) and item ids, best first.

        Scores are squared distances, ascending, or inner products, descending, of the quantised
        features; equal scores come in order of position. The servers learn neither, nor which rows
        were found.
        """
        positions = self.ids
        id_bits = self._geometry.id_bits(len(positions))
        bits = self._geometry.score_bits + id_bits
        keys = signed(self._answers(items, k, vote=False, shape=(k,), bits=bits), bits)
        ids = keys & ((1 << id_bits) - 1)
        scores = ((keys - ids) >> id_bits) / self._geometry.score_scale
        return scores if self.metric == "l2" else -scores, [
            [positions[i] for i in row] for row in ids
        ]

    def _answers(
        self, items: Sequence[str], k: int, *, vote: bool, shape: tuple[int, ...], bits: int
    ) -> npt.NDArray[np.uint64]:
        """Both servers' shares of the answers, added: (n, *shape)."""
        client, found = self._client, []
        for start in range(0, max(1, len(items)), ITEMS_PER_REQUEST):
            job, names = secrets.token_hex(16), list(items[start : start + ITEMS_PER_REQUEST])
            request = m.IndexSearch(client.plan_id, job, self.name, names, k, vote)
            parts = client.collect(job, client.ask_together(request), None)
            found.append(client.opened(client.plan_id, job, parts, shape, bits))
        return np.concatenate(found)
