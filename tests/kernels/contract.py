"""Every operation of the contract returns NumPy's bits for the same arguments."""

import numpy as np
import pytest

from gpumpc.errors import BadFrame, BadShape, InputError
from gpumpc.ring import prg
from gpumpc.ring.backend import lane_bytes, n_lanes, packed_bytes
from gpumpc.ring.cupy_backend.products import MAX_TERMS
from tests.kernels import vectors
from tests.kernels.vectors import FULL, KEY, NUMPY, SIZES, agree, every_kind, same, up, words

# uniform values


@pytest.mark.parametrize("cipher", ["chacha20", "aes128ctr"])
@pytest.mark.parametrize("bits", [1, 8, 9, 16, 27, 32, 40, 62, 64])
def test_expand_words_matches_numpy(backend, cipher, bits):
    for shape in ((0,), (1,), (19, 53), (3, 2049)):
        agree(backend, "expand_words", cipher, KEY, shape, bits)


@pytest.mark.parametrize("cipher", ["chacha20", "aes128ctr"])
@pytest.mark.parametrize("n", SIZES)
def test_expand_lanes_matches_numpy(backend, cipher, n):
    agree(backend, "expand_lanes", cipher, KEY, 5, n)
    agree(backend, "expand_lanes", cipher, KEY, 0, n)


def test_stream_over_several_blocks_matches_numpy(backend):
    """Several blocks of the kernel, the last one short."""
    agree(backend, "expand_words", "chacha20", KEY, (70001,), 8)
    agree(backend, "expand_lanes", "chacha20", KEY, 7, 90001)


def test_bad_keys_and_too_long_streams_are_refused(backend):
    with pytest.raises(InputError, match="32 bytes"):
        backend.expand_words("chacha20", bytes(31), (3,), 8)
    with pytest.raises(InputError, match="32 bytes"):
        backend.expand_lanes("chacha20", bytes(33), 1, 64)
    with pytest.raises(InputError, match="wrap"):
        prg.check(KEY, prg.MAX_STREAM_BYTES + 1)


# wire


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [1, 5, 7, 8, 13, 27, 32, 40, 44, 62, 63, 64])
def test_pack_and_unpack_match_numpy(backend, n, bits):
    for kind in vectors.KINDS:
        values = words("wire", n, kind)
        packed = backend.pack(backend.upload(values), bits)
        assert bytes(packed) == bytes(NUMPY.pack(values, bits))
        agree(backend, "unpack", packed, (n,), bits)


@pytest.mark.parametrize("bits", range(1, 65))
def test_pack_and_unpack_match_numpy_at_every_width(backend, bits):
    values = words("width", (7, 19))
    packed = backend.pack(backend.upload(values), bits)
    assert bytes(packed) == bytes(NUMPY.pack(values, bits))
    agree(backend, "unpack", packed, (7, 19), bits)


@pytest.mark.parametrize("n", SIZES)
def test_pack_and_unpack_lanes_match_numpy(backend, n):
    lanes = NUMPY.expand_lanes("chacha20", KEY, 3, n)
    packed = backend.pack_lanes(backend.upload(lanes))
    assert bytes(packed) == bytes(NUMPY.pack_lanes(lanes))
    same(backend, backend.unpack_lanes(packed, 3, n), lanes)


def test_messages_of_a_wrong_size_are_refused(backend):
    with pytest.raises(BadFrame, match="packed bytes"):
        backend.unpack(memoryview(bytes(packed_bytes(19, 27) + 1)), (19,), 27)
    with pytest.raises(BadFrame, match="packed bytes"):
        backend.unpack_lanes(memoryview(bytes(lane_bytes(19, 3) - 1)), 3, 19)


# bits


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("bits", [1, 27, 33, 64])
def test_bit_planes_match_numpy(backend, n, bits):
    for kind in vectors.KINDS:
        values = words("planes", n, kind)
        planes = backend.to_planes(backend.upload(values), bits)
        same(backend, planes, NUMPY.to_planes(values, bits))
        agree(backend, "bit", values, bits - 1)


