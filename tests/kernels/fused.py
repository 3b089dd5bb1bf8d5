"""Protocol steps in one kernel each, against the NumPy operations that they stand for."""

import functools
import itertools

import numpy as np
import pytest

from gpumpc.errors import BadFrame, BadShape
from gpumpc.protocols.chains import Node
from gpumpc.protocols.linear import Convolution, MatMul
from gpumpc.ring.backend import Factors, LiftLanes, n_lanes
from gpumpc.ring.fixed_point import mask
from gpumpc.shares import Masked
from tests.kernels.vectors import KEY, KINDS, NUMPY, SIZES, agree, every_kind, same, up, words


def lanes(name, planes, n):
    return NUMPY.expand_lanes("chacha20", name.encode().ljust(32, b"."), planes, n)


# openings


@pytest.mark.parametrize("n", [*SIZES, 5000])
@pytest.mark.parametrize("bits", [1, 8, 13, 27, 32, 40, 44, 64])
def test_masked_words_are_packed_in_one_pass(backend, n, bits):
    drawn = NUMPY.expand_words("chacha20", KEY, (n,), bits)
    for kind in KINDS:
        x = words("masked", n, kind)
        for sign, expected in ((1, x + drawn), (-1, x - drawn)):
            packed = backend.pack_masked(backend.upload(x), "chacha20", KEY, bits, sign)
            assert bytes(packed) == bytes(NUMPY.pack(expected, bits))
        masked, packed = backend.mask_and_pack(backend.upload(x), "chacha20", KEY, bits)
        same(backend, masked, (x + drawn) & mask(bits))
        assert bytes(packed) == bytes(NUMPY.pack(x + drawn, bits))
        mask_words, masked, packed = backend.draw_and_pack(backend.upload(x), "chacha20", KEY, bits)
        same(backend, mask_words, drawn)
        same(backend, masked, (x - drawn) & mask(bits))
        assert bytes(packed) == bytes(NUMPY.pack(x - drawn, bits))


@pytest.mark.parametrize("n", SIZES)
def test_xor_uniform_matches_numpy(backend, n):
    x = lanes("x", 5, n)
    expected = x ^ NUMPY.expand_lanes("chacha20", KEY, 5, n)
    same(backend, backend.xor_uniform(backend.upload(x), "chacha20", KEY, n), expected)


@pytest.mark.parametrize("shape", [(1, 1), (5, 32), (3, 33), (2, 3, 7), (4, 64), (0, 5), (65, 3)])
@pytest.mark.parametrize("bits", [27, 40, 44, 64])
def test_combine_makes_limb_planes_of_an_opening(backend, shape, bits):
    for own, theirs in every_kind("combine", shape, shape):
        operand = backend.combine(backend.upload(own), NUMPY.pack(theirs, bits), bits)
        expected = (own + (theirs & mask(bits))) & mask(bits)
        same(backend, operand, expected)
        planes = np.asarray(backend.device.download(operand.rows(4)))
        padded = np.zeros((int(np.prod(shape[:-1])), planes.shape[2]), dtype=np.uint64)
        padded[:, : shape[-1]] = expected.reshape(-1, shape[-1])
        for limb, plane in enumerate(planes):
            assert np.array_equal(plane, (padded >> np.uint64(8 * limb)).astype(np.uint8))


def test_opening_of_a_wrong_size_is_refused(backend):
    with pytest.raises(BadFrame, match="were expected"):
        backend.combine(backend.upload(words("x", (3, 5))), memoryview(bytes(14 * 5)), 40)


# Beaver products


@pytest.mark.parametrize("party", [0, 1])
def test_beaver_products_match_the_formula(backend, party):
    public = np.uint64(1 - party)
    for e, f, a, b, c in every_kind("beaver", *[(700,)] * 5):
        expected = (public * e * f + e * b + a * f + c) & mask(62)
        same(backend, backend.beaver(*up(backend, e, f, a, b, c), party, 62), expected)
    for e, f, a, b, c in every_kind("matrix", (20, 40), (40, 70), (20, 40), (40, 70), (20, 70)):
        expected = (public * (e @ f) + e @ b + a @ f + c) & mask(44)
        same(backend, beaver(MatMul(), backend, (e, f, a, b, c), party, 44), expected)


