"""The indexes over a server's stored features: their records, and their rows ready for queries."""

from collections.abc import Sequence

from gpumpc import messages as m
from gpumpc.engine.engine import Engine
from gpumpc.errors import CorruptStore, InputError, MissingFile
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

    def new(self, engine: Engine, request: m.IndexCreate, owner: str) -> ix.IndexRecord:
        """An index to create. Raises PlanError, InputError for another of its name, ConfigError."""
        geometry, classes = geometry_of(engine.program, request.metric), request.classes
        if len(classes) == 1 or len({*classes}) != len(classes):
            why = "one is alone or repeated"
            raise InputError(f"an index of {len(classes)} classes", why, "name two or more")
        plan, n_labels = plan_hash(engine.plan).hex(), len(classes)
        record = ix.IndexRecord(
            request.name, plan, geometry.dim, request.metric, owner, n_labels, classes
        )
        if self._store.noted(record.kind) not in (None, ix.encode_index(record)):
            what = f"there is an index '{request.name}' already"
            hint = "choose another name, or delete it with `gpumpc index delete`"
            raise InputError(what, "it has another metric, plan or classes", hint)
        self._store.check_note(record.kind, ix.encode_index(record), owner)
        return record

    def find(self, engine: Engine, name: str, owner: str) -> ix.IndexRecord:
        """An owner's index over this plan's features. Raises MissingFile."""
        found = self._store.noted(ix.kind_of(owner, name))
        record = ix.decode_index(found) if found else None
        if record is None or record.plan != plan_hash(engine.plan).hex():
            what = f"there is no index '{name}' over this plan"
            raise MissingFile(what, hint="make it with `gpumpc index create`")
        return record

    def keys(self, record: ix.IndexRecord) -> list[RowKey]:
        """Rows of an index, in order of position."""
        return [row.key for row in self._store.rows(record.kind, "ready", record.owner)]

    def load(
        self, engine: Engine, record: ix.IndexRecord, geometry: Geometry, keys: Sequence[RowKey]
    ) -> ix.LoadedIndex:
        """These rows of an index, which must be there, as a static operand."""
        if self._loaded is None or self._loaded[:2] != (record, (*keys,)):
            party, cipher = engine.party, engine.plan.params.cipher
            loaded = ix.load_index(
                self._store, record, geometry, party.number, party.backend, cipher, party.seed_tree
            )
            if loaded.keys != [*keys]:
                what = f"index '{record.name}' was changed while it was searched"
                raise CorruptStore(what, "another process writes in the store", "search again")
            self._loaded = (record, (*keys,), loaded)
        return self._loaded[2]
