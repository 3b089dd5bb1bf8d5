"""3x3 convolutions of stride 1 with a quarter of the multiplications, exactly: F(4x4, 3x3) over the
integers modulo 2^n.

A tile of 4x4 outputs is A^T [ (G g G^T) * (B^T d B) ] A with Winograd's matrices for the points 0,
1, -1, 2, -2. G holds quarters, sixths and twenty-fourths. Thirds are no trouble modulo a power of
two, where 3 has an inverse; so with 8 G every entry is an integer, and the result is 64 times what
is wanted. Computed modulo 2^(bits + 6) and shifted by six, it is the convolution modulo 2^bits,
whatever the words' upper bits are: an identity between integers, with no rounding anywhere.

Source: Winograd 1980; Lavin and Gray, CVPR 2016, section 4.3, for the matrices.
"""

import numpy as np
from numba import types

from gpumpc.ring.numba_backend.jit import OutLanes3, compiled, index, word

OUT, TILE = 4, 6
EXTRA_BITS = 6
_THIRD = 0xAAAAAAAAAAAAAAAB  # 3 * _THIRD = 1 modulo 2^64
# Channels of one block: a tile of them stays in the first-level cache.
_BLOCK = 32

_Batch = types.Array(types.uint64, 4, "C", readonly=True)
_Stack = types.Array(types.uint64, 3, "C", readonly=True)
_OutBatch = types.Array(types.uint64, 4, "C")
_OutNarrow = types.Array(types.uint32, 3, "C")


