"""Plans on disk: round trips, commitments, and every kind of damage."""

import json
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from gpumpc.errors import BadShape, BadValue, CorruptPlan, ExposedSecret, MissingFile
from gpumpc.nn.graph import Conv2d, Flatten, Graph, Input, Linear, ReLU
from gpumpc.params import Params
from gpumpc.program import plan as records
from gpumpc.program.plan import PLAN_FILE, WEIGHTS_FILE, Weights, load, make_plan, save

LAYERS = Input("x", (), (4, 4, 1), -1.0, 1.0), Conv2d("c", ("x",), (3, 3), 2), ReLU("r", ("c",))
GRAPH = Graph((*LAYERS, Flatten("f", ("r",)), Linear("l", ("f",), 3)))


def arrays(dtype="float64"):
    rng = np.random.default_rng(2)
    shapes = GRAPH.weight_shapes()
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


@pytest.fixture
def saved(tmp_path):
    recipe = records.Preprocessing((4, 4), (127.0,), (128.0,))
    plan, weights = make_plan("tiny", GRAPH, arrays(), Params(), recipe)
    save(plan, weights, tmp_path)
    return tmp_path, plan, weights


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plan_and_weights_survive_saving(tmp_path, dtype):
    plan, weights = make_plan("tiny", GRAPH, arrays(dtype), Params())
    save(plan, weights, tmp_path / "deep" / "folder")
    again = load(tmp_path / "deep" / "folder")
    assert again == plan and records.plan_hash(again) == records.plan_hash(plan)
    assert len(records.plan_hash(plan)) == 32
    loaded = records.load_weights(tmp_path / "deep" / "folder", again)
    assert all(np.array_equal(loaded[name], weights[name]) for name in weights)
    assert {array.dtype for array in loaded.values()} == {np.dtype(dtype)}
    assert set(loaded) == set(weights) and loaded.salt == weights.salt


def test_files_are_private_readable_and_alone(saved):
    folder, plan, _ = saved
    assert sorted(path.name for path in folder.iterdir()) == [PLAN_FILE, WEIGHTS_FILE]
    assert (folder / WEIGHTS_FILE).stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / PLAN_FILE).read_text())["name"] == plan.name
    assert len((folder / PLAN_FILE).read_text().splitlines()) > 20


def test_saving_again_replaces_both_files(saved):
    folder, _, _ = saved
    plan, weights = make_plan("second", GRAPH, arrays(), Params())
    save(plan, weights, folder)
    assert load(folder) == plan and records.load_weights(folder, plan).salt == weights.salt


def test_the_commitment_hides_and_binds():
    first, weights = make_plan("tiny", GRAPH, arrays(), Params())
    second, _ = make_plan("tiny", GRAPH, arrays(), Params())
    assert first.weight_digest != second.weight_digest  # same weights, other salt
    changed = Weights(weights, weights.salt)
    changed["l.bias"] = np.nextafter(weights["l.bias"], 9)
    floats = {name: array.astype(np.float32) for name, array in weights.items()}
    narrow = Weights(floats, weights.salt)
    reshaped = Weights(weights | {"l.bias": weights["l.bias"].reshape(1, 3)}, weights.salt)
    fortran = Weights(weights | {"l.weight": np.asfortranarray(weights["l.weight"])}, weights.salt)
    digests = {records.weight_digest(some) for some in (weights, changed, narrow, reshaped)}
    assert len(digests) == 4 and records.weight_digest(fortran) == first.weight_digest


def test_the_hash_depends_on_every_field():
    plan, _ = make_plan("tiny", GRAPH, arrays(), Params())
    others: list[dict[str, Any]] = [
        {"name": "other"},
        {"params": Params(ring_bits=44)},
        {"weight_digest": "0" * 64},
        {"preprocessing": records.Preprocessing((4, 4), (0.0,), (1.0,))},
        {"graph": Graph(LAYERS)},
    ]
    hashes = {records.plan_hash(msgspec.structs.replace(plan, **change)) for change in others}
    assert len(hashes | {records.plan_hash(plan)}) == 6


def test_weights_do_not_print():
    _, weights = make_plan("tiny", GRAPH, arrays(), Params())
    assert repr(weights) == "Weights(c.bias, c.weight, l.bias, l.weight)"


def only_layers(text, start, stop):
    layers = json.loads(text)["graph"]["layers"][start:stop]
    return json.dumps(json.loads(text) | {"graph": {"layers": layers}})


