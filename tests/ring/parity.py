"""Checks of any backend: words, lanes and messages equal the reference's, bit for bit."""

import functools
import itertools

import numpy as np

from gpumpc.params import Cipher
from gpumpc.ring.backend import Factors, LiftLanes, n_lanes
from gpumpc.ring.fixed_point import mask
from gpumpc.ring.numpy_backend import NumpyBackend
from tests.ring.published import AES_CIPHER, AES_COUNTER, AES_KEY, AES_PLAIN

DEFINITION = NumpyBackend()
SIZES = [0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 989, 16_384, 16_421]
CIPHERS: list[Cipher] = ["aes128ctr", "chacha20"]
WIDTHS = [1, 2, 7, 8, 9, 13, 16, 27, 31, 32, 33, 40, 44, 48, 49, 56, 63, 64]


def words(seed, shape, fill=False):
    """Uniform words, or words whose every bit is one: the largest sums there are."""
    if fill:
        return np.full(shape, mask(64))
    return np.random.default_rng(seed).integers(0, 1 << 64, shape, dtype=np.uint64)


def lanes(seed, planes, n, fill=False):
    made = words(seed, (planes, n_lanes(n)), fill)
    if n % 64:
        made[:, -1] &= mask(n % 64)
    return made


def read_only(array):
    """The same values as a view of bytes that came over the wire."""
    return np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)


