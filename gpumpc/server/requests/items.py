"""Items are shared, settled, listed and deleted, and their features sent."""

from gpumpc import messages as m
from gpumpc.server import store_agreement as agreement
from gpumpc.server.requests.request import ImmediateRequest, JointRequest, check_items, named
from gpumpc.server.share_store import INPUTS, digest
from gpumpc.shares import Additive
from gpumpc.wire.multiplexer import SubChannel

# Features in one sealed reply.
_FEATURES_PER_PART = 1024


class Share(ImmediateRequest[m.Share]):
    def answer(self) -> None:
        """Store the shares as pending. Raises BadFrame, ConfigError, InputError."""
        self.share_store.add_inputs(self.engine, self.record, self.client.name, self.bulk)
        self.client.reply(m.Done())


class Settle(JointRequest[m.Settle]):
    def _description(self) -> str:
        return f"settle {named(self.record.items)}"

    def check(self) -> None:
        """Raises CorruptStore, BadShape, HandshakeMismatch."""
        self.share_store.check_paired()
        check_items(self.record.items)
        self._kind = self.share_store.inputs(self.engine).kind

    def run(self, channel: SubChannel, first_batch: int) -> None:
        missing = self.share_store.settle(channel, self._kind, self.record.items, self.client.name)
        self.reply_last(m.Settled(self.job_id, missing))


class ListItems(ImmediateRequest[m.ListItems]):
    def answer(self) -> None:
        store, owner, state = self.share_store, self.client.name, "ready"
        kinds = [store.inputs(self.engine).kind, store.features(self.engine).kind]
        if self.record.what == "lost":
            state = "unpaired"
        else:
            kinds = [kinds[self.record.what == "features"]]
        rows = (store.store.rows(kind, state, owner) for kind in kinds)
        items = sorted({row.key.item for found in rows for row in found})
        self.client.reply(m.ItemList(), m.pack_items(items))


class Delete(JointRequest[m.Delete]):
    """Deletes at both servers or at neither, and never under a request that reads the rows."""

    def _description(self) -> str:
        return f"delete {self.record.what} {named(self.record.items)}"

    def check(self) -> None:
        """Raises CorruptStore, BadShape, HandshakeMismatch."""
        self.share_store.check_paired()
        check_items(self.record.items)
        self.resources.engine_of(self.record.plan)

    def run(self, channel: SubChannel, first_batch: int) -> None:
        prefix = INPUTS if self.record.what == "inputs" else ""
        change = agreement.DeleteItems(self.client.name, self.record.items, prefix)
        agreement.change_both(self.share_store.store, channel, self.job_id, change)
        self.reply_deleted(self.record)


class GetFeatures(ImmediateRequest[m.GetFeatures]):
    """Each part names its rows: the client sees whether both servers read the same ones."""

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
            keys, words = store.read(row_kind, self.engine, names, owner)
            self.send_part(part, of, Additive(words, bits, frac, divisor), digest(keys))
