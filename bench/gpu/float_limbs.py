"""What the tensor-core kernels are measured against: the same ring product through float64 matrix
products.

`six` cuts words into balanced digits of 22, 22 and 20 bits and needs the six products below 2^64,
sums of 1024 terms at a time; `sixteen` is the route of the published engines: four 16-bit limbs,
all sixteen products. Splitting and recombination are part of both.
"""

from typing import Any

DIGITS = {"six": (22, 22, 20), "sixteen": (16, 16, 16, 16)}
# Terms whose float64 sum is exact: digits of 22 bits are below 2^21 in magnitude, 16-bit limbs
# below 2^16.
TERMS = {"six": 1024, "sixteen": 1 << 20}


def _digits(arrays: Any, words: Any, route: str) -> list[Any]:
    """Float64 digits, balanced for `six`, unsigned for `sixteen`."""
    if route == "sixteen":
        cut, least = (words >> arrays.uint64(16 * i) for i in range(4)), arrays.uint64(0xFFFF)
        return [(limb & least).astype(arrays.float64) for limb in cut]
    found, rest = [], words.view(arrays.int64)
    for width in DIGITS[route]:
        shift = arrays.int64(64 - width)
        digit = (rest << shift) >> shift
        found.append(digit.astype(arrays.float64))
        rest = (rest - digit) >> arrays.int64(width)
    return found


def matmul(arrays: Any, x: Any, w: Any, route: str) -> Any:
    """x @ w modulo 2^64; `arrays` is numpy or cupy."""
    widths, left, right = DIGITS[route], _digits(arrays, x, route), _digits(arrays, w, route)
    total = arrays.zeros((x.shape[0], w.shape[1]), dtype=arrays.int64)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            place = sum(widths[:i]) + sum(widths[:j])
            if route == "six" and place >= 64:
                continue
            for start in range(0, x.shape[1], TERMS[route]):
                part = slice(start, start + TERMS[route])
                product = (a[:, part] @ b[part]).astype(arrays.int64)
                if place < 64:
                    total += product << arrays.int64(place)
    return total.view(arrays.uint64)


def conv2d(arrays: Any, x: Any, w: Any, route: str) -> Any:
    """A 3x3 convolution of stride 1 and padding 1, its windows gathered, modulo 2^64."""
    kh, kw, c, n = w.shape
    padded = arrays.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    b, h, width, _ = x.shape
    taps = [padded[:, u : u + h, v : v + width] for u in range(kh) for v in range(kw)]
    rows = arrays.concatenate(taps, axis=3).reshape(b * h * width, kh * kw * c)
    return matmul(arrays, rows, w.reshape(kh * kw * c, n), route).reshape(b, h, width, n)
