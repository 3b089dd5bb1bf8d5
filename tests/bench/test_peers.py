"""The comparison by its parts: no peer is needed for these."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bench.machine import revision
from bench.peers import __main__ as peers
from bench.peers import child_pipe, engines
from bench.peers import setup as peer_setup
from bench.peers.engines import EngineFailed, Measured, Peer, last_words, python_of
from bench.peers.ours import channels_last, model_arrays, plan_of, ring_of_product
from bench.peers.peer_workloads import WORKLOADS, Layer, Workload, draw, evaluate, load, names, save
from bench.peers.run_spu import channels_last as jax_arrays
from bench.peers.run_spu import rounds_in
from bench.peers.table import OURS, add_ratios, failed_row, report_of, row_of, table_of
from bench.peers.wan import computed_row
from bench.schema import check_row
from gpumpc.measure.relay import NETWORKS, Shape
from gpumpc.params import Params
from gpumpc.program.compiler import program_of

SMALL = Workload("relu", (4,), 8.0, (Layer("relu"),))


def measured(seconds: float, digest: str = "a", **changes: Any) -> Measured:
    values: dict[str, Any] = {
        "seconds_total": seconds,
        "seconds_online": None,
        "online_bytes": 100,
        "offline_bytes": None,
        "opened_digest": digest,
        "output": np.zeros(4),
        "peak_memory_bytes": {"party_0": 7},
    }
    return Measured(**values | changes)


def rows() -> list[dict[str, Any]]:
    exact = np.zeros(4)
    first = measured(0.1, "a", seconds_online=0.05, offline_bytes=9)
    ours = [first, measured(0.3, "b", seconds_online=0.07)]
    params = {"k": 44, "f": 16, "backend": "numpy"}
    made = [
        row_of(SMALL, OURS, ours, 4, exact, params, {"bounds": "certified"}),
        row_of(SMALL, "crypten", [measured(4.0)], 36, exact, {"f": 16}, {}),
        row_of(SMALL, "spu", [measured(2.0, why_no_message="why")], None, exact, {"f": 16}, {}),
    ]
    add_ratios(made)
    return made


def case_arrays(name: str) -> dict[str, Any]:
    """The arrays of a case; those of a network come from its model, which needs torch."""
    if WORKLOADS[name].is_network:
        pytest.importorskip("torch", reason="the model's arrays are torch's")
    return peers.case_arrays(WORKLOADS[name], seed=0)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_engine_gets_the_same_case(name: str, tmp_path: Path) -> None:
    work = WORKLOADS[name]
    arrays = case_arrays(name)
    assert {*names(work)} == {*arrays}
    save(work, arrays, tmp_path / "case.npz")
    loaded = load(tmp_path / "case.npz")
    assert all(np.array_equal(loaded[key], array) for key, array in arrays.items())
    again = draw(work, seed=0)
    assert np.array_equal(again["x"], arrays["x"])
    assert not np.array_equal(draw(work, seed=4)["x"], arrays["x"])


def test_case_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are wanted"):
        save(SMALL, {"x": np.zeros(5)}, tmp_path / "case.npz")


@pytest.mark.parametrize("name", ["lenet", "maxpool", "conv", "matmul"])
def test_our_plan_computes_the_reference_result(name: str) -> None:
    """Our graph, channels last, and the definition, channels first, agree in float64."""
    work, arrays = WORKLOADS[name], case_arrays(name)
    few = {**arrays, "x": arrays["x"][:2]}
    compiled = plan_of(work, arrays, Params(ring_bits=44, frac_bits=16))
    ours = compiled.evaluate(channels_last(few["x"]))
    exact = evaluate(work, few)
    np.testing.assert_allclose(ours, channels_last(exact), atol=1e-6)


@pytest.mark.parametrize("name", ["conv", "matmul"])
def test_our_products_keep_the_peers_fraction_bits(name: str) -> None:
    work, params = WORKLOADS[name], Params(ring_bits=44, frac_bits=16)
    compiled = plan_of(work, case_arrays(name), params)
    result = program_of(compiled.record, 2).result
    assert (result.frac, result.bits) == (16, 28)


def test_model_arrays_are_in_the_order_of_layers() -> None:
    pytest.importorskip("torch", reason="the model's arrays are torch's")
    work = WORKLOADS["vgg"]
    arrays = model_arrays(work)
    weights = {f"{i}.weight": layer.weight for i, layer in enumerate(work.layers) if layer.weight}
    shapes = {name: array.shape for name, array in arrays.items()}
    assert {name: shapes[name] for name in shapes if name.endswith("weight")} == weights


def test_arrays_for_jax_are_channels_last() -> None:
    work = WORKLOADS["conv"]
    turned = jax_arrays(work, draw(work, 0))
    assert (turned["x"].shape, turned["0.weight"].shape) == ((16, 32, 32, 64), (3, 3, 64, 64))


def test_product_of_two_operands_has_room_for_three_fractions() -> None:
    assert ring_of_product(Params(ring_bits=44, frac_bits=16)) == Params(ring_bits=49, frac_bits=16)
    assert ring_of_product(Params(ring_bits=60, frac_bits=13)).ring_bits == 60


def test_rows_keep_the_schema_and_take_medians() -> None:
    for entry in rows():
        check_row(entry)
    ours = rows()[0]
    assert ours["seconds_total"] == pytest.approx(0.2)
    assert ours["seconds_online"] == pytest.approx(0.06)
    assert ours["peak_memory"] == {"party_0_bytes": 7}
    assert ours["items_per_second"] == pytest.approx(20)
    check_row(failed_row(SMALL, "spu", "not installed"))


def test_ratios_are_against_the_better_peer() -> None:
    ours, crypten, spu = rows()
    assert (ours["better_peer"], ours["times_better_peer"]) == ("spu", pytest.approx(10))
    assert crypten["gpumpc_is_faster"] == pytest.approx(20)
    assert spu["gpumpc_is_faster"] == pytest.approx(10)


def test_extra_rows_of_ours_do_not_change_the_headline() -> None:
    made = rows()
    made.insert(1, {**made[0], "seconds_total": 0.01})
    add_ratios(made)
    assert made[1]["times_better_peer"] == pytest.approx(200)
    assert made[3]["gpumpc_is_faster"] == pytest.approx(10)
    report = report_of(made, {"net": "loopback"})
    check_row(report)
    assert report["times"] == {"relu": pytest.approx(10)}
    assert report["times_crypten"] == {"relu": pytest.approx(20)}
    assert report["times_crypten_online"] == {"relu": pytest.approx(4 / 0.06)}
    assert report["error_over_crypten"] == {}


def test_variant_is_parsed_from_its_text() -> None:
    assert str(peers.Variant.of("40:13")) == "gpumpc k=40 f=13"
    assert str(peers.Variant.of("44:16:numpy")) == "gpumpc k=44 f=16 numpy"
    with pytest.raises(ValueError, match="unpack"):
        peers.Variant.of("44")


def test_peer_that_did_not_run_gives_no_ratio() -> None:
    made = [*rows()[:1], failed_row(SMALL, "spu", "not installed")]
    del made[0]["times_better_peer"]
    add_ratios(made)
    assert "times_better_peer" not in made[0]


def test_same_randomness_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="same randomness"):
        row_of(SMALL, "spu", [measured(1.0), measured(2.0)], None, np.zeros(4), {}, {})


def test_error_is_the_largest_of_all_runs() -> None:
    runs = [measured(1.0), measured(1.0, "b", output=np.array([0.0, 0.5, 0.0, 0.0]))]
    assert row_of(SMALL, "spu", runs, None, np.zeros(4), {}, {})["max_error"] == 0.5


def test_table_names_peers_that_did_not_run_and_why() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    failed = failed_row(WORKLOADS["vgg"], "crypten", "not installed")
    console.print(table_of([*rows(), failed], "title"))
    text = console.export_text()
    assert "did not run: not installed" in text
    assert "gpumpc k=44 f=16" in text


def test_computed_row_adds_link_time_and_is_marked() -> None:
    base = {**rows()[1], "rounds": 100, "seconds_total": 1.0}
    base |= {"online_bytes": 10**6, "offline_bytes": 10**6}
    computed = computed_row(base, Shape(8e6, 0.04))
    assert computed["seconds_total"] == pytest.approx(1.0 + 75 * 0.02 + 2.0)
    assert (computed["computed"], computed["seconds_compute"]) == (True, 1.0)
    check_row(computed)


def test_rounds_are_read_from_the_last_profile() -> None:
    line = "[info] Link details: total send bytes {}, recv bytes 1, send actions {}, recv actions 8"
    line += "\n"
    assert rounds_in(line.format(1, 7) + "noise\n" + line.format(72000000, 8)) == 8
    assert rounds_in("nothing") is None


def test_case_survives_writing_and_reading(tmp_path: Path) -> None:
    case = child_pipe.Case("relu", 16, (1, 2), (3, 4))
    case.write(tmp_path)
    assert child_pipe.Case.read(tmp_path) == case


def test_last_words_prefer_an_error_line() -> None:
    assert last_words("a\nValueError: bad\n[warning] later\n") == "ValueError: bad"
    assert last_words("a\nb\n") == "b"
    assert last_words("") == "it ended and its log is empty"


def test_peer_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"not installed: python -m bench\.peers\.setup spu"):
        python_of("spu", tmp_path)


def fake_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> Peer:
    """A runner that is any program, in place of a peer's."""
    script = tmp_path / "python"
    (tmp_path / "runner.py").write_text(code)
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'runner.py'} $3\n")
    script.chmod(0o755)
    monkeypatch.setattr(engines, "TIMEOUT_S", 20.0)
    return Peer("spu", tmp_path, "relu", 16, script)