@pytest.mark.parametrize("n", SIZES)
def test_single_lane_operations_match_numpy(backend, n):
    lane, x, y = NUMPY.expand_lanes("chacha20", KEY, 1, n)[0], words("x", n), words("y", n)
    device = up(backend, lane, x, y)
    agree(backend, "from_bit", lane, (n,))
    agree(backend, "select", lane, x, y)
    assert np.array_equal(backend.download_bits(device[0], (n,)), NUMPY.download_bits(lane, (n,)))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("n", [1, 64, 2500, 17000])
def test_thermometer_and_lookup_match_numpy(backend, width, n):
    digits = 2
    planes = NUMPY.expand_lanes("chacha20", KEY, digits * width, n).reshape(digits, width, -1)
    table = NUMPY.thermometer(planes)
    same(backend, backend.thermometer(backend.upload(planes)), table)
    drawn = NUMPY.expand_lanes("chacha20", KEY[::-1], digits * width, n)
    queries = drawn.reshape(digits, width, -1)
    zeros, drawn = np.zeros(n_lanes(n), np.uint64), NUMPY.expand_lanes("chacha20", KEY, 1, n)[0]
    for below in (zeros, drawn):
        got = backend.lookup(*up(backend, table, queries, below))
        for one, expected in zip(got, NUMPY.lookup(table, queries, below), strict=True):
            same(backend, one, expected)


def test_thermometer_of_reversed_planes_matches_numpy(backend):
    planes = words("strided", (12, 5))[2:].reshape(5, 2, -1)[::-1]
    agree(backend, "thermometer", planes)
    arrays = words("t", (5, 3, 5)), words("y", (5, 2, 5)), words("b", 5)
    lt, _ = backend.lookup(*up(backend, *arrays))
    assert lt.shape == (5, 5)


# products


