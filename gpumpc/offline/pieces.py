"""Bytes stored in pieces, taken from the front."""

import collections


def cut(pieces: collections.deque[memoryview], n_bytes: int) -> memoryview:
    """Remove and return the first `n_bytes` bytes, which must be there: a view if possible."""
    found = list[memoryview]()
    while n_bytes:
        piece = pieces.popleft()
        if len(piece) > n_bytes:
            pieces.appendleft(piece[n_bytes:])
            piece = piece[:n_bytes]
        found.append(piece)
        n_bytes -= len(piece)
    return found[0] if len(found) == 1 else memoryview(b"".join(found))
