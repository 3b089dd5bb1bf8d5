"""An index at the two servers, as its owner sees it: the words are faiss's, ids are item ids."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.errors import CorruptPlan, MissingFile, RevealError
from gpumpc.offline.secret import file_error
from gpumpc.retrieval.programs import Metric
from gpumpc.ring.fixed_point import signed
from gpumpc.roles import messages as m
from gpumpc.roles.connection import ANSWER_S, Progress
from gpumpc.roles.side import geometry_of

if TYPE_CHECKING:  # a client makes indexes, so this would be a circle at run time
    from gpumpc.roles.client import Client

Array = npt.NDArray[np.float64]


class SavedIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A handle on disk."""

    name: str
    metric: Metric
    plan: str


class RemoteIndex:
    """An index at the two servers, in the words of faiss; ids are item ids. Made by `Client.index`."""

    def __init__(self, client: Client, name: str, metric: Metric) -> None:
        self._client, self.name, self.metric = client, name, metric
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
        first, second = self._client.listed(m.AskIndex(self._client.plan_id, self.name))
        if first != second:
            raise RevealError("the servers hold different rows of this index", "one of them is behind", "search again")
        return first

    @property
    def ntotal(self) -> int:
        """How many rows there are."""
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write down what this index is, as JSON: its name, metric and plan. The rows stay at the servers, as shares.

        Raises ConfigError for a full disk.
        """
        record = SavedIndex(self.name, self.metric, self._client.plan_id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
        except OSError as error:
            raise file_error(f"the index cannot be saved in {path}", error) from error

    @classmethod
    def load(cls, client: Client, path: Path) -> RemoteIndex:
        """The index that `save` wrote down. Raises MissingFile, CorruptPlan, and what `Client.open_index` raises."""
        try:
            record = msgspec.json.decode(path.read_bytes(), type=SavedIndex)
        except FileNotFoundError:
            raise MissingFile(f"there is no file {path}", "", "save an index first, or open it by its name") from None
        except (OSError, msgspec.DecodeError) as error:
            raise CorruptPlan(
                f"{path} is no saved index", str(error), "open the index by its name, and save it again"
            ) from error
        if record.plan != client.plan_id:
            raise CorruptPlan(
                f"{path} is of an index over another plan", "features of two networks cannot be compared", "use its plan"
            )
        return client.open_index(record.name)

    def add(self, items: Sequence[str], progress: Progress | None = None) -> None:
        """Take kept results in; what is there already stays. Raises RemoteError naming an item without a result."""
        client = self._client
        request = m.AddRows(client.plan_id, secrets.token_hex(16), self.name, list(items))
        client.until_done(client.ask_together(request), progress)

    def remove_ids(self, items: Sequence[str]) -> None:
        """Take items out."""
        client = self._client
        client.both_done(client.ask((m.RemoveRows(client.plan_id, self.name, list(items)),) * 2), ANSWER_S)

    def search(self, items: Sequence[str], k: int) -> tuple[Array, list[list[str]]]:
        """The k best rows for each kept item: scores (n, k) and item ids, best first.

        Scores are squared distances, ascending, or inner products, descending, of the quantised features; equal scores come
        in order of position. The servers learn neither, nor which rows were found.
        """
        client, positions = self._client, self.ids
        job = secrets.token_hex(16)
        parts = client.collect(job, client.ask_together(m.Search(client.plan_id, job, self.name, list(items), k)), None)
        id_bits = self._geometry.id_bits(len(positions))
        bits = self._geometry.score_bits + id_bits
        keys = signed(client.opened(client.plan_id, job, parts, (k,), bits), bits)
        ids = keys & ((1 << id_bits) - 1)
        scores = ((keys - ids) >> id_bits) / self._geometry.score_scale
        return scores if self.metric == "l2" else -scores, [[positions[i] for i in row] for row in ids]
