"""Items are shared, settled, listed and deleted."""

from __future__ import annotations

from gpumpc import messages as m
from gpumpc.server.requests.request import ImmediateRequest, JointRequest, check_items, named
from gpumpc.server.share_store import INPUTS
from gpumpc.wire.multiplexer import SubChannel


class Share(ImmediateRequest[m.Share]):
    """See `messages.Share`."""

    def answer(self) -> None:
        """Store the shares as pending. Raises BadFrame, ConfigError, InputError."""
        self.share_store.add_inputs(self.engine, self.record, self.client.name, self.bulk)
        self.client.reply(m.Done())


class Settle(JointRequest[m.Settle]):
    """See `messages.Settle`."""

    def _description(self) -> str:
        return f"settle {named(self.record.items)}"

    def check(self) -> None:
        """Raises CorruptStore, BadShape, HandshakeMismatch."""
        self.share_store.check_paired()
        check_items(self.record.items)
        self._kind = self.share_store.inputs(self.engine).kind

    def run(self, channel: SubChannel, first_batch: int) -> None:
        """Compare the rows of both servers, and confirm or delete them."""
        missing = self.share_store.settle(channel, self._kind, self.record.items, self.client.name)
        self.client.reply(m.Settled(self.job_id, missing))


class ListItems(ImmediateRequest[m.ListItems]):
    """See `messages.ListItems`."""

    def answer(self) -> None:
        """The client's items that may be used."""
        store = self.share_store
        find = store.inputs if self.record.what == "inputs" else store.features
        items = store.ready(find(self.engine).kind, self.client.name)
        self.client.reply(m.ItemList(), m.pack_items(items))


class Delete(ImmediateRequest[m.Delete]):
    """See `messages.Delete`."""

    def answer(self) -> None:
        """Delete the rows of the client."""
        prefix = INPUTS if self.record.what == "inputs" else ""
        self.share_store.store.delete(self.record.items, self.client.name, prefix)
        self.client.reply(m.Done())
