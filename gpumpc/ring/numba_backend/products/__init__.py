"""Matrix products and convolutions: operands in the form of a tile, and small products."""

import numpy as np
import numpy.typing as npt
from numba import types

from gpumpc.ring.backend import Padding, Pair
from gpumpc.ring.numba_backend.jit import OutLanes3, OutWords2, Words2, compiled, index, word
from gpumpc.ring.numba_backend.products import tiles, winograd
from gpumpc.ring.numba_backend.products.forms import formed

Array = npt.NDArray[np.uint64]
_Image = types.Array(types.uint64, 3, "C", readonly=True)
_Batch = types.Array(types.uint64, 4, "C", readonly=True)
_OutBatch = types.Array(types.uint64, 4, "C")
_OutNarrow = types.Array(types.uint32, 3, "C")
# Fewer rows than this do not repay the making of panels, fewer columns do not fill one.
_ROWS_AT_LEAST, _COLUMNS_AT_LEAST = 6, 3
# A quarter of the multiplications: below these sizes the transformations take longer than what they
# save.
_CHANNELS_AT_LEAST, _TILES_AT_LEAST, _CHUNK_TILES = (16, 64), 32, 48


def kind_of(bits: int) -> int:
    """Which tile multiplies modulo 2^bits."""
    return 0 if bits <= 32 else 1 if bits <= 48 and tiles.HAS_PAIR_PRODUCTS else 2


@compiled(_Image, index, index, OutLanes3)
def _pad_pairs(x, top, left, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """Kind 1: the low 32 bits of x, then its bits 0-15 and 32-47; zeros around."""
    low, upper = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF)
    out[:] = np.uint64(0)
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                v = x[b, i, j]
                pair = (v & low) | (((v >> np.uint64(32)) & low) << np.uint64(16))
                out[b, top + i, left + j] = (v & upper) | (pair << np.uint64(32))


