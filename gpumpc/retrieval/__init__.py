"""Index over feature shares, search, metrics."""
