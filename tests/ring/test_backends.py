"""The primitive operations of any backend, against loops that a reader can check by eye."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumpc.errors import BadFrame
from gpumpc.ring import prg
from gpumpc.ring.backend import as_backend, lane_bytes, n_lanes, packed_bytes
from gpumpc.ring.cupy_backend import CupyBackend
from gpumpc.ring.definition.bit_slices import transpose_64x64
from gpumpc.ring.fixed_point import mask, signed
from gpumpc.ring.numba_backend import NumbaBackend
from gpumpc.ring.numpy_backend import NumpyBackend
from tests.emulator.device import ORDERS, EmulatedDevice

SIZES = [0, 1, 63, 64, 65, 989]
BACKENDS = [
    as_backend(NumpyBackend()),
    as_backend(NumbaBackend()),
    as_backend(CupyBackend(EmulatedDevice(ORDERS[2]))),
]


@pytest.fixture(scope="module", params=BACKENDS, ids=lambda backend: backend.name)
def backend(request):
    return request.param


def test_every_backend_is_registered_by_name():
    assert [backend.name for backend in BACKENDS] == ["numpy", "numba", "emulated"]


def words(seed, shape, bits=64):
    rng = np.random.default_rng(seed)
    return rng.integers(0, (1 << bits) - 1, shape, dtype=np.uint64, endpoint=True)


def bits_of(lane, n):
    """Bit i of a lane, one at a time."""
    return [(int(lane[i // 64]) >> (i % 64)) & 1 for i in range(n)]


def lane_of(bits):
    lane = [0] * n_lanes(len(bits))
    for i, bit in enumerate(bits):
        lane[i // 64] |= int(bit) << (i % 64)
    return np.array(lane, dtype=np.uint64)


# the wire


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", range(1, 65))
def test_pack_and_unpack_every_width(backend, bits, n):
    # bits above the valid ones must not reach the wire
    values = words(bits, (n,))
    packed = backend.pack(values, bits)
    assert len(packed) == packed_bytes(n, bits)
    assert np.array_equal(backend.unpack(packed, (n,), bits), values & mask(bits))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [1, 7, 27, 44, 62])
def test_packed_layout_and_zero_padding(backend, bits, n):
    """A byte plane for each whole byte, then a lane for each bit left; zeros at the end."""
    values = words(bits, (n,))
    packed = bytes(backend.pack(values, bits))
    whole = bits // 8
    for j in range(whole):
        assert packed[j * n : (j + 1) * n] == bytes((int(v) >> (8 * j)) & 255 for v in values)
    lanes = np.frombuffer(packed[whole * n :], dtype="<u8").reshape(bits % 8, n_lanes(n))
    for i, lane in enumerate(lanes):
        assert np.array_equal(lane, lane_of([(int(v) >> (8 * whole + i)) & 1 for v in values]))


def test_packing_44_bits_drops_all_bits_above(backend):
    low = words(1, (640,), 44)
    high = low | (words(2, (640,)) << np.uint64(44))
    assert bytes(backend.pack(high, 44)) == bytes(backend.pack(low, 44))
    assert len(backend.pack(high, 44)) == 640 * 11 // 2


def test_arrays_of_many_axes_and_strides_are_packed(backend):
    values = words(3, (5, 7, 6), 40)
    assert np.array_equal(backend.unpack(backend.pack(values, 40), values.shape, 40), values)
    assert bytes(backend.pack(values[:, ::2], 40)) == bytes(backend.pack(values[:, ::2].copy(), 40))


@pytest.mark.parametrize("change", [-1, 1, 8])
def test_packed_message_of_a_wrong_size_is_refused(backend, change):
    with pytest.raises(BadFrame, match="packed bytes"):
        backend.unpack(memoryview(bytes(packed_bytes(19, 27) + change)), (19,), 27)
    with pytest.raises(BadFrame, match="packed bytes"):
        backend.unpack_lanes(memoryview(bytes(lane_bytes(19, 3) + change)), 3, 19)


@pytest.mark.parametrize("n", SIZES)
def test_packed_lanes_are_unpacked(backend, n):
    lanes = backend.expand_lanes("aes128ctr", bytes(32), 5, n)
    assert lanes.shape == (5, n_lanes(n))
    assert np.array_equal(backend.unpack_lanes(backend.pack_lanes(lanes), 5, n), lanes)
    assert len(backend.pack_lanes(lanes[1:3])) == lane_bytes(n, 2)


@pytest.mark.parametrize("n", [1, 63, 65, 989])
def test_padding_bits_of_lanes_are_zero(backend, n):
    lanes = backend.expand_lanes("chacha20", bytes(32), 7, n)
    assert not (lanes[:, -1] & ~mask(n % 64)).any()
    values = words(4, (n,))
    assert not (backend.to_planes(values, 64)[:, -1] & ~mask(n % 64)).any()
    assert not backend.bit(values, 63)[-1] & ~mask(n % 64)


# uniform values


@pytest.mark.parametrize("bits", [1, 8, 9, 16, 27, 32, 33, 44, 62, 64])
def test_words_are_the_low_bits_of_the_stream(backend, bits):
    size = prg.word_bytes(bits)
    stream = bytes(prg.expand("chacha20", bytes(32), 15 * size))
    numbers = [stream[i : i + size] for i in range(0, len(stream), size)]
    expected = [int.from_bytes(number, "little") % (1 << bits) for number in numbers]
    got = backend.expand_words("chacha20", bytes(32), (3, 5), bits)
    assert got.reshape(-1).tolist() == expected


# bits


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [1, 27, 64])
def test_planes_hold_the_bits_of_the_words(backend, n, bits):
    values = words(n, (n,))
    planes = backend.to_planes(values, bits)
    assert planes.shape == (bits, n_lanes(n))
    for b in (0, bits // 2, bits - 1):
        assert bits_of(planes[b], n) == [(int(v) >> b) & 1 for v in values]
        assert np.array_equal(backend.bit(values, b), planes[b])


@pytest.mark.parametrize("shape", [(1,), (63,), (8, 8), (5, 13), (43, 23)])
def test_from_bit_and_select_follow_the_lane(backend, shape):
    values = words(7, shape)
    lane = backend.bit(values, 3)
    assert np.array_equal(backend.from_bit(lane, shape), (values >> np.uint64(3)) & np.uint64(1))
    other = words(8, shape)
    expected = np.where(values & np.uint64(8), values, other)
    assert np.array_equal(backend.select(lane, values, other), expected)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("digits", [1, 3])
def test_thermometer_and_lookup_over_all_pairs(backend, width, digits):
    """Every y against every r of a digit, on shares of the table."""
    size = 1 << width
    y, r = (grid.reshape(-1) for grid in np.meshgrid(np.arange(size), np.arange(size)))
    n = y.size
    shifted = [(r + d) % size for d in range(digits)]

    def planes(values):
        return np.stack([backend.to_planes(v.astype(np.uint64), width) for v in values])

    table = backend.thermometer(planes(shifted))
    assert table.shape == (digits, size - 1, n_lanes(n))
    for d, v in itertools.product(range(digits), range(size - 1)):
        assert bits_of(table[d, v], n) == [int(v < value) for value in shifted[d]]
    drawn = backend.expand_lanes("aes128ctr", bytes(32), digits * (size - 1), n)
    share_1, queries = drawn.reshape(table.shape), planes([y] * digits)
    at_0 = backend.lookup(table ^ share_1, queries, lane_of([1] * n))
    at_1 = backend.lookup(share_1, queries, lane_of([0] * n))
    lt, eq = (one ^ other for one, other in zip(at_0, at_1, strict=True))
    for d in range(digits):
        assert bits_of(lt[d], n) == [int(a < b) for a, b in zip(y, shifted[d], strict=True)]
        assert bits_of(eq[d], n) == [int(a == b) for a, b in zip(y, shifted[d], strict=True)]
    assert not n % 64 or not (lt[:, -1] & ~mask(n % 64)).any()


def test_transpose_64x64_transposes_bits():
    rows = words(5, (64, 3))
    expected = [
        [sum(((int(rows[r, c]) >> b) & 1) << r for r in range(64)) for c in range(3)]
        for b in range(64)
    ]
    assert transpose_64x64(rows.copy()).tolist() == expected


# products


def plain_conv(x, w, stride, padding, groups, bits):
    """One multiplication at a time, with Python's integers."""
    top, bottom, left, right = padding
    b, h, width, _ = x.shape
    kh, kw, per_group, c_out = w.shape
    rows = (h + top + bottom - kh) // stride[0] + 1
    columns = (width + left + right - kw) // stride[1] + 1
    out = np.zeros((b, rows, columns, c_out), dtype=np.uint64)
    for item, i, j, o in np.ndindex(*out.shape):
        first, total = (o // (c_out // groups)) * per_group, 0
        for u, v, c in np.ndindex(kh, kw, per_group):
            y, z = stride[0] * i + u - top, stride[1] * j + v - left
            if 0 <= y < h and 0 <= z < width:
                total += int(x[item, y, z, first + c]) * int(w[u, v, c, o])
        out[item, i, j, o] = total % (1 << bits)
    return out


CONVOLUTIONS = [
    # image, channels in, kernel, channels out, stride, padding, groups
    ((6, 5), 3, (3, 3), 4, (1, 1), (1, 1, 1, 1), 1),
    ((6, 5), 3, (3, 3), 4, (2, 2), (0, 1, 0, 1), 1),
    ((7, 6), 2, (2, 3), 3, (2, 1), (0, 0, 2, 1), 1),
    ((5, 5), 4, (1, 1), 3, (1, 1), (0, 0, 0, 0), 1),
    ((5, 5), 4, (1, 1), 3, (1, 1), (1, 0, 2, 0), 1),
    ((5, 6), 4, (1, 1), 3, (2, 2), (0, 0, 0, 0), 1),
    ((7, 7), 4, (3, 3), 4, (1, 1), (1, 1, 1, 1), 4),
    ((7, 8), 4, (3, 3), 4, (2, 2), (0, 1, 0, 1), 4),
    ((9, 8), 3, (5, 5), 3, (2, 2), (1, 2, 2, 1), 3),
    ((5, 5), 4, (3, 3), 6, (1, 1), (1, 1, 1, 1), 2),
    ((6, 5), 6, (3, 2), 3, (2, 1), (1, 0, 0, 1), 3),
    ((5, 5), 2, (3, 3), 4, (1, 1), (1, 1, 1, 1), 2),
    ((3, 3), 2, (3, 3), 2, (1, 1), (0, 0, 0, 0), 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("bits", [40, 64])
def test_conv2d_against_a_plain_loop(backend, case, bits):
    image, c_in, kernel, c_out, stride, padding, groups = case
    x, w = words(1, (2, *image, c_in)), words(2, (*kernel, c_in // groups, c_out))
    left, right = backend.operand(x, bits), backend.operand(w, bits)
    got = backend.conv2d(left, right, stride, padding, groups, bits)
    assert np.array_equal(got, plain_conv(x, w, stride, padding, groups, bits))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_conv2d_agrees_for_any_shape(backend, data):
    small = st.integers(1, 3)
    kernel, stride = (data.draw(small), data.draw(small)), (data.draw(small), data.draw(small))
    padding = tuple(data.draw(st.integers(0, 2)) for _ in range(4))
    groups = data.draw(small)
    c_in, c_out = groups * data.draw(small), groups * data.draw(small)
    image = (data.draw(st.integers(kernel[0], 6)), data.draw(st.integers(kernel[1], 6)))
    bits = data.draw(st.integers(1, 64))
    x, w = words(1, (1, *image, c_in)), words(2, (*kernel, c_in // groups, c_out))
    got = backend.conv2d(x, w, stride, padding, groups, bits)
    assert np.array_equal(got, plain_conv(x, w, stride, padding, groups, bits))


def test_matmul_and_multiply_match_python_integers(backend):
    x, w = words(1, (19, 23)), words(2, (23, 5))
    expected = (x.astype(object) @ w.astype(object)) % (1 << 44)
    assert (backend.matmul(x, w, 44) == expected.astype(np.uint64)).all()
    assert np.array_equal(backend.multiply(x, x, 44), (x * x) & mask(44))


# local steps


def test_operations_do_not_change_their_arguments(backend):
    """Nothing writes into what it was given, unless `out` says so."""
    x, w = words(1, (1, 4, 4, 2), 44), words(2, (3, 3, 2, 2), 44)
    before = x.copy(), w.copy()
    backend.conv2d(x, w, (1, 1), (1, 1, 1, 1), 1, 44)
    backend.truncate(x, 44, 16, 0)
    backend.reduce(x, 8)
    backend.to_planes(x, 44)
    backend.add_constant(x, 5, 44)
    backend.window_sum(x, (2, 2), (1, 1))
    assert np.array_equal(x, before[0]) and np.array_equal(w, before[1])


@pytest.mark.parametrize("party", [0, 1])
def test_truncate_and_reduce_write_into_out(backend, party):
    x = words(1, (99,))
    out = np.empty_like(x)
    assert backend.truncate(x, 44, 16, party, out=out) is out
    expected = [((int(v) + (2**16 - 1 if party == 0 else 0)) % 2**44) >> 16 for v in x]
    assert out.tolist() == expected == backend.truncate(x, 44, 16, party).tolist()
    assert backend.reduce(x, 13, out=out) is out
    assert np.array_equal(out, x & mask(13))


@given(st.integers(-(2**70), 2**70), st.integers(1, 64), st.integers(0, 2**64 - 1))
def test_constants_of_either_sign_are_added_and_scaled(backend, value, bits, word):
    x = np.array([word], dtype=np.uint64)
    assert int(backend.add_constant(x, value, bits)[0]) == (word + value) % (1 << bits)
    assert int(backend.scale(x, value, bits)[0]) == (word * value) % (1 << bits)


@given(st.integers(1, 64), st.integers(0, 2**64 - 1), st.integers(1, 40))
def test_sign_extend_and_shift_signed_match_signed_values(backend, bits, word, shift):
    x = np.array([word], dtype=np.uint64)
    extended = backend.sign_extend(x, bits)
    assert int(extended.view(np.int64)[0]) == int(signed(x, bits)[0])
    shifted = backend.shift_signed(extended, shift)
    assert int(shifted.view(np.int64)[0]) == int(signed(x, bits)[0]) >> shift


def test_argmax_takes_the_lowest_index_on_ties(backend):
    rows = [[3, 7, 7, -1], [-5, -5, -9, -5], [0, 0, 0, 0], [-(2**63), 1, 2**63 - 1, 2]]
    values = np.array(rows, dtype=np.int64).view(np.uint64)
    assert backend.argmax_signed(values).tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize(
    ("window", "stride"), [((2, 2), (2, 2)), ((3, 2), (1, 2)), ((1, 1), (1, 1)), ((7, 5), (1, 1))]
)
def test_window_sum_against_a_plain_loop(backend, window, stride):
    x = words(1, (2, 7, 5, 3))
    got = backend.window_sum(x, window, stride)
    for b, i, j, c in np.ndindex(*got.shape):
        top, left = stride[0] * i, stride[1] * j
        part = x[b, top : top + window[0], left : left + window[1], c]
        assert int(got[b, i, j, c]) == sum(int(v) for v in part.reshape(-1)) % (1 << 64)


def test_take_concat_counting_zeros_and_upload(backend):
    x = words(1, (2, 5, 3))
    assert np.array_equal(backend.take(x, [4, 0, 0], 1), x[:, [4, 0, 0]])
    assert np.array_equal(backend.concat([x, x[:, :1]], 1), np.concatenate([x, x[:, :1]], axis=1))
    turned = backend.permute(x, (2, 0, 1))
    assert np.array_equal(turned, x.transpose(2, 0, 1)) and turned.flags.c_contiguous
    assert backend.counting(5).tolist() == [0, 1, 2, 3, 4]
    assert backend.counting(5).dtype == np.uint64
    assert not backend.zeros((3, 4)).any()
    assert backend.download(backend.upload([1, 2])).tolist() == [1, 2]