SHAPES = [(1, 1, 1), (1, 500, 300), (3, 0, 4), (0, 5, 7), (8, 33, 1), (9, 40, 5), (17, 15, 40)]
SHAPES += [(64, 32, 64), (65, 33, 67)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", [8, 40, 44, 62, 64])
def test_matmul_matches_numpy(backend, shape, bits):
    m, depth, n = shape
    for x, w in every_kind("matmul", (m, depth), (depth, n)):
        left, right = (backend.operand(array, bits) for array in up(backend, x, w))
        same(backend, backend.matmul(left, right, bits), NUMPY.matmul(x, w, bits))


@pytest.mark.parametrize(("bits", "depth"), [(64, 16513), (48, 33056), (40, 66080)])
def test_sum_beyond_one_launch_is_split(one_backend, bits, depth):
    test_longest_sum_of_largest_values_is_exact(one_backend, bits, depth)


@pytest.mark.parametrize(("bits", "depth"), [(64, 16512)])
def test_longest_sum_of_largest_values_is_exact(backend, bits, depth):
    """All bytes 0xFF at the last sum that one launch holds, and at one that must be cut."""
    x, w = np.full((16, depth), FULL), np.full((depth, 16), FULL)
    before = backend.launch.launched.total()
    got = backend.matmul(*up(backend, x, w), bits)
    # (-1)(-1) = 1, `depth` times
    same(backend, got, np.full((16, 16), np.uint64(depth & ((1 << bits) - 1))))
    assert backend.launch.launched.total() - before == (3 if depth == 16512 else 4)


def test_max_terms_of_one_launch_is_sharp(one_backend):
    """A slice more and the fourth diagonal passes 2^32."""
    backend, depth = one_backend, MAX_TERMS[8] + 32
    assert 4 * 255**2 * MAX_TERMS[8] < 1 << 32 <= 4 * 255**2 * depth
    arrays = up(backend, np.full((16, depth), FULL), np.full((depth, 16), FULL))
    x, w = (backend.operand(array, 64) for array in arrays)
    out = backend.new((16, 16))
    sizes = (16, 16, depth, 0, depth // 32, int(FULL))
    backend.launch("limb_gemm_l8", 1, x.rows(8), w.columns(8), None, None, out, None, None, *sizes)
    assert not (vectors.host(backend, out) == np.uint64(depth)).any()


CONVOLUTIONS = [
    # image, channels in, kernel, channels out, stride, padding, groups
    ((6, 5), 3, (3, 3), 17, (1, 1), (1, 1, 1, 1), 1),
    ((6, 5), 40, (3, 3), 20, (2, 2), (0, 1, 0, 1), 1),
    ((7, 6), 33, (2, 3), 66, (2, 1), (0, 0, 2, 1), 1),
    ((5, 5), 40, (1, 1), 30, (1, 1), (0, 0, 0, 0), 1),
    ((5, 5), 40, (1, 1), 30, (1, 1), (1, 0, 2, 0), 1),
    ((5, 6), 4, (1, 1), 3, (2, 2), (0, 0, 0, 0), 1),
    ((7, 7), 4, (3, 3), 4, (1, 1), (1, 1, 1, 1), 4),
    ((9, 8), 37, (5, 5), 37, (2, 2), (1, 2, 2, 1), 37),
    ((5, 5), 6, (3, 3), 4, (1, 1), (1, 1, 1, 1), 2),
    ((6, 5), 64, (3, 2), 33, (2, 1), (1, 0, 0, 1), 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("bits", [32, 40, 44, 64])
def test_conv2d_matches_numpy(backend, case, bits):
    image, c_in, kernel, c_out, stride, padding, groups = case
    for x, w in every_kind("conv", (2, *image, c_in), (*kernel, c_in // groups, c_out)):
        got = backend.conv2d(*up(backend, x, w), stride, padding, groups, bits)
        same(backend, got, NUMPY.conv2d(x, w, stride, padding, groups, bits))


@pytest.mark.parametrize("bits", [40, 64])
def test_multiply_and_row_dot_match_numpy(backend, bits):
    for shape in ((0,), (1,), (5, 7, 3), (2500,)):
        for x, w in every_kind("multiply", shape, shape):
            agree(backend, "multiply", x, w, bits)
    for rows in ((0, 3), (1, 1), (19, 64), (9, 100), (3, 0)):
        for x, w in every_kind("dot", rows, rows):
            agree(backend, "row_dot", x, w, bits)


def test_operand_downloads_as_its_words(backend):
    x = words("operand", (5, 37))
    operand = backend.operand(backend.upload(x), 64)
    same(backend, operand, x)
    backend.matmul(operand, backend.operand(backend.upload(words("w", (37, 20))), 64), 64)
    same(backend, operand, x)


@pytest.mark.parametrize(("first", "then"), [(32, 64), (64, 32), (40, 44)])
def test_an_operand_serves_products_of_several_widths(backend, first, then):
    x, w = words("several", (20, 40)), words("widths", (40, 20))
    left, right = (backend.operand(array, 64) for array in up(backend, x, w))
    for bits in (first, then):
        same(backend, backend.matmul(left, right, bits), NUMPY.matmul(x, w, bits))


# local steps


@pytest.mark.parametrize("n", SIZES)
def test_local_operations_match_numpy(backend, n):
    for [x] in every_kind("local", n):
        for party in (0, 1):
            agree(backend, "truncate", x, 44, 16, party)
        for bits in (1, 40, 64):
            agree(backend, "reduce", x, bits)
            agree(backend, "add_constant", x, -(2**70) - 3, bits)
            agree(backend, "scale", x, -7, bits)
            agree(backend, "sign_extend", x, bits)
        agree(backend, "shift_signed", x, 13)


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (9, 33), (2, 3, 5)])
def test_argmax_and_smallest_match_numpy(backend, shape):
    for [x] in every_kind("order", shape):
        agree(backend, "argmax_signed", x)
        agree(backend, "smallest_signed", x, 1)


@pytest.mark.parametrize(
    ("window", "stride"), [((2, 2), (2, 2)), ((3, 2), (1, 2)), ((1, 1), (1, 1)), ((7, 5), (1, 1))]
)
def test_window_sum_matches_numpy(backend, window, stride):
    for [x] in every_kind("pool", (2, 7, 5, 3)):
        agree(backend, "window_sum", x, window, stride)


def test_gather_take_and_concat_match_numpy(backend):
    x = words("places", (4, 37))
    index = np.argsort(words("index", (4, 50)) % np.uint64(37), axis=1) % 37
    agree(backend, "gather", x, index)
    agree(backend, "gather", x, index[:, :0])
    y = words("axes", (3, 5, 4))
    for axis in (0, 1, 2, -1):
        agree(backend, "take", y, [2, 0, 0], axis)
        agree(backend, "concat", [y, y], axis)
    agree(backend, "permute", y, (2, 0, 1))
    agree(backend, "counting", 70)
    agree(backend, "zeros", (3, 4))


def test_strided_and_host_arrays_are_made_contiguous(backend):
    x = words("strides", (6, 8))
    [device] = up(backend, x)
    same(backend, backend.reduce(device[:, ::2], 40), NUMPY.reduce(x[:, ::2], 40))
    same(backend, backend.scale(device.T, 3, 64), NUMPY.scale(x.T, 3, 64))
    assert bytes(backend.pack(x[::2], 27)) == bytes(NUMPY.pack(x[::2], 27))


def test_operations_do_not_change_their_arguments(backend):
    x, w = words("kept", (1, 6, 6, 40)), words("weights", (3, 3, 40, 20))
    device = up(backend, x, w)
    backend.conv2d(*device, (1, 1), (1, 1, 1, 1), 1, 44)
    backend.truncate(device[0], 44, 16, 0)
    backend.to_planes(device[0], 44)
    same(backend, device[0], x)
    same(backend, device[1], w)


def test_result_is_written_into_a_strided_out(backend):
    x = words("out", (20, 30))
    [device] = up(backend, x)
    wide = backend.zeros((20, 60))
    assert backend.reduce(device, 13, out=wide[:, ::2]).shape == (20, 30)
    expected = np.zeros((20, 60), dtype=np.uint64)
    expected[:, ::2] = x & np.uint64((1 << 13) - 1)
    same(backend, wide, expected)


# refusals


def test_arguments_that_no_kernel_reads_right_are_refused(backend):
    x = backend.upload(words("x", (20, 20)))
    floats, new = backend.device.upload(np.zeros(3, dtype=np.float64)), backend.new
    image, unit = x[None, :, :, None], (1, 1)
    small = x[:3, :3, None].repeat(2, 2)[..., None]
    refused = [
        (InputError, lambda: backend.reduce(floats, 40)),
        (InputError, lambda: backend.reduce(x, 65)),
        (InputError, lambda: backend.truncate(x, 10, 11, 0)),
        (BadShape, lambda: backend.reduce(x, 40, out=new((3,)))),
        (BadShape, lambda: backend.reduce(x, 40, out=new((20, 40))[:, ::3])),
        (BadShape, lambda: backend.matmul(x, x[:5], 40)),
        (BadShape, lambda: backend.multiply(x, x[:5], 40)),
        (BadShape, lambda: backend.row_dot(x, x[:5], 40)),
        (BadShape, lambda: backend.select(new((1,)), x, x)),
        (BadShape, lambda: backend.conv2d(image, x[:, :, None, None], unit, (0, 0, 0, -1), 1, 40)),
        (BadShape, lambda: backend.conv2d(image, small, unit, (0,) * 4, 1, 8)),
        (BadShape, lambda: backend.gather(x, np.full((20, 1), 20))),
        (BadShape, lambda: backend.gather(x, np.full((19, 1), 0))),
        (BadShape, lambda: backend.take(x, [-1], 0)),
        (BadShape, lambda: backend.window_sum(image, (21, 1), unit)),
        (BadShape, lambda: backend.argmax_signed(x[:, :0])),
        (BadShape, lambda: backend.lookup(new((1, 3, 2)), new((1, 2, 2)), new((3,)))),
        (InputError, lambda: backend.thermometer(new((1, 7, 2)))),
    ]
    for error, call in refused:
        with pytest.raises(error):
            call()
