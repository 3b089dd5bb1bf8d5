"""Both servers and the dealer of a small network through the kernels: NumPy's bits."""

import collections
from typing import Any, cast

import numpy as np
import pytest

from bench.gpu.graphs import NETWORKS, tiny
from bench.gpu.parties import Engine, Parties, Run, random_shares, random_weights
from gpumpc.params import Params
from gpumpc.program.lowering import compile_program
from gpumpc.protocols.linear import Open
from gpumpc.ring.backend import as_backend
from gpumpc.ring.cupy_backend import CupyBackend
from gpumpc.ring.numpy_backend import NumpyBackend
from tests.kernels.conftest import backend_of, device_names

PROGRAM = {
    k: compile_program(tiny(), Params(ring_bits=k, frac_bits=13, cipher="chacha20"), batch_size=4)
    for k in (40, 44)
}


def parties(*backends: Any) -> Parties:
    dealer, *servers = map(as_backend, backends)
    return Parties(dealer, (servers[0], servers[1]))


def run(parties: Parties, k: int) -> list[Run]:
    program = PROGRAM[k]
    engine = Engine(program, random_weights(program, 1), parties)
    for backend in cast(Any, parties.servers):
        if isinstance(backend, CupyBackend):
            backend.launch.launched.clear()  # counts what runs batches, not what opened the weights
    return [engine.run(random_shares(program, seed)) for seed in (2, 3)]


@pytest.fixture(scope="module", params=[40, 44])
def both_runs(request):
    numpy_runs = run(parties(*[NumpyBackend()] * 3), request.param)
    # a device each, in three orders where they are emulated
    three = [backend_of(name) for name in (device_names() * 3)[:3]]
    return (numpy_runs, run(parties(*three), request.param), three, request.param)


def test_shares_and_messages_equal_those_of_numpy(both_runs):
    for expected, got in zip(*both_runs[:2], strict=True):
        assert got.corrections == expected.corrections
        assert got.messages == expected.messages and len(got.messages) > 20
        for ours, theirs in zip(got.shares, expected.shares, strict=True):
            assert np.array_equal(ours, theirs)
        assert got.cost == expected.cost


def test_two_batches_differ(both_runs):
    first, second = both_runs[1]
    assert first.corrections != second.corrections and first.messages != second.messages


def test_tensor_core_kernels_run_for_qualifying_products(both_runs):
    """The tensor-core kernel ran for every product that qualifies, the baseline for none."""
    _, _, backends, k = both_runs
    limbs = {40: 5, 44: 6}[k]
    n_batches = 2
    for i, backend in enumerate(backends):
        ran = backend.launch.launched
        # the dealer multiplies once a layer, a server twice: E W_p and A_p F, on tensor cores in
        # one launch
        times = n_batches * (1 if i == 0 else 2)
        # two wide 3x3 convolutions by windows, the narrow first one and the 1x1 as products; four
        # items are too few rows for the linear layer, which goes to the kernel for few rows
        assert ran[f"limb_conv_l{limbs}"] == 2 * n_batches
        assert ran[f"limb_gemm_l{limbs}"] == 2 * n_batches
        assert ran["split_windows"] == times
        assert ran["depthwise"] == times
        assert ran["distances"] == times
        assert not ran["ring_conv"] and not ran["ring_gemm"]


def test_openings_and_corrections_take_one_kernel_each(both_runs):
    """What is masked is packed where its mask is made; nothing goes through memory to be packed."""
    program, backends = PROGRAM[both_runs[3]], both_runs[2]
    dealer, *servers = (backend.launch.launched for backend in backends)
    n_batches, n_operands = 2, sum(isinstance(step, Open) for step in program.steps)
    for ran in servers:
        assert not ran["pack"] and not ran["take_bit"]
        assert ran["combine"] == n_batches * n_operands
        # as many comparisons: two clamps, two ReLUs, two levels of a maximum
        assert ran["mask_words"] == 2 * ran["combine"]
        assert ran["lift_mask"] == ran["lift_finish"] > 0
        assert ran["tree_finish"] == dealer["tree_deal"] > 0
    assert not dealer["pack"]
    # every correction of words leaves the dealer so, and reaches server 1 unpacked or added at once
    ran = servers[1]
    one_way = ran["unpack"] + ran["add_packed"] - (ran["mask_words"] - ran["combine"])
    assert dealer["mask_words"] == one_way > 0


def test_other_products_run_on_the_integer_kernels(one_backend):
    ran = one_backend.launch.launched
    before = collections.Counter(ran)
    zeros, place = one_backend.zeros, ((1, 1), (0, 0, 0, 0))
    x = zeros((2, 5, 5, 6))
    one_backend.conv2d(x, zeros((3, 3, 3, 4)), *place, 2, 40)  # groups
    one_backend.conv2d(x, zeros((3, 3, 6, 8)), *place, 1, 40)  # few channels
    one_backend.matmul(zeros((20, 15)), zeros((15, 20)), 40)  # few terms
    assert collections.Counter(ran) - before == {"ring_conv": 2, "ring_gemm": 1}


def test_parties_may_mix_backends(both_runs):
    """A server on NumPy and one on kernels understand each other."""
    expected, _, backends, k = both_runs
    mixed = run(parties(NumpyBackend(), backends[1], NumpyBackend()), k)
    assert [r.messages for r in mixed] == [r.messages for r in expected]


@pytest.mark.parametrize("name", NETWORKS)
def test_benchmarked_networks_compile(name):
    program = compile_program(NETWORKS[name](), Params(cipher="chacha20"), batch_size=1)
    known = {"lite0": 4_652_008, "resnet18": 11_684_712, "resnet50": 25_530_472, "vgg16": None}
    n_weights, specs = known[name], program.weights.values()
    total = sum(int(np.prod(spec.shape)) + int(np.prod(spec.bias_shape)) for spec in specs)
    assert n_weights is None or abs(total - n_weights) / n_weights < 0.01


def test_network_runs_on_cupy_backend(both_runs):
    assert all(type(backend) is CupyBackend for backend in both_runs[2])


def test_forked_backend_uses_operands_of_its_parent(one_backend):
    """In every form that a kernel reads."""
    forked = CupyBackend(one_backend.device.fork())
    rng = np.random.default_rng(5)
    shapes = (2, 6, 6, 32), (3, 3, 32, 20), (20, 40)
    words = [rng.integers(0, 1 << 40, shape, dtype=np.uint64) for shape in shapes]
    x, w, v = (one_backend.operand(one_backend.upload(array), 40) for array in words)
    geometry = ((1, 1), (1, 1, 1, 1), 1, 40)
    own = forked.operand(forked.upload(words[0]), 40)
    for left in (x, own):
        got = forked.download(forked.conv2d(left, w, *geometry))
        assert np.array_equal(got, NumpyBackend().conv2d(words[0], words[1], *geometry))
    flat = words[0].reshape(-1)[:340].reshape(17, 20)
    rows = forked.operand(forked.upload(flat), 40)
    got = forked.download(forked.matmul(rows, v, 40))
    assert np.array_equal(got, NumpyBackend().matmul(flat, words[2], 40))
    got = forked.download(forked.multiply(v, v, 40))
    assert np.array_equal(got, (words[2] * words[2]) & np.uint64(2**40 - 1))