@compiled(_Image, index, index, _OutNarrow)
def _pad_narrow(x, top, left, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """Kind 0: the low 32 bits of x; zeros around."""
    out[:] = np.uint32(0)
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                out[b, top + i, left + j] = np.uint32(x[b, i, j])


@compiled(_Image, index, index, OutLanes3)
def _pad(x, top, left, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """Kind 2: the words themselves; zeros around."""
    out[:] = np.uint64(0)
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                out[b, top + i, left + j] = x[b, i, j]


@compiled(Words2, index, OutLanes3, _OutNarrow)
def _make_panels(w, kind, out, halves):  # type: ignore[no-untyped-def]  # typed by its signature
    """(K, N) words -> (panels, K, words of a panel's row); columns past the last are zero.

    `halves`: the same memory.
    """
    width = 16 if kind == 0 else 8
    low, upper, half = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF), np.uint64(32)
    row = np.zeros(16, np.uint64)
    for p in range(out.shape[0]):
        count = min(width, w.shape[1] - p * width)
        row[:] = np.uint64(0)
        for k in range(w.shape[0]):
            for c in range(count):
                row[c] = w[k, p * width + c]
            if kind == 0:
                for c in range(16):
                    halves[p, k, c] = np.uint32(row[c] & upper)
                continue
            for c in range(8):
                out[p, k, c] = row[c]
            if kind == 1:
                for c in range(8):
                    pair = ((row[c] >> half) & low) | ((row[c] & low) << np.uint64(16))
                    halves[p, k, 16 + c] = np.uint32(pair)
            else:
                for c in range(8):
                    halves[p, k, 16 + c] = np.uint32(row[c] & upper)
                    halves[p, k, 24 + c] = np.uint32(row[c] >> half)


def _left(x: Array, padding: Padding, channels: int, kind: int) -> npt.NDArray[np.unsignedinteger]:
    """Images (B, H, W C) padded, in the form of a kind."""
    top, bottom, left, right = padding
    if kind == 2 and not any(padding):
        return x
    shape = (x.shape[0], x.shape[1] + top + bottom, x.shape[2] + (left + right) * channels)
    if kind == 0:
        narrow = np.empty(shape, dtype=np.uint32)
        _pad_narrow(x, top, left * channels, narrow)
        return narrow
    wide = np.empty(shape, dtype=np.uint64)
    (_pad_pairs if kind == 1 else _pad)(x, top, left * channels, wide)
    return wide


def _panels(w: Array, kind: int, made: Array | None = None) -> Array:
    if made is None:
        made = np.empty(
            (-(-w.shape[1] // tiles.COLUMNS[kind]), w.shape[0], tiles.PANEL_WORDS[kind]),
            dtype=np.uint64,
        )
    _make_panels(w, kind, made, made.view(np.uint32))
    return made


def matmul(x: Array, w: Array, bits: int) -> Array:
    """x (M, K) @ w (K, N) modulo 2^bits."""
    given = w
    x, w, out = (
        np.ascontiguousarray(x),
        np.ascontiguousarray(w),
        np.empty((x.shape[0], w.shape[1]), dtype=np.uint64),
    )
    if 0 in (*out.shape, x.shape[1]):
        out[:] = 0
        return out
    mask, kind = (1 << bits) - 1, kind_of(bits)
    if w.shape[1] < _COLUMNS_AT_LEAST:
        _few_columns(x, np.ascontiguousarray(w.T), mask, out)
    elif x.shape[0] < _ROWS_AT_LEAST:
        _few_rows(x, w, mask, out)
    else:
        left, panels = (
            _left(x[None], (0, 0, 0, 0), 1, kind),
            formed(given, ("rows", kind), lambda: _panels(w, kind)),
        )
        base = np.arange(x.shape[0], dtype=np.int64) * x.shape[1]
        tiles.product(kind, left.ctypes.data, base, 1, x.shape[1], 0, panels.ctypes.data, mask, out)
    return out


@compiled(Words2, Words2, word, OutWords2)
def _few_rows(x, w, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    for r in range(x.shape[0]):
        out[r, :] = np.uint64(0)
        for k in range(x.shape[1]):
            value = x[r, k]
            for c in range(w.shape[1]):
                out[r, c] += value * w[k, c]
        for c in range(w.shape[1]):
            out[r, c] &= mask


@compiled(Words2, Words2, word, OutWords2)
def _few_columns(x, transposed, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    for r in range(x.shape[0]):
        for c in range(transposed.shape[0]):
            total = np.uint64(0)
            for k in range(x.shape[1]):
                total += x[r, k] * transposed[c, k]
            out[r, c] = total & mask


def conv2d(x: Array, w: Array, stride: Pair, padding: Padding, bits: int) -> Array:
    """Dense convolution x (B, H, W, Cin), w (kh, kw, Cin, Cout) -> (B, Ho, Wo, Cout)."""
    n_images, height, width, c_in = x.shape
    kh, kw, _, c_out = w.shape
    if _suits_winograd(x, w, stride, padding, bits):
        return _winograd(x, w, padding, bits)
    kind = kind_of(bits)
    left = _left(
        np.ascontiguousarray(x).reshape(n_images, height, width * c_in), padding, c_in, kind
    )
    row = left.shape[2]
    n_y, n_x = (left.shape[1] - kh) // stride[0] + 1, (row // c_in - kw) // stride[1] + 1
    out = np.empty((n_images * n_y * n_x, c_out), dtype=np.uint64)
    images, rows, columns = (np.arange(n, dtype=np.int64) for n in (n_images, n_y, n_x))
    # Where the window of each output begins.
    base = (
        images[:, None, None] * (left.shape[1] * row)
        + rows[:, None] * (stride[0] * row)
        + columns * (stride[1] * c_in)
    )
    panels = formed(
        w, ("window", kind), lambda: _panels(np.ascontiguousarray(w).reshape(-1, c_out), kind)
    )
    mask = (1 << bits) - 1
    tiles.product(
        kind, left.ctypes.data, base.reshape(-1), kh, kw * c_in, row, panels.ctypes.data, mask, out
    )
    return out.reshape(n_images, n_y, n_x, c_out)


def _suits_winograd(x: Array, w: Array, stride: Pair, padding: Padding, bits: int) -> bool:
    """Whether tiles of 4x4 outputs save more than their transformations cost."""
    extended = bits + winograd.EXTRA_BITS
    channels = _CHANNELS_AT_LEAST[
        extended <= 32
    ]  # words of 32 bits multiply so fast that little is left to save
    if w.shape[:2] != (3, 3) or stride != (1, 1) or min(w.shape[2:]) < channels:
        return False
    n_y, n_x = (
        x.shape[axis] + padding[2 * axis - 2] + padding[2 * axis - 1] - 2 for axis in (1, 2)
    )
    n_tiles = len(x) * -(-n_y // winograd.OUT) * -(-n_x // winograd.OUT)
    # Outputs of tiles that reach over the edge are lost, and the weights are transformed for every
    # call.
    is_full = 1.6 * n_y * n_x * len(x) >= n_tiles * winograd.OUT**2
    return extended <= 64 and is_full and n_tiles >= _TILES_AT_LEAST


def _winograd(x: Array, w: Array, padding: Padding, bits: int) -> Array:
    """A 3x3 convolution of stride 1, in chunks of tiles whose transforms stay cached."""
    n_images, height, width, c_in = x.shape
    c_out, kind = w.shape[3], kind_of(bits + winograd.EXTRA_BITS)
    top, bottom, left, right = padding
    shape = (n_images, height + top + bottom - 2, width + left + right - 2, c_out)
    n_y, n_x = -(-shape[1] // winograd.OUT), -(-shape[2] // winograd.OUT)
    bottom += winograd.OUT * n_y - shape[1]
    right += winograd.OUT * n_x - shape[2]
    padded = _left(
        np.ascontiguousarray(x).reshape(n_images, height, -1), (top, bottom, left, right), c_in, 2
    )
    padded = padded.reshape(n_images, padded.shape[1], -1, c_in)
    panels = formed(w, ("tiles", kind), lambda: _tile_panels(np.ascontiguousarray(w), kind))
    out = np.empty(shape, dtype=np.uint64)
    n_tiles = n_images * n_y * n_x
    mask = (1 << (bits + winograd.EXTRA_BITS)) - 1
    operand, middle = np.empty(0, dtype=np.uint64), np.empty((0, 0, 0), dtype=np.uint64)
    for first in range(0, n_tiles, _CHUNK_TILES):
        count = min(_CHUNK_TILES, n_tiles - first)
        if count != middle.shape[1]:  # the first time, and where the last chunk is shorter
            operand = np.empty(
                winograd.TILE**2 * count * c_in, dtype=np.uint32 if kind == 0 else np.uint64
            )
            middle = np.empty((winograd.TILE**2, count, c_out), dtype=np.uint64)
        transformed = operand.reshape(winograd.TILE**2, count, c_in)
        unused = operand[:0].reshape(0, count, c_in)
        wide, narrow = (
            (unused.astype(np.uint64), transformed)
            if kind == 0
            else (transformed, unused.astype(np.uint32))
        )
        winograd.transform_input(padded, n_x, first, kind, wide, narrow)
        tiles.products(
            kind, operand.ctypes.data, c_in, panels.ctypes.data, panels[0].nbytes, mask, middle
        )
        winograd.transform_output(middle, n_y, n_x, first, (1 << bits) - 1, out)
    return out


def _tile_panels(w: Array, kind: int) -> Array:
    """The weights of a 3x3 convolution as matrices, one a place in a tile."""
    c_in, c_out = w.shape[2:]
    weights = np.empty((winograd.TILE**2, c_in, c_out), dtype=np.uint64)
    winograd.transform_weights(w, weights)
    panels = np.empty(
        (len(weights), -(-c_out // tiles.COLUMNS[kind]), c_in, tiles.PANEL_WORDS[kind]),
        dtype=np.uint64,
    )
    for matrix, made in zip(weights, panels, strict=True):
        _panels(matrix, kind, made)
    return panels


def depthwise(x: Array, w: Array, stride: Pair, padding: Padding, bits: int) -> Array:
    """Each channel by itself: x (B, H, W, C), w (kh, kw, C)."""
    n_images, height, width, channels = x.shape
    flat = np.ascontiguousarray(x).reshape(n_images, height, width * channels)
    left = _left(flat, padding, channels, 2)
    left = left.reshape(n_images, left.shape[1], -1, channels)
    n_y, n_x = (
        (left.shape[1] - w.shape[0]) // stride[0] + 1,
        (left.shape[2] - w.shape[1]) // stride[1] + 1,
    )
    out = np.empty((n_images, n_y, n_x, channels), dtype=np.uint64)
    _depthwise(left, np.ascontiguousarray(w), *stride, (1 << bits) - 1, out)
    return out


@compiled(_Batch, _Image, index, index, word, _OutBatch)
def _depthwise(x, w, sy, sx, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    for b in range(out.shape[0]):
        for y in range(out.shape[1]):
            for z in range(out.shape[2]):
                for c in range(out.shape[3]):
                    out[b, y, z, c] = np.uint64(0)
                for i in range(w.shape[0]):
                    for j in range(w.shape[1]):
                        for c in range(out.shape[3]):
                            out[b, y, z, c] += x[b, y * sy + i, z * sx + j, c] * w[i, j, c]
                for c in range(out.shape[3]):
                    out[b, y, z, c] &= mask
