"""Element-wise loops over flat words, one pass each."""

import numpy as np

from gpumpc.ring.numba_backend.jit import OutWords, OutWords2, Words, Words2, compiled, word


@compiled(Words, word, word, word, OutWords)
def add_mask_shift(x, add, mask, shift, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """((x + add) & mask) >> shift."""
    for i in range(x.size):
        out[i] = ((x[i] + add) & mask) >> shift


@compiled(Words, word, word, OutWords)
def scale_mask(x, factor, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """(x * factor) & mask."""
    for i in range(x.size):
        out[i] = (x[i] * factor) & mask


@compiled(Words, Words, word, OutWords)
def multiply_mask(x, y, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """(x * y) & mask."""
    for i in range(x.size):
        out[i] = (x[i] * y[i]) & mask


@compiled(Words, Words, Words, Words, Words, word, word, OutWords)
def beaver(e, f, a, b, c, public, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """(e * (b + public * f) + a * f + c) & mask."""
    for i in range(e.size):
        out[i] = (e[i] * (b[i] + public * f[i]) + a[i] * f[i] + c[i]) & mask


@compiled(Words2, Words2, Words, word, OutWords2)
def add_bias(x, y, bias, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """(x + y + bias) & mask, the bias a row."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] + y[i, j] + bias[j]) & mask


@compiled(Words, word, OutWords)
def extend_sign(x, shift, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """The signed value of the low 64 - shift bits."""
    for i in range(x.size):
        out[i] = np.uint64(np.int64(x[i] << shift) >> np.int64(shift))


@compiled(Words2, Words2, word, OutWords)
def dot_rows(x, y, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """sum_j x_ij y_ij & mask."""
    for i in range(x.shape[0]):
        total = np.uint64(0)
        for j in range(x.shape[1]):
            total += x[i, j] * y[i, j]
        out[i] = total & mask


@compiled(Words, OutWords)
def bits_of_lane(lane, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """Words 0 or 1 from a lane."""
    for j in range(lane.size):
        bits, start = lane[j], 64 * j
        for i in range(min(64, out.size - start)):
            out[start + i] = (bits >> np.uint64(i)) & np.uint64(1)


@compiled(Words, Words, Words, OutWords)
def select_words(lane, one, zero, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """Element-wise choice by a lane."""
    for j in range(lane.size):
        bits, start = lane[j], 64 * j
        for i in range(min(64, out.size - start)):
            chosen = np.uint64(0) - ((bits >> np.uint64(i)) & np.uint64(1))
            other = zero[start + i]
            out[start + i] = other ^ ((one[start + i] ^ other) & chosen)


@compiled(Words, Words, Words, Words, word, OutWords, OutWords)
def both_candidates(y, t, t_r, v, mask, zero, one):  # type: ignore[no-untyped-def]  # typed by its signature
    """zero = y t - t r, one = v - zero."""
    for i in range(zero.size):
        value = (y[i] * t[i] - t_r[i]) & mask
        zero[i] = value
        one[i] = (v[i] - value) & mask


@compiled(Words, Words, Words, word, word, word, OutWords)
def add_flipped(x, lane, t, factor, one, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """x + factor (lane ? one - t : t)."""
    for j in range(lane.size):
        bits, start = lane[j], 64 * j
        for i in range(min(64, out.size - start)):
            flip = np.uint64(0) - ((bits >> np.uint64(i)) & np.uint64(1))
            value = t[start + i]
            out[start + i] = (
                x[start + i] + factor * (value ^ ((value ^ (one - value)) & flip))
            ) & mask


@compiled(Words, Words, Words, Words, word, word, OutWords)
def add_flipped_part(x, lane, part, whole, factor, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """x + factor (lane ? whole - part : part)."""
    for j in range(lane.size):
        bits, start = lane[j], 64 * j
        for i in range(min(64, out.size - start)):
            flip = np.uint64(0) - ((bits >> np.uint64(i)) & np.uint64(1))
            value = part[start + i]
            other = whole[start + i] - value
            out[start + i] = (x[start + i] + factor * (value ^ ((value ^ other) & flip))) & mask


@compiled(Words, Words, Words, Words, Words, Words2, word, word, OutWords)
def lift_selected(zero, one, zero_p, one_p, choice, lanes, low, mask, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """share - 2^low w, w = a - b + c - (-1)^s P; `lanes` are the selected a, b, c and s."""
    unit = np.uint64(1)
    for j in range(choice.size):
        start = 64 * j
        a, b, c, s, k = lanes[0, j], lanes[1, j], lanes[2, j], lanes[3, j], choice[j]
        for i in range(min(64, out.size - start)):
            at = np.uint64(i)
            chosen = np.uint64(0) - ((k >> at) & unit)
            sign = np.uint64(0) - ((s >> at) & unit)
            share = zero[start + i] ^ ((zero[start + i] ^ one[start + i]) & chosen)
            product = zero_p[start + i] ^ ((zero_p[start + i] ^ one_p[start + i]) & chosen)
            signed = (product ^ sign) - sign  # minus the product where s is one
            w = ((a >> at) & unit) - ((b >> at) & unit) + ((c >> at) & unit) - signed
            out[start + i] = (share - (w << low)) & mask


@compiled(Words, Words, word, Words, word, OutWords)
def look_up_chosen(chosen, start, stride, table, n_chosen, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """XOR of table[start - stride j] over the set bits j of `chosen`."""
    last, one = np.uint64(table.size - 1), np.uint64(1)
    for i in range(out.size):
        bits, place, found = chosen[i], start[i], np.uint64(0)
        for _ in range(n_chosen):
            found ^= table[place & last] & (np.uint64(0) - (bits & one))
            place -= stride
            bits >>= one
        out[i] = found
