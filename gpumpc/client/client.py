"""Owner and user: share inputs between the two servers and reveal the sealed results."""

import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from gpumpc import arguments
from gpumpc import messages as m
from gpumpc.client.canaries import Canaries, Mixture, checked, mixed
from gpumpc.client.connection import CONNECT_S, ITEMS_PER_REQUEST, Progress
from gpumpc.client.deletions import Deletion
from gpumpc.client.index import Index
from gpumpc.client.served_plan import AnyPlan, SealedResult, ServedPlan, record_of, shifted
from gpumpc.client.uploads import Uploads
from gpumpc.deploy.config import ClientConfig, load_client
from gpumpc.errors import AccessDenied, BadShape, ConfigError, GpumpcError, HandshakeMismatch
from gpumpc.program.plan import plan_hash
from gpumpc.retrieval.programs import Metric

Array = npt.NDArray[np.float64]
# By policy: "label", a name an item; "top5", five of them, best first; "logits", scores (n, C).
Classes = list[str] | list[list[str]] | Array

# Batches that one request extracts before others get their turn.
BATCHES_PER_REQUEST = 16


class Client(Uploads):
    """An owner's or user's connection to both servers, for one plan. Made by `gpumpc.connect`.

        with gpumpc.connect("client.toml", "plan") as client:
            items = client.share(images)  # (B, H, W, C), within the plan's input range
            client.extract(items)  # features stay at the servers, as shares
            features = client.features(items).reveal()  # (B, d)
            labels = client.classify(items, head="head")
            client.delete(items)

    An item is an image by its id, 32 random hex digits. Every method that computes raises
    RemoteError with a server's reason, PeerLost or PeerTimeout; the items then stay as they are,
    and the same call can be made again. `progress(done, of)`, where it is taken, counts batches.

    Attributes:
        plan: what plan.json says.
        batch_size: images a batch, as the servers say.
    """

    # inputs at rest

    def list_inputs(self) -> list[str]:
        """Items of this user with inputs at both servers."""
        first, second = self.listed(m.ListItems(self.plan_id, "inputs"))
        return sorted({*first} & {*second})

    def list_lost(self) -> list[str]:
        """Items of this user that one server has lost, as its files were put back from an older
        copy: share or extract them again under the same ids, or delete them.
        """
        first, second = self.listed(m.ListItems(self.plan_id, "lost"))
        return sorted({*first} | {*second})

    def delete(self, items: Sequence[str], inputs_only: bool = False) -> list[Deletion]:
        """Delete items at both servers: inputs, features and index rows; or inputs alone.

        Both servers delete an item or neither does, in its turn among other requests. An item that
        is not there is passed over, so a call that was interrupted can be made again. Returns both
        servers' receipts, verified, for each 4096 items. Raises also AccessDenied, WrongStatement.
        """
        what: Literal["inputs", "all"] = "inputs" if inputs_only else "all"
        names = m.item_ids(items)
        starts = range(0, len(names), ITEMS_PER_REQUEST)
        portions = [names[start : start + ITEMS_PER_REQUEST] for start in starts]
        ask, job = self.deleted_together, secrets.token_hex
        return [ask(m.Delete(self.plan_id, job(16), portion, what)) for portion in portions]

    # evaluation

    def run(
        self,
        items: Sequence[str],
        progress: Progress | None = None,
        source: AnyPlan | None = None,
        canaries: Canaries | None = None,
    ) -> SealedResult:
        """Evaluate items without keeping the result, which stays sealed until `reveal`.

        Args:
            source: None: the items' inputs; else the plan whose features are this plan's input.
            canaries: images with known results, mixed in; `reveal` raises WrongResult if one came
                back wrong. Not together with `source`.
        """
        names = checked(m.item_ids(items, least=1), progress, canaries)
        return self._run(self.served, names, progress, source, canaries)

    def _run(
        self,
        served: ServedPlan,
        items: Sequence[str],
        progress: Progress | None,
        source: AnyPlan | None,
        canaries: Canaries | None,
    ) -> SealedResult:
        source_id = None if source is None else plan_hash(record_of(source)).hex()

        def ask(job: str, names: list[str]) -> int:
            return self.ask_together(m.Run(served.plan_id, job, names, source_id))

        with self._mixed(items, canaries, served.plan_id, source_id) as mixture:
            if source is not None and mixture.drawn:
                self.extract(mixture.drawn)
            sealed = served.sealed(mixture.names, progress, ask)

        def reveal() -> Array:
            results = sealed.reveal()
            mixture.check(mixture.names, results, served.batch_size)
            return mixture.items_of(results)

        return SealedResult(reveal, len(items))

    def _mixed(
        self, items: Sequence[str], canaries: Canaries | None, result: str, source: str | None
    ) -> AbstractContextManager[Mixture]:
        """Items with canaries among them, which are shared before and deleted after."""
        if canaries is not None:
            canaries.check_plan(self.plan_id, result, source)
        return mixed(items, canaries, self.share, self.delete)

    def extract(
        self,
        items: Sequence[str],
        progress: Progress | None = None,
        source: AnyPlan | None = None,
        canaries: Canaries | None = None,
    ) -> list[str]:
        """Evaluate items and keep the results at the servers as shares, under the same ids, which
        are returned.

        Features that are kept already stay as they are, so after a crash the same call goes on.

        Args:
            source: None: the items' inputs; else the plan whose features are this plan's input.
            canaries: images with known results, mixed in and deleted afterwards. Not together with
                `source`. Raises WrongResult after the first request in which one came back wrong.
        """
        named = checked(m.item_ids(items), progress, canaries)
        source_id = None if source is None else plan_hash(record_of(source)).hex()
        size = BATCHES_PER_REQUEST * self.batch_size
        with self._mixed(named, canaries, self.plan_id, source_id) as mixture:
            of = -(-len(mixture.names) // self.batch_size)
            for start in range(0, len(mixture.names), size):
                before = start // self.batch_size
                portion = mixture.names[start : start + size]
                request = m.Extract(self.plan_id, secrets.token_hex(16), portion, source_id)
                self.until_done(self.ask_together(request), shifted(progress, before, of))
                if asked := mixture.canaries_of(portion):
                    mixture.check(asked, self.features(asked).reveal(), self.batch_size)
        return named

    def list_features(self) -> list[str]:
        """Items of this user with features at both servers."""
        first, second = self.listed(m.ListItems(self.plan_id, "features"))
        return sorted({*first} & {*second})

    def features(self, items: Sequence[str], progress: Progress | None = None) -> SealedResult:
        """Kept features (n, d), sealed to this user. RemoteError names an item without any."""
        chosen = checked(m.item_ids(items, least=1), progress)

        def ask(job: str, names: list[str]) -> int:
            return self.ask((m.GetFeatures(self.plan_id, job, names),) * 2)

        return self.served.sealed(chosen, progress, ask)

    def classify(
        self,
        items: Sequence[str],
        head: AnyPlan | None = None,
        progress: Progress | None = None,
        canaries: Canaries | None = None,
    ) -> Classes:
        """The classes of items, as far as the policy of the head shows them.

        Args:
            head: made by `Plan.head`, or its folder: it takes the items' kept features. None: this
                plan ends in classes itself, and takes the items' inputs.
            canaries: images with known classes (by this head), mixed in. Raises WrongResult.

        Returns a name an item for the policy "label", a list of names, best first, for "top5", and
        scores (n, C) for "logits". Classes without names are numbers in decimal.
        """
        chosen = checked(m.item_ids(items, least=1), progress, canaries)
        served = self.served if head is None else ServedPlan(self, record_of(head))
        source = None if head is None else self.plan
        result = self._run(served, chosen, progress, source, canaries).reveal()
        if not served.program.result_is_index:
            return result
        names = served.record.classes or [str(i) for i in range(int(result.max()) + 1)]
        if result.ndim == 1:
            return [names[int(i)] for i in result]
        return [[names[int(i)] for i in row] for row in result]

    # search

    def create_index(
        self,
        name: str,
        metric: Metric = "cosine",
        dim: int | None = None,
        classes: Sequence[str] = (),
    ) -> Index:
        """An index over this plan's features, made if there is none of this name.

        Args:
            metric: "cosine", "ip" (inner product) or "l2" (squared distance).
            dim: is refused unless the features have so many entries.
            classes: with them its rows carry secret labels, and the nearest can vote
                (`Index.classify`). Both servers read the names, and neither which row has which.

        Raises BadValue, BadShape; RemoteError if the index is there with another metric.
        """
        index = Index(self.served, m.index_name(name), metric, m.class_names(classes))
        if dim not in (None, index.dim):
            what = f"an index of dimension {dim} was asked for"
            why = f"the features of plan '{self.plan.name}' have {index.dim} entries"
            raise BadShape(what, why, "leave `dim` out, or use the plan whose features have it")
        job = secrets.token_hex(16)
        self.done_together(m.IndexCreate(self.plan_id, job, name, metric, index.classes))
        return index

    def delete_index(self, name: str) -> Deletion:
        """Delete an index with its rows at both servers, if it is there; the features stay."""
        request = m.IndexDelete(self.plan_id, secrets.token_hex(16), m.index_name(name))
        return self.deleted_together(request)

    def open_index(self, name: str) -> Index:
        """An index that was created before. Raises RemoteError if there is none."""
        return Index.open(self.served, m.index_name(name))

    def load_index(self, path: str | Path) -> Index:
        """The index that `Index.save` wrote down. Raises MissingFile, CorruptPlan, RemoteError."""
        return Index.load(self.served, arguments.path("path", path))


def connect(
    config: str | Path | ClientConfig, plan: AnyPlan, timeout_s: float = CONNECT_S
) -> Client:
    """Connect to both servers for one plan. Use the client in a `with` block.

        with gpumpc.connect("client.toml", "plan") as client:
            items = client.share(images)

    Args:
        config: the client's TOML file, or a ClientConfig read from it.
        plan: the folder of plan.json, or a `Plan`. Both servers must serve it.
        timeout_s: how long to wait for servers that are still starting.

    Raises MissingFile, ConfigError, CorruptPlan for files that cannot be used; AccessDenied if a
    server does not list this client's card; HandshakeMismatch naming the field in which a server's
    plan differs; PeerTimeout.
    """
    if not isinstance(config, ClientConfig):
        config = load_client(arguments.path("config", config))
    record = record_of(plan)
    deadline = time.monotonic() + arguments.seconds("timeout_s", timeout_s)
    while True:
        try:
            return Client(config, record)
        except (AccessDenied, ConfigError, HandshakeMismatch):
            raise  # waiting would not change it
        except GpumpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