@pytest.mark.parametrize("party", [0, 1])
@pytest.mark.parametrize("channels", [(40, 20, 1), (3, 17, 1), (6, 6, 6), (4, 6, 2)])
def test_beaver_convolutions_match_the_formula(backend, party, channels):
    c_in, c_out, groups = channels
    geometry = ((2, 1), (1, 0, 1, 1), groups)
    x, w = (2, 5, 6, c_in), (3, 3, c_in // groups, c_out)

    def conv(left, right):
        return NUMPY.conv2d(left, right, *geometry, 64)

    for e, f, a, b in every_kind("convolution", x, w, x, w):
        c = words("c", conv(e, f).shape)
        expected = (np.uint64(1 - party) * conv(e, f) + conv(e, b) + conv(a, f) + c) & mask(44)
        operator = Convolution(w[:2], *geometry)
        same(backend, beaver(operator, backend, (e, f, a, b, c), party, 44), expected)


def beaver(operator, backend, values, party, bits):
    """As `BeaverProduct` asks for it."""
    *operands, c = up(backend, *values)
    e, f, a, b = (backend.operand(value, bits) for value in operands)
    return operator.beaver(backend, Masked(e, a, bits, 0), Masked(f, b, bits, 0), c, party, bits)


def test_matmul_sum_refuses_wrong_shapes(backend):
    x, w = backend.upload(words("x", (20, 30))), backend.upload(words("w", (30, 40)))
    with pytest.raises(BadShape, match="an entry a column"):
        backend.matmul_sum([(x, w)], 44, None, backend.new((39,)))
    with pytest.raises(BadShape, match="were to be added"):
        backend.matmul_sum([(x, w)], 44, backend.new((20, 41)))


# trees


def factor_shares(node, masks):
    """Products of masks in dealing order."""
    subsets = ([masks[:, i] for i in subset] for subset in node.products)
    return np.stack([functools.reduce(np.bitwise_and, subset) for subset in subsets], axis=1)


@pytest.mark.parametrize("fan_in", [2, 3, 4])
@pytest.mark.parametrize("keep_eq", [False, True])
@pytest.mark.parametrize("n", [1, 65, 2500, 17000])
def test_tree_level_matches_the_formula(backend, fan_in, keep_eq, n):
    node, count, row = Node(fan_in, keep_eq), 3, n_lanes(n)
    masks = lanes("masks", count * node.n_masks, n).reshape(count, node.n_masks, row)
    products = factor_shares(node, masks)
    before = backend.launch.launched["tree_deal"]
    same(backend, backend.mask_products(backend.upload(masks), node.products), products)
    assert backend.launch.launched["tree_deal"] == before + 1
    factors = lanes("factors", count * node.n_masks, n).reshape(masks.shape)
    opened = factors ^ masks
    results = []
    lt_terms, eq_terms = node.terms[: fan_in - 1], node.terms[fan_in - 1 :]
    sums = [lt_terms, eq_terms] if keep_eq else [lt_terms]
    for party in (0, 1):
        own = lanes("share", count * node.n_masks, n).reshape(masks.shape)
        part = lanes("part", count * len(node.products), n).reshape(products.shape)
        if party:
            own, part = own ^ masks, part ^ products
        expected = NUMPY.masked_products(opened, own, part, sums, node.products, party)
        before = backend.launch.launched["tree_finish"]
        got = backend.masked_products(*up(backend, opened, own, part), sums, node.products, party)
        same(backend, got, expected)
        assert backend.launch.launched["tree_finish"] == before + 1
        results.append(expected)
    # and both parties' shares are the node's formula in the clear
    lt = np.zeros((count, row), dtype=np.uint64)
    for j in range(1, fan_in):
        eq = functools.reduce(np.bitwise_and, (factors[:, i] for i in range(j)))
        lt ^= eq & factors[:, node.n_eq + j - 1]
    assert np.array_equal(results[0][0] ^ results[1][0], lt)


def test_masked_products_of_any_sums_match_numpy(backend):
    """The contract names any sums; those of no node are written out."""
    masks, opened, dealt = (
        lanes(name, 3 * 4, 700).reshape(3, 4, -1) for name in ("masks", "opened", "dealt")
    )
    sums: list[list[Factors]] = [[(0,), (1, 3)], [(0, 2, 3)]]
    products: list[Factors] = [(0, 2), (0, 3), (1, 3), (2, 3)]
    dealt_all = np.concatenate([dealt, dealt[:, :1]], axis=1)
    for party in (0, 1):
        named = [*products, (0, 2, 3)]
        agree(backend, "masked_products", opened, masks, dealt_all, sums, named, party)
    agree(backend, "mask_products", masks, products)
    # the products of a node, of masks that are more
    agree(backend, "mask_products", masks, [(0, 1)])


def test_nodes_that_do_not_fit_are_refused(backend):
    for match, *shapes in (
        ("factors", (1, 4, 2), (1, 4, 2), (1, 1, 2)),
        ("products", (1, 3, 2), (1, 3, 2), (1, 4, 3)),
    ):
        with pytest.raises(BadShape, match=match):
            backend.masked_products(*map(backend.new, shapes), [[(0, 1)]], [(0, 1)], 0)


# lifts and selections


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("candidates", [1, 2])
@pytest.mark.parametrize("party", [0, 1])
def test_lift_matches_the_formula(backend, n, candidates, party):
    low, high = 27, 40
    shares = words("shares", (candidates, n)) & mask(low)
    products = words("products", (candidates, n)) & mask(high - low)
    masks, theirs = lanes("masks", candidates, n), lanes("theirs", candidates, n)
    kept = lanes("kept", 1, n)[0]
    tops = np.stack([NUMPY.bit(row, low - 1) for row in shares])
    with pytest.raises(BadShape, match="candidates"):
        backend.mask_top_bits(up(backend, *shares), backend.new((candidates + 1, n_lanes(n))), low)
    got = backend.mask_top_bits(up(backend, *shares), backend.upload(masks), low)
    same(backend, got[0], tops)
    same(backend, got[1], tops ^ masks)
    kept_lane = kept if candidates == 2 else None
    planes = LiftLanes(tops, tops ^ masks, theirs, masks, kept_lane)
    expected = NUMPY.lift(list(shares), planes, products, party, low, high)
    on_device = LiftLanes(*(None if lane is None else backend.upload(lane) for lane in planes))
    got = backend.lift(up(backend, *shares), on_device, backend.upload(products), party, low, high)
    same(backend, got, expected)


@pytest.mark.parametrize("n", SIZES)
def test_candidates_and_add_flipped_match_numpy(backend, n):
    for v, y, t, t_r in every_kind("candidates", n, n, n, n):
        got = backend.candidates(*up(backend, y, t, t_r, v), 27)
        for one, expected in zip(got, NUMPY.candidates(y, t, t_r, v, 27), strict=True):
            same(backend, one, expected)
    lane = lanes("c", 1, n)[0]
    for party, (inside, t) in itertools.product((0, 1), every_kind("clamp", n, n)):
        agree(backend, "add_flipped", inside, lane, t, 6 << 13, party, 40)


@pytest.mark.parametrize("n", SIZES)
def test_add_matches_the_sum(backend, n):
    for x, y in every_kind("residual", n, n):
        same(backend, backend.sum_of(*up(backend, x, y), 40), (x + y) & mask(40))


@pytest.mark.parametrize("cipher", ["chacha20", "aes128ctr"])
@pytest.mark.parametrize("n", [*SIZES, 5000])
def test_add_uniform_and_add_packed_match_numpy(backend, cipher, n):
    for bits, sign in itertools.product((1, 13, 27, 40, 64), (1, -1)):
        x = words("added", n)
        expected = NUMPY.add_uniform(x, cipher, KEY, bits, sign)
        same(backend, backend.add_uniform(backend.upload(x), cipher, KEY, bits, sign), expected)
        packed = NUMPY.pack(words("came", n), bits)
        agree(backend, "add_packed", x, packed, bits)
    planes = lanes("planes", 3, n)
    agree(backend, "xor_uniform", planes, cipher, KEY, n)
    agree(backend, "from_lanes", planes, n)
    for bit in (0, 1):
        agree(backend, "constant_lane", bit, n)
