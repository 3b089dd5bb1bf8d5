"""Stored features go back to their owner."""

from __future__ import annotations

from gpumpc import messages as m
from gpumpc.server.requests.request import ImmediateRequest, check_items
from gpumpc.server.share_store import digest
from gpumpc.shares import Additive

# Features in one sealed reply.
_FEATURES_PER_PART = 1024


class GetFeatures(ImmediateRequest[m.GetFeatures]):
    """See `messages.GetFeatures`. The client sees whether both servers read the same rows."""

    def check(self) -> None:
        """Raises CorruptStore, BadShape."""
        self.share_store.check_paired()
        check_items(self.record.items)

    def answer(self) -> None:
        """Read and send the rows in parts. Raises HandshakeMismatch, MissingFile."""
        store, owner, items = self.share_store, self.client.name, self.record.items
        row_kind = store.features(self.engine)
        bits, frac, divisor = row_kind.value.bits, row_kind.value.frac, row_kind.value.divisor
        of = -(-len(items) // _FEATURES_PER_PART)
        for part in range(of):
            names = items[part * _FEATURES_PER_PART : (part + 1) * _FEATURES_PER_PART]
            rows = digest(store.keys(row_kind.kind, names, owner))
            words = store.words(row_kind, self.engine, names, owner)
            self.send_part(part, of, Additive(words, bits, frac, divisor), rows)
