"""Exact products modulo 2^bits through float64 BLAS: NumPy has no BLAS for integers.

A word is cut into balanced digits of 22 bits, x = sum_i x_i 2^(22 i) with |x_i| <= 2^21, the last
one balanced modulo what is left. Digits of one diagonal d = i + j share one float64 product,

    diagonal d  =  [x_0 | x_1 | .. | x_d] @ [w_d ; .. ; w_1 ; w_0],

exact while (d + 1) K 2^42 <= 2^53, that is K <= 2048 / (d + 1); longer rows are cut. 44 bits take 3
unit products, 64 bits take 6. Proof: every partial sum is an integer of magnitude at most 2^53, so
no rounding ever happens.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

DIGIT_BITS = 22
MAX_TERMS = 1 << (53 - 2 * (DIGIT_BITS - 1))  # 2048
# Below this many multiply-adds the integer loop wins over cutting and recombining.
DIRECT_BELOW = 1 << 14
# Digits of one row block, in bytes: stays in the second-level cache's neighbourhood.
_BLOCK_BYTES = 4 << 20

Pair = tuple[int, int]


def n_digits(bits: int) -> int:
    """Digits of a word of `bits` bits."""
    return -(-bits // DIGIT_BITS)


def cut(x: np.ndarray, bits: int, out: np.ndarray) -> None:
    """Write the digits of words x to the float64 array `out` of shape (n_digits, *x.shape)."""
    rest = x.view(np.int64)
    for i in range(len(out)):
        shift = np.int64(64 - min(DIGIT_BITS, bits - i * DIGIT_BITS))
        digit = (rest << shift) >> shift
        out[i] = digit
        if i + 1 < len(out):
            rest = (rest - digit) >> np.int64(DIGIT_BITS)


def _stacked(w: np.ndarray, bits: int) -> list[np.ndarray]:
    """For each diagonal d the right operand [w_d ; .. ; w_0], as (d + 1, K, N)."""
    digits = np.empty((n_digits(bits), *w.shape))
    cut(np.ascontiguousarray(w), bits, digits)
    return [np.ascontiguousarray(digits[d::-1]) for d in range(len(digits))]


def _diagonals(x: np.ndarray, stacked: list[np.ndarray]) -> np.ndarray:
    """sum_d 2^(22 d) [x_0 | .. | x_d] @ stacked[d] modulo 2^64: (rows, D, K) -> (rows, N)."""
    rows, _, n_terms = x.shape
    total = np.zeros((rows, stacked[0].shape[-1]), dtype=np.int64)
    for d, right in enumerate(stacked):
        longest = MAX_TERMS // (d + 1)
        for start in range(0, n_terms, longest):
            part = slice(start, min(start + longest, n_terms))
            left = x[:, : d + 1, part].reshape(rows, -1)
            product = left @ right[:, part].reshape(left.shape[1], -1)
            total += product.astype(np.int64) << np.int64(DIGIT_BITS * d)
    return total.view(np.uint64)


def matmul(x: np.ndarray, w: np.ndarray, bits: int) -> np.ndarray:
    """x (M, K) @ w (K, N) modulo 2^bits, words in and out."""
    rows, n_terms = x.shape
    keep = np.uint64((1 << bits) - 1)
    if rows * n_terms * w.shape[1] < DIRECT_BELOW:
        product: np.ndarray = x @ w
        return product & keep
    stacked = _stacked(w, bits)
    out = np.empty((rows, w.shape[1]), dtype=np.uint64)
    block = max(64, _BLOCK_BYTES // (8 * len(stacked) * max(1, n_terms)))
    for start in range(0, rows, block):
        piece = np.ascontiguousarray(x[start : start + block])
        digits = np.empty((len(stacked), *piece.shape))
        cut(piece, bits, digits)
        out[start : start + block] = (
            _diagonals(np.ascontiguousarray(digits.transpose(1, 0, 2)), stacked) & keep
        )
    return out


def conv2d(x: np.ndarray, w: np.ndarray, stride: Pair, bits: int) -> np.ndarray:
    """Dense convolution of padded words: x (B, H, W, Cin), w (kh, kw, Cin, Cout) -> (B, Ho, Wo,
    Cout).

    Digits are cut once; windows are gathered image rows at a time, so that the gathered block stays
    small.
    """
    kh, kw, c_in, c_out = w.shape
    keep = np.uint64((1 << bits) - 1)
    stacked = _stacked(w.reshape(-1, c_out), bits)
    n_cols = len(stacked) * kh * kw * c_in
    out_shape = ((x.shape[1] - kh) // stride[0] + 1, (x.shape[2] - kw) // stride[1] + 1)
    out = np.empty((len(x), *out_shape, c_out), dtype=np.uint64)
    block = max(1, _BLOCK_BYTES // (8 * n_cols * out_shape[1]))
    for image, result in zip(x, out, strict=True):
        digits = np.empty((len(stacked), *image.shape))
        cut(np.ascontiguousarray(image), bits, digits)
        # (D, Ho, Wo, Cin, kh, kw) -> rows (Ho, Wo), columns (D, kh, kw, Cin)
        windows = sliding_window_view(digits, (kh, kw), axis=(1, 2))[:, :: stride[0], :: stride[1]]
        windows = windows.transpose(1, 2, 0, 4, 5, 3)
        for start in range(0, out_shape[0], block):
            piece = windows[start : start + block]
            gathered = piece.reshape(piece.shape[0] * piece.shape[1], len(stacked), -1)
            result[start : start + block] = (_diagonals(gathered, stacked) & keep).reshape(
                *piece.shape[:2], c_out
            )
    return out


def depthwise(x: np.ndarray, w: np.ndarray, stride: Pair, bits: int) -> np.ndarray:
    """Each channel of padded words by itself: x (B, H, W, C), w (kh, kw, C)."""
    kh, kw, _ = w.shape
    sy, sx = stride
    n_y, n_x = (x.shape[1] - kh) // sy + 1, (x.shape[2] - kw) // sx + 1
    out = np.zeros((len(x), n_y, n_x, x.shape[3]), dtype=np.uint64)
    product = np.empty(out.shape[1:], dtype=np.uint64)
    for image, total in zip(x, out, strict=True):  # one image at a time stays in the cache
        for i in range(kh):
            for j in range(kw):
                window = image[i : i + sy * n_y : sy, j : j + sx * n_x : sx]
                total += np.multiply(window, w[i, j], out=product)
    out &= np.uint64((1 << bits) - 1)
    return out