@compiled(_Batch, OutLanes3)
def transform_weights(w, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """w (3, 3, Cin, Cout) -> 8 G w (8 G)^T as (36, Cin, Cout)."""
    g = np.zeros((6, 3), np.uint64)
    third = np.uint64(_THIRD)
    g[0, 0] = np.uint64(2)
    g[5, 2] = np.uint64(8)
    for j in range(3):
        sign = np.uint64(0) - np.uint64(1) if j == 1 else np.uint64(1)
        g[1, j] = np.uint64(0) - np.uint64(4) * third
        g[2, j] = g[1, j] * sign
        g[3, j] = third << np.uint64(j)
        g[4, j] = g[3, j] * sign
    half = np.empty((3, w.shape[3]), np.uint64)
    for c in range(w.shape[2]):
        for i in range(6):
            for j in range(3):
                for o in range(w.shape[3]):
                    half[j, o] = (
                        g[i, 0] * w[0, j, c, o] + g[i, 1] * w[1, j, c, o] + g[i, 2] * w[2, j, c, o]
                    )
            for j in range(6):
                for o in range(w.shape[3]):
                    out[6 * i + j, c, o] = (
                        half[0, o] * g[j, 0] + half[1, o] * g[j, 1] + half[2, o] * g[j, 2]
                    )


@compiled(_Batch, index, index, index, OutLanes3, _OutNarrow)
def transform_input(x, n_x, first, kind, out, narrow):  # type: ignore[no-untyped-def]  # typed by its signature
    """B^T d B of tiles first .. of padded images (B, H, W, C), `n_x` a row, in the form of a kind
    of product tile.

    Written to `narrow` (36, tiles, C) for kind 0, else to `out`.
    """
    n_y, channels = (x.shape[1] - 2) // 4, x.shape[3]
    tiles = narrow.shape[1] if kind == 0 else out.shape[1]
    half = np.empty((6, 6, _BLOCK), np.uint64)
    two, four, five = np.uint64(2), np.uint64(4), np.uint64(5)
    low, upper = np.uint64(0xFFFF), np.uint64(0xFFFFFFFF)
    for t in range(tiles):
        image, place = (first + t) // (n_y * n_x), (first + t) % (n_y * n_x)
        top, left = 4 * (place // n_x), 4 * (place % n_x)
        for start in range(0, channels, _BLOCK):
            count = min(_BLOCK, channels - start)
            for j in range(6):
                for c in range(count):
                    d0, d1 = (
                        x[image, top, left + j, start + c],
                        x[image, top + 1, left + j, start + c],
                    )
                    d2, d3 = (
                        x[image, top + 2, left + j, start + c],
                        x[image, top + 3, left + j, start + c],
                    )
                    d4, d5 = (
                        x[image, top + 4, left + j, start + c],
                        x[image, top + 5, left + j, start + c],
                    )
                    half[0, j, c] = four * d0 - five * d2 + d4
                    a, b = d4 - four * d2, d3 - four * d1
                    half[1, j, c] = a + b
                    half[2, j, c] = a - b
                    a, b = d4 - d2, two * (d3 - d1)
                    half[3, j, c] = a + b
                    half[4, j, c] = a - b
                    half[5, j, c] = four * d1 - five * d3 + d5
            for i in range(6):
                for c in range(count):
                    d0, d1, d2 = half[i, 0, c], half[i, 1, c], half[i, 2, c]
                    d3, d4, d5 = half[i, 3, c], half[i, 4, c], half[i, 5, c]
                    half[i, 0, c] = four * d0 - five * d2 + d4
                    a, b = d4 - four * d2, d3 - four * d1
                    half[i, 1, c] = a + b
                    half[i, 2, c] = a - b
                    a, b = d4 - d2, two * (d3 - d1)
                    half[i, 3, c] = a + b
                    half[i, 4, c] = a - b
                    half[i, 5, c] = four * d1 - five * d3 + d5
            for i in range(6):
                for j in range(6):
                    if kind == 0:
                        for c in range(count):
                            narrow[6 * i + j, t, start + c] = np.uint32(half[i, j, c] & upper)
                    elif kind == 1:
                        for c in range(count):
                            v = half[i, j, c]
                            pair = (v & low) | (((v >> np.uint64(32)) & low) << np.uint64(16))
                            out[6 * i + j, t, start + c] = (v & upper) | (pair << np.uint64(32))
                    else:
                        for c in range(count):
                            out[6 * i + j, t, start + c] = half[i, j, c]


@compiled(_Stack, index, index, index, word, _OutBatch)
def transform_output(m, n_y, n_x, first, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """A^T m A of tiles first .. of m (36, tiles, Cout), shifted back, cut to (B, Ho, Wo, Cout)."""
    channels = out.shape[3]
    half = np.empty((4, 6, _BLOCK), np.uint64)
    two, four, eight, shift = np.uint64(2), np.uint64(4), np.uint64(8), np.uint64(6)
    for t in range(m.shape[1]):
        image, place = (first + t) // (n_y * n_x), (first + t) % (n_y * n_x)
        top, left = 4 * (place // n_x), 4 * (place % n_x)
        columns = min(4, out.shape[2] - left)
        for start in range(0, channels, _BLOCK):
            count = min(_BLOCK, channels - start)
            for j in range(6):
                for c in range(count):
                    at = start + c
                    m1, m2, m3, m4 = (
                        m[6 + j, t, at],
                        m[12 + j, t, at],
                        m[18 + j, t, at],
                        m[24 + j, t, at],
                    )
                    half[0, j, c] = m[j, t, at] + (m1 + m2) + (m3 + m4)
                    half[1, j, c] = (m1 - m2) + two * (m3 - m4)
                    half[2, j, c] = (m1 + m2) + four * (m3 + m4)
                    half[3, j, c] = (m1 - m2) + eight * (m3 - m4) + m[30 + j, t, at]
            for i in range(min(4, out.shape[1] - top)):
                for c in range(count):
                    m1, m2, m3, m4 = half[i, 1, c], half[i, 2, c], half[i, 3, c], half[i, 4, c]
                    y0, y1 = half[i, 0, c] + (m1 + m2) + (m3 + m4), (m1 - m2) + two * (m3 - m4)
                    y2, y3 = (
                        (m1 + m2) + four * (m3 + m4),
                        (m1 - m2) + eight * (m3 - m4) + half[i, 5, c],
                    )
                    half[i, 0, c], half[i, 1, c], half[i, 2, c], half[i, 3, c] = y0, y1, y2, y3
                for j in range(columns):
                    for c in range(count):
                        out[image, top + i, left + j, start + c] = (half[i, j, c] >> shift) & mask
