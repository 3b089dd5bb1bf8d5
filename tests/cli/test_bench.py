"""`gpumpc bench` on small sizes: right results, declared bytes, one schema, on any backend."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from bench.schema import check_row
from gpumpc.cli.main import app
from gpumpc.measure.workloads import NETWORKS, WORKLOADS, Case, case_of
from gpumpc.params import Params
from gpumpc.ring.backend import lane_bytes, packed_bytes

# Arguments that keep a run short, and the largest error against float64 at f = 13: an ulp or two,
# times what is summed.
SMALL = {
    "relu": (["--n", "999"], 2e-4),
    "relu6": (["--n", "999"], 2e-4),
    "mul": (["--n", "999"], 1e-3),
    "matmul": (["--batch-size", "7"], 0.02),
    "conv": (["--batch-size", "1"], 0.02),
    "maxpool": (["--batch-size", "1"], 2e-4),
    "retrieval": (["--n", "300", "--batch-size", "2"], 0.0),
}


def run(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["bench", *arguments, "--runs", "1", "--json"])
    assert done.exit_code == 0, done.output
    row: dict[str, Any] = json.loads(done.output)
    return row


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("workload", SMALL)
def test_small_workload_prints_a_valid_exact_row(workload, backend):
    arguments, error = SMALL[workload]
    row = run(workload, *arguments, "--backend", backend)
    check_row(row)
    assert (row["workload"], row["backend"], row["n_runs"]) == (workload, backend, 1)
    assert 0 <= row["max_error"] <= error
    assert row["seconds_total"] > 0 and row["seconds_online"] > 0


def test_every_workload_except_networks_is_tested():
    assert {*WORKLOADS} - {*SMALL} == {"lenet", "vgg", "lite0", "resnet18"} == {*NETWORKS}


@pytest.mark.parametrize("net", [(), ("--net", "loopback")], ids=["threads", "processes"])
def test_search_equals_the_plaintext_search(net):
    row = run("retrieval", "--n", "1000", *net)
    check_row(row)
    assert (row["workload"], row["batch_size"]) == ("retrieval", 1)
    assert (row["max_error"], row["wrong"]) == (0.0, 0)
    assert row["online_bytes"] > 0 and row["offline_bytes"] > 0 and row["rounds"] > 0


def test_wrong_neighbours_are_counted():
    case = case_of("retrieval", 50, 2, Params())
    keys = keys_in_the_clear(case)
    assert case.errors(keys) == {"max_error": 0.0, "wrong": 0}
    keys[1, 3:5] = keys[1, [4, 3]]
    found = case.errors(keys)
    assert found["wrong"] == 2 and found["max_error"] > 0


def keys_in_the_clear(case: Case) -> npt.NDArray[np.float64]:
    """Squared distance * 2^6 + position, of integers: the ten smallest of each query, ascending."""
    queries, rows = (np.rint(x * 2.0**10) for x in case.inputs)
    distances = ((queries[:, None] - rows) ** 2).sum(axis=2)
    return np.sort(distances * 64 + np.arange(len(rows)), axis=1)[:, :10]


def test_retrieval_defaults_to_10000_rows_of_128():
    case = case_of("retrieval", 0, 0, Params())
    assert [x.shape for x in case.inputs] == [(1, 128), (10_000, 128)]


def test_bytes_of_a_multiplication():
    """Two operands opened at 40 bits and one lifted from 27: docs/protocols.md sections 3 and 5."""
    n = 6400
    row = run("mul", "--n", str(n))
    assert row["online_bytes"] == 2 * packed_bytes(n, 40) + lane_bytes(n)
    assert row["offline_bytes"] == packed_bytes(n, 40) + packed_bytes(n, 13)
    assert row["rounds"] == 3


def test_bytes_of_a_convolution():
    """One opening of the input, one correction an output; F was opened with the weights."""
    row = run("conv", "--batch-size", "1", "--ring-bits", "44", "--frac-bits", "16")
    assert row["online_bytes"] == row["offline_bytes"] == packed_bytes(32 * 32 * 64, 44)
    assert row["rounds"] == 1


def test_an_unknown_workload_or_backend_is_an_error():
    for arguments in (["resnet99"], ["relu", "--backend", "abacus"]):
        assert CliRunner().invoke(app, ["bench", *arguments, "--json"]).exit_code != 0


RETRIEVAL = ["retrieval", "--n", "300", "--net", "loopback"]
REFUSED = [(["mul"], "give --net"), (RETRIEVAL, "run one at a time")]


@pytest.mark.parametrize(("arguments", "why"), REFUSED)
def test_in_flight_needs_net_and_no_retried_selection(arguments, why):
    done = CliRunner().invoke(app, ["bench", *arguments, "--in-flight", "2"])
    assert done.exit_code == 1 and why in " ".join(done.output.split())
