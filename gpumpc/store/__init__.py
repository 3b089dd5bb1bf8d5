"""Each server's shares at rest."""

from gpumpc.store.manifest import Row, RowKey
from gpumpc.store.rows import Store

__all__ = ["Row", "RowKey", "Store"]
