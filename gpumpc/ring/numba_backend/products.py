"""What surrounds the tiles: operands brought into the form of a kind, and products that need no tile."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types

from gpumpc.ring.backend import Padding, Pair
from gpumpc.ring.numba_backend import tiles
from gpumpc.ring.numba_backend.compiled import OutLanes3, OutWords2, Words2, compiled, index, word

Array = npt.NDArray[np.uint64]
_Image = types.Array(types.uint64, 3, "C", readonly=True)
_Batch = types.Array(types.uint64, 4, "C", readonly=True)
_OutBatch = types.Array(types.uint64, 4, "C")
_OutNarrow = types.Array(types.uint32, 3, "C")
_OutHalves = types.Array(types.uint32, 3, "C")
# Fewer rows than this do not repay the making of panels, fewer columns do not fill one.
_ROWS_AT_LEAST, _COLUMNS_AT_LEAST = 6, 3


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


@compiled(Words2, index, _OutHalves)
def _make_panels(w, kind, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """(K, N) words -> (panels, K, 32-bit halves of a panel's row); columns past the last are zero."""
    width = 16 if kind == 0 else 8
    low, upper = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF)
    for p in range(out.shape[0]):
        count = min(width, w.shape[1] - p * width)
        for k in range(w.shape[0]):
            out[p, k, :] = np.uint32(0)
            for c in range(count):
                v = w[k, p * width + c]
                high = v >> np.uint64(32)
                if kind == 0:
                    out[p, k, c] = np.uint32(v & upper)
                    continue
                out[p, k, 2 * c] = np.uint32(v & upper)
                out[p, k, 2 * c + 1] = np.uint32(high)
                if kind == 1:
                    out[p, k, 16 + c] = np.uint32((high & low) | ((v & low) << np.uint64(16)))
                else:
                    out[p, k, 16 + c] = np.uint32(v & upper)
                    out[p, k, 24 + c] = np.uint32(high)


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


def _panels(w: Array, kind: int) -> npt.NDArray[np.uint32]:
    n_panels = -(-w.shape[1] // tiles.COLUMNS[kind])
    made = np.empty((n_panels, w.shape[0], 2 * tiles.PANEL_WORDS[kind]), dtype=np.uint32)
    _make_panels(w, kind, made)
    return made


def matmul(x: Array, w: Array, bits: int) -> Array:
    """x (M, K) @ w (K, N) modulo 2^bits."""
    x, w, out = np.ascontiguousarray(x), np.ascontiguousarray(w), np.empty((x.shape[0], w.shape[1]), dtype=np.uint64)
    if 0 in (*out.shape, x.shape[1]):
        out[:] = 0
        return out
    keep, kind = (1 << bits) - 1, kind_of(bits)
    if w.shape[1] < _COLUMNS_AT_LEAST:
        _few_columns(x, np.ascontiguousarray(w.T), keep, out)
    elif x.shape[0] < _ROWS_AT_LEAST:
        _few_rows(x, w, keep, out)
    else:
        left, panels = _left(x[None], (0, 0, 0, 0), 1, kind), _panels(w, kind)
        base = np.arange(x.shape[0], dtype=np.int64) * x.shape[1]
        tiles.product(kind, left.ctypes.data, base, 1, x.shape[1], 0, panels.ctypes.data, keep, out)
    return out


@compiled(Words2, Words2, word, OutWords2)
def _few_rows(x, w, keep, out):  # type: ignore[no-untyped-def]  # typed by its signature
    for r in range(x.shape[0]):
        out[r, :] = np.uint64(0)
        for k in range(x.shape[1]):
            value = x[r, k]
            for c in range(w.shape[1]):
                out[r, c] += value * w[k, c]
        for c in range(w.shape[1]):
            out[r, c] &= keep


@compiled(Words2, Words2, word, OutWords2)
def _few_columns(x, transposed, keep, out):  # type: ignore[no-untyped-def]  # typed by its signature
    for r in range(x.shape[0]):
        for c in range(transposed.shape[0]):
            total = np.uint64(0)
            for k in range(x.shape[1]):
                total += x[r, k] * transposed[c, k]
            out[r, c] = total & keep


def conv2d(x: Array, w: Array, stride: Pair, padding: Padding, bits: int) -> Array:
    """Dense convolution x (B, H, W, Cin), w (kh, kw, Cin, Cout) -> (B, Ho, Wo, Cout)."""
    n_images, height, width, c_in = x.shape
    kh, kw, _, c_out = w.shape
    kind = kind_of(bits)
    left = _left(np.ascontiguousarray(x).reshape(n_images, height, width * c_in), padding, c_in, kind)
    row = left.shape[2]
    n_y, n_x = (left.shape[1] - kh) // stride[0] + 1, (row // c_in - kw) // stride[1] + 1
    out = np.empty((n_images * n_y * n_x, c_out), dtype=np.uint64)
    images, rows, columns = (np.arange(n, dtype=np.int64) for n in (n_images, n_y, n_x))
    # Where the window of each output begins.
    base = images[:, None, None] * (left.shape[1] * row) + rows[:, None] * (stride[0] * row) + columns * (stride[1] * c_in)
    panels = _panels(np.ascontiguousarray(w).reshape(-1, c_out), kind)
    keep = (1 << bits) - 1
    tiles.product(kind, left.ctypes.data, base.reshape(-1), kh, kw * c_in, row, panels.ctypes.data, keep, out)
    return out.reshape(n_images, n_y, n_x, c_out)


def depthwise(x: Array, w: Array, stride: Pair, padding: Padding, bits: int) -> Array:
    """Each channel by itself: x (B, H, W, C), w (kh, kw, C)."""
    n_images, height, width, channels = x.shape
    flat = np.ascontiguousarray(x).reshape(n_images, height, width * channels)
    left = _left(flat, padding, channels, 2)
    left = left.reshape(n_images, left.shape[1], -1, channels)
    n_y, n_x = (left.shape[1] - w.shape[0]) // stride[0] + 1, (left.shape[2] - w.shape[1]) // stride[1] + 1
    out = np.empty((n_images, n_y, n_x, channels), dtype=np.uint64)
    _depthwise(left, np.ascontiguousarray(w), *stride, (1 << bits) - 1, out)
    return out


@compiled(_Batch, _Image, index, index, word, _OutBatch)
def _depthwise(x, w, sy, sx, keep, out):  # type: ignore[no-untyped-def]  # typed by its signature
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
                    out[b, y, z, c] &= keep