RUNNER = """
import json, sys, numpy
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    if line.strip() == "run":
        numpy.save(sys.argv[1] + "/output.npy", numpy.ones(3))
        print(json.dumps({"seconds_total": 2.0, "online_bytes": 5, "share_digest": "d",
                          "peak_memory_bytes": {}, "output": sys.argv[1] + "/output.npy"}),
              flush=True)
    elif line.strip() == "rounds":
        print(json.dumps({"rounds": 8}), flush=True)
    else:
        break
"""


def test_runner_is_driven_and_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    peer = fake_peer(monkeypatch, tmp_path, RUNNER)
    run = peer.run()
    assert (run.seconds_total, run.opened_digest) == (2.0, "d")
    assert (run.online_bytes, run.offline_bytes) == (5, None)
    assert run.why_no_message
    assert run.output.sum() == 3
    assert peer.rounds() == 8
    peer.stop()
    peer.stop()


def test_runner_that_ends_gives_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(EngineFailed, match="RuntimeError: no such protocol"):
        fake_peer(monkeypatch, tmp_path, "raise RuntimeError('no such protocol')")


def test_runner_that_dies_in_a_run_gives_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "print('{}', flush=True)\ninput()\nraise MemoryError('too much')"
    peer = fake_peer(monkeypatch, tmp_path, code)
    with pytest.raises(EngineFailed, match="MemoryError: too much"):
        peer.run()
    peer.stop()


