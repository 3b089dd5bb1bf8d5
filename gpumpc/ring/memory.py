"""Keep freed arrays in this process, so that the next one of their size costs no page faults.

The C library returns large blocks to the system at once, and every page of the next block is then
faulted in and zeroed: for passes over a million words that took longer than the arithmetic. The
settings hold for this process, do not change peak memory, and do nothing where the library is not
GNU's.
"""

import ctypes
import functools

# Parameters of mallopt(3), as <malloc.h> numbers them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGEST_MMAP_THRESHOLD = 32 << 20  # what the library accepts on 64-bit machines


@functools.cache
def keep_freed_memory() -> bool:
    """Apply the settings once; whether the library took them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD,
        _TRIM_THRESHOLD: (1 << 31) - 1,
        _TOP_PAD: 16 << 20,
        # Only the first arena grows without bound, and so keeps large blocks.
        _ARENA_MAX: 1,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())
