"""Checks that hold for any backend: its products equal the reference's, bit for bit."""

import itertools

import numpy as np
from hypothesis import strategies as st

from gpumpc.ring.fixed_point import mask
from tests.ring.parity import DEFINITION, agree, read_only, same, words


def check_matmul(backend, m, k, n, bits, fill=False):
    x, w = words(1, (m, k), fill), words(2, (k, n), fill)
    expected = np.empty((m, n), dtype=np.uint64)
    for row, out in zip(x, expected, strict=True):
        out[:] = (row[:, None] * w).sum(axis=0, dtype=np.uint64) & mask(bits)
    same(backend.matmul(x, w, bits), expected)
    same(backend.matmul(x.T.copy().T, read_only(w.T).T, bits), expected)


def check_conv(backend, x, w, stride, padding, groups, bits):
    agree(backend, "conv2d", x, w, stride, padding, groups, bits)


def check_sums(backend, bits, m):
    """Of one and of two pairs, with and without addends; no operand is changed."""
    shapes, geometry = ((m, 5), (5, 7), (m, 7)), ((2, 1), (1, 0, 1, 1), 1)
    images = ((m, 5, 6, 3), (3, 3, 3, 7), (m, 2, 6, 7))
    for (x, w, result), one in (
        (shapes, lambda a, b: DEFINITION.matmul(a, b, 64)),
        (images, lambda a, b: DEFINITION.conv2d(a, b, *geometry, 64)),
    ):
        pairs = [(read_only(words(i, x)), read_only(words(i + 2, w))) for i in range(2)]
        plus, bias = read_only(words(5, result)), read_only(words(6, result[-1:]))
        for n_pairs, p, b in itertools.product((1, 2), (None, plus), (None, bias)):
            expected = np.zeros(result, dtype=np.uint64)
            for term in (*(one(*pair) for pair in pairs[:n_pairs]), p, b):
                expected = expected if term is None else expected + term
            expected &= mask(bits)
            if result is shapes[2]:
                got = backend.matmul_sum(pairs[:n_pairs], bits, p, b)
            else:
                got = backend.conv2d_sum(pairs[:n_pairs], *geometry, bits, p, b)
            same(got, expected)
    left = backend.sum_of(*(backend.operand(words(i, (m, 5)), bits) for i in range(2)), bits)
    expected = (words(0, (m, 5)) + words(1, (m, 5))) & mask(bits)
    same(backend.matmul(left, np.eye(5, dtype=np.uint64), bits), expected)


def check_beaver(backend, bits, shape, party):
    e, f, a, b, c = (read_only(words(i, shape)) for i in range(5))
    expected = ((e * f if party == 0 else np.uint64(0)) + e * b + a * f + c) & mask(bits)
    same(backend.beaver(e, f, a, b, c, party, bits), expected)


def check_matmul_of_nothing(backend, shape):
    m, k, n = shape
    same(backend.matmul(words(1, (m, k)), words(2, (k, n)), 40), np.zeros((m, n), dtype=np.uint64))


def check_depthwise(backend, bits, fill):
    for channels, stride, padding in (
        (1, (1, 1), (0, 0, 0, 0)),
        (37, (2, 2), (0, 1, 0, 1)),
        (64, (1, 2), (2, 2, 2, 2)),
    ):
        x, w = words(1, (2, 7, 9, channels), fill), words(2, (5, 3, 1, channels), fill)
        check_conv(backend, x, w, stride, padding, channels, bits)


def check_a_convolution_of_a_view(backend):
    x, w = words(1, (2, 9, 9, 20)), words(2, (3, 3, 5, 8))
    check_conv(backend, x[:, ::2, :, 3:8], w[::-1], (1, 1), (1, 1, 1, 1), 1, 40)


def check_row_dot(backend, bits):
    for shape in ((0, 3), (1, 1), (989, 7), (5, 128)):
        x, y = words(1, shape), read_only(words(2, shape))
        agree(backend, "row_dot", x, y, bits)


def check_conv2d_of_any_shape(backend, data):
    small = st.integers(1, 3)
    kernel, stride = (data.draw(small), data.draw(small)), (data.draw(small), data.draw(small))
    padding = tuple(data.draw(st.integers(0, 2)) for _ in range(4))
    groups = data.draw(small)
    c_in, c_out = groups * data.draw(st.integers(1, 9)), groups * data.draw(st.integers(1, 18))
    image = (data.draw(st.integers(kernel[0], 9)), data.draw(st.integers(kernel[1], 9)))
    bits, fill = data.draw(st.integers(1, 64)), data.draw(st.booleans())
    x = words(1, (data.draw(small), *image, c_in), fill)
    w = words(2, (*kernel, c_in // groups, c_out), fill)
    check_conv(backend, x, w, stride, padding, groups, bits)
