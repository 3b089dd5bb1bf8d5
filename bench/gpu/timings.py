"""Part `kernels`: each kernel's time next to measured ceilings and float64-limb products."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.gpu import float_limbs
from bench.gpu.results import Results
from bench.gpu.timing import seconds
from gpumpc.ring.backend import n_lanes, packed_bytes
from gpumpc.ring.cupy_backend import CupyBackend
from gpumpc.ring.cupy_backend.operands import limbs_for

KEY = bytes(range(32))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Elements of the memory-bound kernels, product, convolution (B, H, C, N), rate rounds."""

    n: int
    gemm: tuple[int, int, int]
    conv: tuple[int, int, int, int]
    rounds: int
    blocks: int
    least_s: float


# The product is a convolution of 56x56x8 images, 256 channels in and out, 3x3 windows.
FULL = Sizes(1 << 26, (25088, 2304, 256), (8, 56, 256, 256), 4096, 132 * 16, 0.2)
SMALL = Sizes(2048, (64, 64, 64), (1, 5, 20, 17), 2, 2, 0.0)


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Per second: bytes copied (read + written), byte and word multiply-adds, float64 ops / 2."""

    copy: float
    int8: float
    words: float
    float64: float


def words(backend: CupyBackend, shape: Any, seed: int = 1) -> Any:
    """Uniform words on the device."""
    return backend.expand_words("chacha20", bytes([seed]) * 32, shape, 64)


def ceilings(backend: CupyBackend, results: Results, sizes: Sizes) -> Ceilings:
    """The device's highest rates, each measured with the plainest code for it."""
    arrays, least = backend.device.arrays, sizes.least_s
    x = words(backend, (sizes.n,))
    y = arrays.empty_like(x)
    copy = 16 * sizes.n / seconds(backend, lambda: arrays.copyto(y, x), least)
    threads = 256 * sizes.blocks
    out32, out64 = backend.new((threads,), np.uint32), backend.new((threads,))
    blocks, rounds = sizes.blocks, sizes.rounds
    t_mma = seconds(backend, lambda: backend.launch("rate_mma", blocks, out32, rounds), least)
    t_imad = seconds(backend, lambda: backend.launch("rate_imad", blocks, out64, rounds), least)
    side = 4096 if sizes is FULL else 64
    a = arrays.ones((side, side), dtype=arrays.float64)
    t_float = seconds(backend, lambda: a @ a, least)
    int8, words_ = threads / 32 * rounds * 8 * 4096 / t_mma, threads * rounds * 8 / t_imad
    found = Ceilings(copy, int8, words_, side**3 / t_float)
    rates = {f"{name}_per_second": value for name, value in dataclasses.asdict(found).items()}
    results.add("ceilings", **rates)
    return found