def same(got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert np.array_equal(got, expected)


def same_all(got, expected):
    for one, right in zip(got, expected, strict=True):
        same(one, right)


def agree(backend, operation, *arguments):
    """The backend's result is the definition's."""
    same(getattr(backend, operation)(*arguments), getattr(DEFINITION, operation)(*arguments))


def check_wire(backend, bits, n, fill=False):
    x = words(n, (n,), fill)
    packed = DEFINITION.pack(x, bits)
    assert bytes(backend.pack(x, bits)) == bytes(packed)
    # Anywhere in a longer message: words begin at any byte.
    for start in (0, 1, 3):
        message = memoryview(bytes(start) + bytes(packed))[start:]
        agree(backend, "unpack", message, (n,), bits)
    agree(backend, "to_planes", x, bits)
    for position in (0, bits // 2, bits - 1):
        agree(backend, "bit", x, position)


def check_select(backend, n):
    lane, one, zero = lanes(n, 1, n)[0], words(n + 1, (n,)), read_only(words(n + 2, (n,)))
    agree(backend, "select", lane, one, zero)
    agree(backend, "from_bit", lane, (n,))


def check_look_up_chosen(backend, n):
    chosen, start, table = words(n, (n,)), words(n + 1, (n,)), words(n + 2, (256,))
    for stride, n_chosen in ((1, 1), (8, 16), (64, 64)):
        agree(backend, "look_up_chosen", chosen, read_only(start), stride, table, n_chosen)


def check_add_flipped_part(backend, n):
    lane, arrays = lanes(n, 1, n)[0], [read_only(words(n + i, (n,))) for i in range(3)]
    for factor, bits in ((1, 1), (6 << 13, 44), (2**64 - 16, 64)):
        agree(backend, "add_flipped_part", arrays[0], lane, *arrays[1:], factor, bits)


def check_lookup(backend, digits, width, n, fill=False):
    tables = lanes(n, digits * ((1 << width) - 1), n, fill).reshape(digits, -1, n_lanes(n))
    queries = lanes(n + 1, digits * width, n).reshape(digits, width, -1)
    for below in (lanes(0, 1, n, fill=True)[0], lanes(0, 1, n)[0] & np.uint64(0)):
        expected = DEFINITION.lookup(tables, queries[::-1], below)
        same_all(backend.lookup(read_only(tables), queries[::-1], below), expected)


def check_masked(backend, bits, n, cipher="aes128ctr", fill=False):
    """Masked words and their bytes follow from the definitions of masking and packing."""
    key, x = bytes(range(32)), words(n, (n,), fill)
    drawn = DEFINITION.expand_words(cipher, key, (n,), bits)
    for sign, expected in ((1, x + drawn), (-1, x - drawn)):
        packed = bytes(DEFINITION.pack(expected, bits))
        assert bytes(backend.pack_masked(x, cipher, key, bits, sign)) == packed
        assert bytes(backend.pack_masked(read_only(x), cipher, key, bits, sign)) == packed
    masked, sent = backend.mask_and_pack(x, cipher, key, bits)
    same(DEFINITION.reduce(np.asarray(masked), bits), (x + drawn) & mask(bits))
    assert bytes(sent) == bytes(DEFINITION.pack(x + drawn, bits))
    mask_words, masked, sent = backend.draw_and_pack(x, cipher, key, bits)
    same(mask_words, drawn)
    same(DEFINITION.reduce(np.asarray(masked), bits), (x - drawn) & mask(bits))
    assert bytes(sent) == bytes(DEFINITION.pack(x - drawn, bits))
    assert np.array_equal(x, words(n, (n,), fill))


def check_masked_views(backend):
    x, key = words(1, (6, 10, 14)), bytes(range(32))
    for view in (x[::2, :, 1::3], x.transpose(2, 0, 1)):
        expected = bytes(DEFINITION.pack_masked(view, "aes128ctr", key, 27, -1))
        assert bytes(backend.pack_masked(view, "aes128ctr", key, 27, -1)) == expected


def check_words(backend, bits, n, fill):
    x, y = words(n, (n,), fill), read_only(words(n + 1, (n,)))
    shift = min(13, bits - 1)
    for party in (0, 1):
        agree(backend, "truncate", x, bits, shift, party)
    agree(backend, "reduce", y, bits)
    agree(backend, "multiply", x, y, bits)
    for value in (-1, 5, -(1 << 63), 1 << 63):
        agree(backend, "add_constant", x, value, bits)
        agree(backend, "scale", x, value, bits)
    agree(backend, "sign_extend", x, bits)
    for cipher in CIPHERS:
        key = bytes(range(32))
        agree(backend, "expand_words", cipher, key, (n,), bits)
        agree(backend, "expand_lanes", cipher, key, 3, n)


def check_lanes_of_a_message(backend, start):
    made = lanes(1, 5, 989)
    message = memoryview(bytes(start) + bytes(DEFINITION.pack_lanes(made)))[start:]
    same(backend.unpack_lanes(message, 5, 989), made)


def check_tables(backend, digits, width, n, fill):
    planes = lanes(n, digits * width, n, fill).reshape(digits, width, -1)
    agree(backend, "thermometer", planes)
    # As a comparison hands them on: top digit first, a view.
    agree(backend, "thermometer", planes[::-1])
    check_lookup(backend, digits, width, n, fill)


def check_fused_with_the_stream(backend, bits, n, cipher):
    key, x = bytes(range(32)), words(n, (n,))
    for sign in (1, -1):
        uniform = DEFINITION.expand_words(cipher, key, (n,), bits)
        expected = DEFINITION.reduce(x + uniform if sign > 0 else x - uniform, bits)
        same(backend.add_uniform(x, cipher, key, bits, sign), expected)
    planes = lanes(n, 3, n)
    expected = planes ^ DEFINITION.expand_lanes(cipher, key, 3, n)
    same(backend.xor_uniform(planes, cipher, key, n), expected)
    assert np.array_equal(x, words(n, (n,))) and np.array_equal(planes, lanes(n, 3, n))


def check_adding_what_came(backend, bits, n):
    x, packed = words(n, (n,)), DEFINITION.pack(words(n + 1, (n,)), bits)
    expected = DEFINITION.reduce(x + DEFINITION.unpack(packed, (n,), bits), bits)
    same(backend.add_packed(x, packed, bits), expected)
    same(backend.add_packed(x, memoryview(b"x" + bytes(packed))[1:], bits), expected)
    combined = backend.combine(x.reshape(1, n), packed, bits)
    same(np.asarray(backend.download(combined)), expected.reshape(1, n))
    assert np.array_equal(x, words(n, (n,)))


def check_lanes_of_constants_and_words(backend, n):
    for bit in (0, 1):
        expected = DEFINITION.bit(np.full(n, bit, dtype=np.uint64), 0)
        same(backend.constant_lane(bit, n), expected)
    planes = lanes(n, 3, n)
    expected = np.stack([DEFINITION.from_bit(lane, (n,)) for lane in planes])
    same(backend.from_lanes(planes, n), expected)


def check_candidates_and_flips(backend, bits, n):
    y, t, t_r, v = (words(n + i, (n,)) for i in range(4))
    zero = (y * t - t_r) & mask(bits)
    same_all(backend.candidates(y, t, t_r, v, bits), (zero, (v - zero) & mask(bits)))
    lane = lanes(n, 1, n)[0]
    bit = DEFINITION.from_bit(lane, (n,)).astype(bool)
    for party in (0, 1):
        flipped = np.where(bit, np.uint64(1 - party) - t, t)
        expected = (y + np.uint64(6 << 13) * flipped) & mask(bits)
        same(backend.add_flipped(y, lane, t, 6 << 13, party, bits), expected)


def check_lift(backend, low, high, party, candidates, n):
    """The four formulas, in Python's integers."""
    shares = [words(i, (n,), False) & mask(low) for i in range(candidates)]
    products = words(5, (candidates, n)) & mask(high - low)
    tops, masked, theirs, masks = (lanes(10 + i, candidates, n) for i in range(4))
    kept = lanes(20, 1, n)[0] if candidates == 2 else None
    choice = [0] * n if kept is None else DEFINITION.from_bit(kept, (n,)).tolist()
    columns = [
        DEFINITION.from_lanes(planes, n).astype(int).tolist()
        for planes in (tops, masked, theirs, masks)
    ]
    expected = []
    for i, c in enumerate(choice):
        m, g, h, a = (column[c][i] for column in columns)
        p = int(products[c, i])
        if party == 0:
            w = m - m * h - (1 - 2 * h) * (1 - 2 * g) * p
        else:
            w = m - (1 - 2 * g) * (h * a + (1 - 2 * h) * p)
        expected.append((int(shares[c][i]) - (w << low)) % (1 << high))
    expected_tops = np.stack([DEFINITION.bit(share, low - 1) for share in shares])
    same_all(backend.mask_top_bits(shares, masks, low), (expected_tops, expected_tops ^ masks))
    planes = LiftLanes(tops, masked, theirs, masks, kept)
    got = backend.lift(shares, planes, products, party, low, high)
    same(got, np.array(expected, dtype=np.uint64))


def check_masked_products(backend, party, n):
    """Every subset of every product, one at a time."""
    sums: list[list[Factors]] = [[(0,), (0, 3), (0, 1, 2)], [(0, 1, 2, 3)], [(2, 3)]]
    products: list[Factors] = [(0, 3), (0, 1), (0, 2), (1, 2), (0, 1, 2), (2, 3), (1, 3)]
    products += [(0, 1, 3), (0, 2, 3), (1, 2, 3), (0, 1, 2, 3)]
    opened, masks, dealt = (
        lanes(seed, 3 * size, n).reshape(3, size, -1) for seed, size in ((1, 4), (2, 4), (3, 11))
    )
    expected = np.zeros((3, 3, n_lanes(n)), dtype=np.uint64)
    for total, terms in zip(expected, sums, strict=True):
        for factors in terms:
            sizes = range(party, len(factors) + 1)  # party 1 has no share of the empty product
            for chosen in (c for size in sizes for c in itertools.combinations(factors, size)):
                share = np.full((3, n_lanes(n)), mask(64))
                if len(chosen) == 1:
                    share = masks[:, chosen[0]]
                elif chosen:
                    share = dealt[:, products.index(chosen)]
                for f in set(factors) - set(chosen):
                    share = share & opened[:, f]
                total ^= share
    dealt_products = [
        functools.reduce(np.bitwise_and, (masks[:, i] for i in product)) for product in products
    ]
    same(backend.mask_products(masks, products), np.stack(dealt_products, axis=1))
    same(backend.mask_products(masks[:, ::-1], [(0, 3)]), masks[:, 3:] & masks[:, :1])
    same(backend.masked_products(opened, masks, read_only(dealt), sums, products, party), expected)


def check_views_and_axes(backend):
    """Whatever is not in one piece is read as it lies."""
    x, y = words(1, (6, 10, 14)), words(2, (6, 10, 14))
    views = [(x[::2, :, 1::3], y[::2, :, 1::3]), (x.transpose(2, 0, 1), y.transpose(2, 0, 1))]
    for a, b in views:
        agree(backend, "reduce", a, 40)
        agree(backend, "truncate", a, 40, 13, 0)
        agree(backend, "multiply", a, b, 40)
        agree(backend, "sign_extend", a, 40)
        agree(backend, "scale", a, -3, 40)
        agree(backend, "to_planes", a, 40)
        assert bytes(backend.pack(a, 27)) == bytes(DEFINITION.pack(a, 27))
        out = words(3, (6, 10, 28))[: a.shape[0], : a.shape[1], : 2 * a.shape[2] : 2]
        if out.shape == a.shape:
            assert backend.truncate(a, 40, 13, 0, out=out) is out
            same(out.copy(), DEFINITION.truncate(a, 40, 13, 0))
    agree(backend, "argmax_signed", x)
    agree(backend, "multiply", x, y[:1], 40)
    lane = backend.bit(x, 3)
    agree(backend, "select", lane, x[::-1], y)


def check_in_place(backend):
    x = words(1, (999,))
    expected = DEFINITION.truncate(x, 44, 16, 0)
    assert backend.truncate(x, 44, 16, 0, out=x) is x
    same(x, expected)


def check_the_stream_is_nist_s(backend):
    """SP 800-38A, F.5.1, through the loop that masks come from."""
    words = backend.expand_lanes("aes128ctr", AES_KEY + AES_COUNTER, 1, 64 * len(AES_PLAIN) // 8)
    assert words.tobytes() == bytes(a ^ b for a, b in zip(AES_PLAIN, AES_CIPHER, strict=True))
