"""Three kernels launched as they stand in `kernels/`, against a few lines of NumPy."""

import numpy as np
import pytest

from gpumpc.ring.fixed_point import mask
from tests.kernels.vectors import SIZES, every_kind, same, words


def blocks(n, size):
    return -(-n // size)


CONVOLUTIONS = [
    # image, channels in, kernel, channels out, stride, top and left, groups
    ((1, 1), 1, (1, 1), 1, (1, 1), (0, 0), 1),
    ((6, 5), 3, (3, 3), 4, (1, 1), (1, 1), 1),
    ((7, 6), 2, (2, 3), 67, (2, 1), (0, 2), 1),
    ((9, 8), 17, (3, 3), 5, (1, 2), (1, 1), 1),
    ((5, 5), 6, (3, 3), 4, (1, 1), (1, 1), 2),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_ring_convolution_matches_the_definition(backend, case):
    image, c_in, (kh, kw), c_out, (sy, sx), (top, left), groups = case
    b, (h, w) = 2, image
    ho, wo = (h + 2 * top - kh) // sy + 1, (w + 2 * left - kw) // sx + 1
    shapes = (b, h, w, c_in), (kh, kw, c_in // groups, c_out), (b, ho, wo, c_out), (c_out,)
    for x, weight, term, bias in every_kind("conv", *shapes):
        padded = np.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
        expected = np.zeros((b, ho, wo, c_out), dtype=np.uint64)
        n_in, n_out = c_in // groups, c_out // groups
        for g in range(groups):
            out, channels = slice(g * n_out, (g + 1) * n_out), slice(g * n_in, (g + 1) * n_in)
            for u, v in np.ndindex(kh, kw):
                window = padded[:, u : u + sy * ho : sy, v : v + sx * wo : sx, channels]
                window = window[:, :ho, :wo]
                expected[..., out] += np.einsum("byxc,co->byxo", window, weight[u, v][:, out])
        expected = (expected + term + bias) & mask(44)
        device = [backend.upload(array) for array in (x, weight)]
        result = backend.new(expected.shape)
        n_blocks = blocks(b * ho * wo, 64) * blocks(n_out, 64) * groups
        sizes = b, h, w, c_in, ho, wo, c_out, kw, kh * kw
        place = *sizes, sy, sx, top, left, groups, int(mask(44))
        added = backend.upload(term), backend.upload(bias)
        backend.launch("ring_conv", n_blocks, *device, result, *added, *place)
        same(backend, result, expected)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("party", [0, 1])
def test_truncation_matches_the_formula(backend, n, party):
    k, shift = 40, 13
    for [x] in every_kind("truncation", n):
        up = (1 << shift) - 1 if party == 0 else 0
        expected = ((x + np.uint64(up)) & mask(k)) >> np.uint64(shift)
        result, places = backend.new((n,)), (n, up, int(mask(k)), shift)
        backend.launch("truncate", blocks(n, 1024), backend.upload(x), result, *places)
        same(backend, result, expected)


@pytest.mark.parametrize("n", SIZES)
def test_beaver_shares_add_up_to_the_product(backend, n):
    """Both parties' results add up to the product, and each is the formula."""
    k = 62
    for e, f, a0, a1, b0, b1, c0 in every_kind("beaver", *[n] * 7):
        c1 = (a0 + a1) * (b0 + b1) - c0
        results = []
        for party, (a, b, c) in enumerate([(a0, b0, c0), (a1, b1, c1)]):
            arguments = [backend.upload(array) for array in (e, f, a, b, c)]
            result = backend.new((n,))
            scalars = n, 1 - party, int(mask(k))
            backend.launch("beaver", blocks(n, 1024), *arguments, result, *scalars)
            same(backend, result, ((1 - party) * e * f + e * b + a * f + c) & mask(k))
            results.append(result)
        x, y = e + a0 + a1, f + b0 + b1
        same(backend, backend.reduce(results[0] + results[1], k), (x * y) & mask(k))


def test_in_place_truncation_is_right(backend):
    x = backend.upload(words("in place", 1500))
    expected = (words("in place", 1500) & mask(40)) >> np.uint64(13)
    assert backend.truncate(x, 40, 13, 1, out=x) is x
    same(backend, x, expected)
