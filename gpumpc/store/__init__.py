"""Each server's shares at rest."""

from gpumpc.store.rows import Row, RowKey, Store

__all__ = ["Row", "RowKey", "Store"]