def test_setup_reports_the_pip_error_and_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "python"
    said = "ERROR: No matching distribution found for spu==0.9.5"
    script.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    script.chmod(0o755)
    assert peer_setup.main(["spu", f"--folder={tmp_path / 'envs'}", f"--python={script}"]) == 1
    told = capsys.readouterr().err
    assert "spu cannot be installed: No matching distribution found for spu==0.9.5" in told
    assert "Python 3.10 and 3.11" in told
    assert not (tmp_path / "envs" / "spu" / ".installed").exists()


def test_existing_environment_is_not_rebuilt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spu").mkdir()
    (tmp_path / "spu" / ".installed").touch()
    assert peer_setup.main(["spu", "--folder", str(tmp_path), "--python", "/nowhere"]) == 0
    assert "is in" in capsys.readouterr().out


@pytest.mark.parametrize("steps", peer_setup.STEPS.values())
def test_requirements_are_pinned(steps: dict[str, list[str]]) -> None:
    for file in steps:
        text = (peer_setup.HERE / file).read_text()
        lines = [line for line in text.splitlines() if line and line[0] != "#"]
        assert lines and all("==" in line for line in lines)


def test_report_lists_a_missing_peer_and_exits_nonzero(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three real processes and a small workload; the table shows the missing peer."""
    monkeypatch.setattr(peers, "WORKLOADS", {"relu": SMALL})
    out = tmp_path / "rows.json"
    arguments = ["--workloads=relu", "--peers=spu", "--runs=2", f"--json={out}"]
    arguments += ["--ours=44:16", "--ours=40:13", f"--environments={tmp_path}"]
    assert peers.main(arguments) == 1
    assert "did not run: not installed" in capsys.readouterr().out
    report = json.loads(out.read_text())
    check_row(report)
    ours, extra, spu = report["rows"]
    check_row(ours)
    assert (ours["k"], ours["f"], extra["k"], extra["f"]) == (44, 16, 40, 13)
    assert ours["max_error"] < 1e-4
    assert len({*ours["opened_digests"]}) == 2
    assert ours["rounds"] > 0
    assert ours["online_bytes"] > 0
    assert {*ours["peak_memory"]} == {"server0_bytes", "server1_bytes", "dealer_bytes"}
    assert spu["fault"].startswith("not installed")
    assert report["revision"] == revision()


def test_unknown_workload_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--workloads", "nonsense"])
    assert "not known: nonsense" in capsys.readouterr().err
    assert NETWORKS["loopback"] is None
