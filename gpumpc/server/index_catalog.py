"""The indexes over a server's stored features: their records, and their rows ready for queries."""

from collections.abc import Sequence

from gpumpc import messages as m
from gpumpc.engine.engine import Engine
from gpumpc.errors import InputError, MissingFile
from gpumpc.program.plan import plan_hash
from gpumpc.retrieval import index_store as ix
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.programs import Geometry
from gpumpc.server.share_store import ShareStore
from gpumpc.store import RowKey


class IndexCatalog:
    """One server's indexes. The index that was searched last stays in memory."""

    def __init__(self, share_store: ShareStore) -> None:
        self._share_store, self._store = share_store, share_store.store
        self._loaded: tuple[ix.IndexRecord, tuple[RowKey, ...], ix.LoadedIndex] | None = None

    def create(self, engine: Engine, request: m.IndexCreate, owner: str) -> None:
        """Create an empty index. Raises InputError for another of its name, PlanError."""
        geometry, classes = geometry_of(engine.program, request.metric), request.classes
        if len(classes) == 1 or len({*classes}) != len(classes):
            why = "one is alone or repeated"
            raise InputError(f"an index of {len(classes)} classes", why, "name two or more")
        plan, n_labels = plan_hash(engine.plan).hex(), len(classes)
        record = ix.IndexRecord(
            request.name, plan, geometry.dim, request.metric, owner, n_labels, classes
        )
        if self._store.note(record.kind, ix.encode_index(record)) != ix.encode_index(record):
            what = f"there is an index '{request.name}' already"
            raise InputError(what, "it has another metric, plan or classes", "choose another name")

    def find(self, engine: Engine, name: str, owner: str) -> ix.IndexRecord:
        """An owner's index over this plan's features. Raises MissingFile."""
        found = self._store.noted(f"index/{owner}/{name}")
        record = ix.decode_index(found) if found else None
        if record is None or record.plan != plan_hash(engine.plan).hex():
            what = f"there is no index '{name}' over this plan"
            raise MissingFile(what, hint="make it with `gpumpc index create`")
        return record

    def items(self, record: ix.IndexRecord) -> list[str]:
        """Items of an index, in order of position."""
        return self._share_store.ready(record.kind, record.owner)

    def remove(self, record: ix.IndexRecord, items: Sequence[str]) -> None:
        """Remove items from an index."""
        found = self._store.find(record.kind, items, record.owner)
        self._store.delete_rows(record.kind, [row.key for row in found.values()])

    def load(self, engine: Engine, record: ix.IndexRecord, geometry: Geometry) -> ix.LoadedIndex:
        """All rows of an index as a static operand. Raises InputError for an empty index."""
        keys = tuple(row.key for row in self._store.rows(record.kind, "ready"))
        if self._loaded is None or self._loaded[:2] != (record, keys):
            if not keys:
                what = f"index '{record.name}' is empty"
                raise InputError(what, "nothing was added", "use `gpumpc index add`")
            party, cipher = engine.party, engine.plan.params.cipher
            loaded = ix.load_index(
                self._store, record, geometry, party.number, party.backend, cipher, party.seed_tree
            )
            self._loaded = (record, keys, loaded)
        return self._loaded[2]