DAMAGE = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "foreign": lambda text: "[1, 2, 3]",
    "not text": lambda text: "\x00\xff\x13",
    "other version": lambda text: text.replace('"format": 1', '"format": 2'),
    "unknown field": lambda text: text.replace('"name": "tiny"', '"name": "tiny", "extra": 1'),
    "missing field": lambda text: text.replace('"name": "tiny",', ""),
    "unknown layer": lambda text: text.replace('"type": "ReLU"', '"type": "Sigmoid"'),
    "stride zero": lambda text: text.replace('"groups": 1', '"groups": 0'),
    "layers do not fit": lambda text: text.replace('"type": "Flatten"', '"type": "Argmax"'),
    "bad digest": lambda text: text.replace('"weight_digest": "', '"weight_digest": "x'),
    "bad parameters": lambda text: text.replace('"ring_bits": 40', '"ring_bits": 20'),
    "no layers": lambda text: only_layers(text, 0, 0),
    "no input": lambda text: only_layers(text, 2, 3),
    "nested too deep": lambda text: '{"format": 1, "x": ' + "[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_plans_are_refused_by_name(saved, name):
    path = saved[0] / PLAN_FILE
    path.write_text(DAMAGE[name](path.read_text()))
    with pytest.raises(CorruptPlan, match=r"plan\.json.*What to do"):
        load(saved[0])


def rewritten(path, **changes):
    found = safetensors.numpy.load(path.read_bytes()) | changes
    kept = {name: array for name, array in found.items() if array is not None}
    path.write_bytes(safetensors.numpy.save(kept))


WEIGHT_DAMAGE = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-9]), CorruptPlan),
    "empty": (lambda p: p.write_bytes(b""), CorruptPlan),
    "foreign": (lambda p: p.write_bytes(b"\x89PNG" * 50), CorruptPlan),
    "no salt": (lambda p: rewritten(p, salt=None), CorruptPlan),
    "short salt": (lambda p: rewritten(p, salt=np.zeros(3, np.uint8)), CorruptPlan),
    "other salt": (lambda p: rewritten(p, salt=np.zeros(32, np.uint8)), CorruptPlan),
    "changed": (lambda p: rewritten(p, **{"l.bias": np.zeros(3)}), CorruptPlan),
    "not a number": (lambda p: rewritten(p, **{"l.bias": np.full(3, np.nan)}), BadValue),
    "integers": (lambda p: rewritten(p, **{"l.bias": np.zeros(3, np.int64)}), BadValue),
    "missing array": (lambda p: rewritten(p, **{"l.bias": None}), BadShape),
    "extra array": (lambda p: rewritten(p, extra=np.zeros(3)), BadShape),
    "other shape": (lambda p: rewritten(p, **{"l.bias": np.zeros(4)}), BadShape),
    "readable by others": (lambda p: p.chmod(0o644), ExposedSecret),
    "absent": (lambda p: p.unlink(), MissingFile),
}


@pytest.mark.parametrize("name", WEIGHT_DAMAGE)
def test_damaged_weights_are_refused_by_name(saved, name):
    folder, plan, _ = saved
    damage, error = WEIGHT_DAMAGE[name]
    damage(folder / WEIGHTS_FILE)
    with pytest.raises(error, match=r"weights\.safetensors"):
        records.load_weights(folder, plan)


def test_weights_of_another_plan_are_refused(saved):
    folder, _, _ = saved
    other, weights = make_plan("other", GRAPH, arrays(), Params())
    with pytest.raises(CorruptPlan, match="digest"):
        records.load_weights(folder, other)
    with pytest.raises(BadValue, match="not those of plan"):
        save(other, Weights(weights, bytes(32)), folder)


def test_missing_plan_is_named(tmp_path):
    with pytest.raises(MissingFile, match=r"plan\.json"):
        load(tmp_path)


def test_a_failed_write_leaves_the_old_files(saved, monkeypatch):
    folder, plan, _ = saved
    other, weights = make_plan("other", GRAPH, arrays(), Params())

    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save(other, weights, folder)
    assert load(folder) == plan and records.load_weights(folder, plan)
    assert sorted(path.name for path in folder.iterdir()) == [PLAN_FILE, WEIGHTS_FILE]


def test_plans_load_and_run_without_torch(saved):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\nimport numpy as np\n"
        "from gpumpc.program.plan import load, load_weights\n"
        "from gpumpc.nn.plaintext import evaluate_float\n"
        "folder = Path(sys.argv[1]); plan = load(folder); weights = load_weights(folder, plan)\n"
        "print(evaluate_float(plan.graph, weights, np.zeros((1, 4, 4, 1))).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(saved[0])], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "(1, 3)"), done.stderr