def products(backend: CupyBackend, results: Results, sizes: Sizes, top: Ceilings) -> None:
    """Matrix product and convolution: tensor cores, integer pipe, float64 limbs."""
    m, depth, n = sizes.gemm
    x, w = words(backend, (m, depth), 1), words(backend, (depth, n), 2)
    reference = _routes(backend, results, sizes, "gemm", x, w, m * depth * n)
    for bits in (64, 48, 40, 32):
        left, right = backend.operand(x, bits), backend.operand(w, bits)
        time = seconds(backend, functools.partial(backend.matmul, left, right, bits), sizes.least_s)
        _product_row(results, f"limb_gemm_{bits}", time, m * depth * n, bits, top, reference)

    def cut_and_multiply() -> Any:
        return backend.matmul(backend.operand(x, 64), backend.operand(w, 64), 64)

    time = seconds(backend, cut_and_multiply, sizes.least_s)
    _product_row(results, "limb_gemm_64_cut_anew", time, m * depth * n, 64, top, reference)
    out = backend.new((m, n))
    blocks = -(-m // 64) * -(-n // 64)
    scalars = m, depth, n, (1 << 64) - 1
    plain = functools.partial(backend.launch, "ring_gemm", blocks, x, w, out, None, None, *scalars)
    time = seconds(backend, plain, sizes.least_s)
    results.add(
        "ring_gemm",
        seconds_total=time,
        multiply_adds_per_second=m * depth * n / time,
        share_of_words_rate=m * depth * n / time / top.words,
    )
    b, side, c, channels = sizes.conv
    image, filters = words(backend, (b, side, side, c), 3), words(backend, (3, 3, c, channels), 4)
    count = b * side * side * 9 * c * channels
    reference = _routes(backend, results, sizes, "conv", image, filters, count)
    for bits in (64, 40):
        left, right = backend.operand(image, bits), backend.operand(filters, bits)
        place = left, right, (1, 1), (1, 1, 1, 1), 1, bits
        time = seconds(backend, functools.partial(backend.conv2d, *place), sizes.least_s)
        _product_row(results, f"limb_conv_{bits}", time, count, bits, top, reference)


def _routes(
    backend: CupyBackend, results: Results, sizes: Sizes, kind: str, x: Any, w: Any, count: int
) -> dict[str, float]:
    """Seconds of the float64 routes, after one check that they give the same words."""
    arrays, found = backend.device.arrays, {}
    call = float_limbs.matmul if kind == "gemm" else float_limbs.conv2d
    if kind == "gemm":
        ours = backend.matmul(x, w, 64)
    else:
        ours = backend.conv2d(x, w, (1, 1), (1, 1, 1, 1), 1, 64)
    for route in float_limbs.DIGITS:
        same = bool((call(arrays, x, w, route) == ours).all())
        found[route] = seconds(backend, functools.partial(call, arrays, x, w, route), sizes.least_s)
        results.add(
            f"float64_{kind}_{route}",
            seconds_total=found[route],
            multiply_adds_per_second=count / found[route],
            same_words=same,
        )
    return found


def _product_row(
    results: Results,
    name: str,
    time: float,
    count: int,
    bits: int,
    top: Ceilings,
    reference: dict[str, float],
) -> None:
    limbs = limbs_for(bits)
    pairs = limbs * (limbs + 1) // 2
    results.add(
        name,
        seconds_total=time,
        k=bits,
        multiply_adds_per_second=count / time,
        share_of_int8_rate=count / time * pairs / top.int8,
        times_faster_than_six=reference["six"] / time,
        times_faster_than_sixteen=reference["sixteen"] / time,
    )


Case = tuple[str, Callable[[], Any], int]


def passes(backend: CupyBackend, sizes: Sizes) -> Iterator[Case]:
    """(kernel, one launch of it, bytes it must move) of the memory-bound kernels."""
    n, lanes = sizes.n, n_lanes(sizes.n)
    blocks, stream_blocks = -(-n // 1024), -(-8 * n // 16384)

    def case(name: str, n_bytes: int, n_blocks: int, *arguments: Any) -> Case:
        return name, functools.partial(backend.launch, name, n_blocks, *arguments), n_bytes

    x, y, z = (words(backend, (n,), seed) for seed in (1, 2, 3))
    out, lane = backend.new((n,)), words(backend, (lanes,), 4)
    mask = (1 << 40) - 1
    yield case("truncate", 16 * n, blocks, x, out, n, 8191, mask, 13)
    yield case("affine", 16 * n, blocks, x, out, n, 1, 0, mask)
    yield case("add", 24 * n, blocks, x, y, out, n, mask)
    yield case("product", 24 * n, blocks, x, y, out, n, mask)
    yield case("beaver", 32 * n, blocks, x, y, z, x, y, out, n, 1, mask)
    yield case("select_words", 24 * n, blocks, lane, x, y, out, n)
    yield case("from_bit", 8 * n, blocks, lane, out, n)
    packed = backend.new((packed_bytes(n, 40),), np.uint8)
    yield case("pack", 13 * n, -(-64 * lanes // 1024), x, packed, n, 40)
    yield case("unpack", 13 * n, blocks, packed, out, n, 40)
    planes = backend.new((27, lanes))
    yield case("to_planes", 8 * n + 27 * 8 * lanes, blocks, x, planes, n, lanes, 27)
    limb_planes, rows = backend.new((5, n // 64, 64), np.uint8), (n // 64, 64, 64)
    yield case("split_rows", 13 * n, blocks, x, limb_planes, *rows, 5)
    yield case("combine", 18 * n, blocks, x, packed, limb_planes, None, *rows, 40, 5, mask)
    key = range(8)
    yield case("chacha_words", 8 * n, stream_blocks, out, n, 8, mask, *key)
    masked = x, packed, None, None
    yield case("mask_words", 13 * n, stream_blocks, *masked, n, 40, 8, 1, mask, *key)
    yield case("mask_add", 16 * n, stream_blocks, x, out, n, 8, 1, mask, *key)
    yield case("add_packed", 21 * n, blocks, x, packed, out, n, 40, mask)
    j = max(1, lanes // 64)
    digits, tables, below = backend.new((9, 3, j)), backend.new((9, 7, j)), backend.new((j,))
    lt, eq = backend.new((9, j)), backend.new((9, j))
    leaves = -(-j // 256) * 9
    yield case("thermometer", 10 * 8 * 9 * j, leaves, digits, tables, j, 3, 9)
    yield case("lookup", 12 * 8 * 9 * j, leaves, tables, digits, below, lt, eq, j, 3, 9)
    image = x[: n // 64 * 64].reshape(1, 8, n // 512, 64)
    taps = words(backend, (3, 3, 1, 64), 5)
    yield "depthwise", lambda: backend.conv2d(image, taps, (1, 1), (1, 1, 1, 1), 64, 40), 16 * n


# Bound by the integer pipe, whatever the memory does.
COMPUTE_BOUND = {"chacha_words", "mask_words", "mask_add"}


def run(backend: CupyBackend, results: Results, sizes: Sizes = FULL) -> None:
    """All timings."""
    top = ceilings(backend, results, sizes)
    for name, call, n_bytes in passes(backend, sizes):
        time = seconds(backend, call, sizes.least_s)
        bound, rate = "integer pipe" if name in COMPUTE_BOUND else "memory", n_bytes / time
        shares = {"bytes_per_second": rate, "share_of_copy_rate": rate / top.copy}
        results.add(name, seconds_total=time, **shares, bound_by=bound)
    products(backend, results, sizes, top)
