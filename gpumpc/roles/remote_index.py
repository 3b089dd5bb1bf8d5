"""An index at the two servers, as its owner sees it: the words are faiss's, ids are item ids."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpumpc.errors import RevealError
from gpumpc.retrieval.programs import Metric
from gpumpc.roles import messages as m
from gpumpc.roles.side import geometry_of

if TYPE_CHECKING:  # a client makes indexes, so this would be a circle at run time
    from gpumpc.roles.client import Client

ANSWER_S = 5.0
Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]


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
    def ids(self) -> list[str]:
        """Item ids by position. Raises RevealError if the servers hold different rows."""
        first, second = self._client._listed(m.AskIndex(self._client._plan, self.name))
        if first != second:
            raise RevealError("the servers hold different rows of this index", "one of them is behind", "search again")
        return first

    @property
    def ntotal(self) -> int:
        """How many rows there are."""
        return len(self.ids)

    def add(self, items: Sequence[str], progress: Progress | None = None) -> None:
        """Take kept results in; what is there already stays. Raises RemoteError naming an item without a result."""
        client = self._client
        request = m.AddRows(client._plan, secrets.token_hex(16), self.name, list(items))
        client._until_stored(client._ask_together(request), progress, last=m.Done)

    def remove_ids(self, items: Sequence[str]) -> None:
        """Take items out."""
        client = self._client
        client._both_done(client._ask((m.RemoveRows(client._plan, self.name, list(items)),) * 2), ANSWER_S)

    def search(self, items: Sequence[str], k: int) -> tuple[Array, list[list[str]]]:
        """The k best rows for each kept item: scores (n, k) and item ids, best first.

        Scores are squared distances, ascending, or inner products, descending, of the quantised features; equal scores come
        in order of position. The servers learn neither, nor which rows were found.
        """
        client, positions = self._client, self.ids
        job = secrets.token_hex(16)
        sequence = client._ask_together(m.Search(client._plan, job, self.name, list(items), k))
        parts = client._collect(job, sequence, None)
        id_bits = self._geometry.id_bits(len(positions))
        bits = self._geometry.score_bits + id_bits
        keys = np.concatenate([client._open_keys(job, parts, part, (k,), bits) for part in range(len(parts[0]))])
        ids = keys & ((1 << id_bits) - 1)
        scores = ((keys - ids) >> id_bits) / self._geometry.score_scale
        return scores if self.metric == "l2" else -scores, [[positions[i] for i in row] for row in ids]
