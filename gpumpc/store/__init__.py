"""Each server's shares at rest."""

from gpumpc.store.manifest import Row, RowKey
from gpumpc.store.master_key import KeySource
from gpumpc.store.rows import Store

__all__ = ["KeySource", "Row", "RowKey", "Store"]
