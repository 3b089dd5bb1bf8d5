"""A user learns the label, the best five or the logits, of a network or of stored results."""

import numpy as np
import pytest

from gpumpc import Params, Plan, compile
from gpumpc.errors import BadShape, PlanError, RangeTooWide
from gpumpc.nn.graph import AvgPool, Conv2d, Flatten, Graph, Input, Linear, ReLU
from gpumpc.program.head import Policy, with_policy
from gpumpc.program.integers import encode_input
from gpumpc.program.program import Program
from tests.plans import MODES, evaluate, secure

N_CLASSES = 9
FEATURES = Graph(
    (
        Input("x", (), (4, 4, 1), -1.0, 1.0),
        Conv2d("conv", ("x",), (3, 3), 6, padding=(1, 1, 1, 1)),
        ReLU("relu", ("conv",)),
        AvgPool("pool", ("relu",), (4, 2), (4, 2)),
        Flatten("flat", ("pool",)),
    )
)
LOGITS = Graph((*FEATURES.layers, Linear("fc", ("flat",), N_CLASSES)))


def weights(graph: Graph, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in graph.weight_shapes().items()}


def images(n: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, (n, 4, 4, 1))


def features() -> Plan:
    params = Params(ring_bits=32, frac_bits=10)
    return compile((FEATURES, weights(FEATURES)), name="features", params=params)


def head(policy: Policy) -> Plan:
    rng = np.random.default_rng(4)
    classes = [f"class {i}" for i in range(N_CLASSES)]
    weight, bias = rng.normal(size=(12, N_CLASSES)), rng.normal(size=N_CLASSES)
    return features().head(weight, bias, classes, policy)


def ranked(logits: np.ndarray) -> np.ndarray:
    return (-logits).argsort(axis=1, kind="stable")


def revealed(logits: np.ndarray, policy: Policy) -> np.ndarray:
    ranks = ranked(logits)
    return {"label": ranks[:, 0], "top5": ranks[:, :5], "logits": logits}[policy]


@pytest.mark.parametrize("policy", ["label", "top5", "logits"])
def test_policy_reveals_label_top5_or_logits(policy: Policy) -> None:
    arrays = weights(LOGITS)
    params, classes = Params(ring_bits=40, frac_bits=12), [f"class {i}" for i in range(N_CLASSES)]
    compiled = compile((LOGITS, arrays), params=params, policy=policy, classes=classes)
    logits = compile((LOGITS, arrays), params=params).evaluate(images(20))
    # No order hangs on a rounding.
    assert np.diff(np.sort(logits, axis=1)[:, -6:], axis=1).min() > 1e-3
    expected = revealed(logits, policy)
    tolerance = 1e-2 if policy == "logits" else 0.0
    for mode in MODES:
        assert np.abs(evaluate(compiled, images(20), mode) - expected).max() <= tolerance, mode
    assert compiled.record.classes == tuple(classes)


@pytest.mark.parametrize("policy", ["label", "top5", "logits"])
def test_head_runs_on_stored_results_of_another_plan(policy: Policy) -> None:
    """Its input is the stored result: same bits, scale and divisor, with no conversion."""
    below, above = features(), head(policy)
    with below.simulate(4) as session:
        result = session.program.result
    taken = above.simulate(4)
    with taken as session:
        wanted = session.program.input
    assert (wanted.bits, wanted.frac, wanted.divisor) == (result.bits, result.frac, result.divisor)
    # Averaged over eight pixels, and cut to the bits that are needed.
    assert result.frac == 13 and result.bits < 32
    x = below.evaluate(images(20), fixed_point=True)
    logits = head("logits").evaluate(x)
    expected = revealed(logits, policy)
    assert np.abs(secure(above, x) - expected).max() <= (2e-2 if policy == "logits" else 0.0)


def test_label_and_top5_results_hold_only_class_bits() -> None:
    """The bits that come back number the classes, and hold nothing else."""
    programs: dict[Policy, Program] = {}
    for policy in ("label", "top5", "logits"):
        with head(policy).simulate(2) as session:
            programs[policy] = session.program
    assert (programs["label"].result.bits, programs["label"].result.shape) == (4, (2,))
    assert (programs["top5"].result.bits, programs["top5"].result.shape) == (4, (2, 5))
    assert programs["top5"].result_is_index and not programs["logits"].result_is_index


def test_ties_go_to_the_lowest_class() -> None:
    graph = Graph((Input("x", (), (7,), -1.0, 1.0),))
    compiled = compile((with_policy(graph, "top5"), {}))
    x = np.array([[0, 1, 1, 0, 1, 0, 0], [0.0] * 7])
    assert secure(compiled, x).tolist() == [[1, 2, 4, 0, 3], [0, 1, 2, 3, 4]]


def test_top5_works_for_2_and_1000_classes() -> None:
    for n in (2, 1000):
        graph = with_policy(Graph((Input("x", (), (n,), -1.0, 1.0),)), "top5")
        compiled = compile((graph, {}))
        x = np.random.default_rng(5).permuted(np.linspace(-1, 1, n)[None].repeat(3, 0), axis=1)
        assert np.array_equal(secure(compiled, x), ranked(x)[:, : min(5, n)])


def test_impossible_heads_are_refused() -> None:
    zeros = np.zeros
    with pytest.raises(BadShape, match=r"weight \(11, 2\).*have 12 entries"):
        features().head(zeros((11, 2)), zeros(2), ["a", "b"])
    with pytest.raises(BadShape, match="for 3 classes"):
        features().head(zeros((12, 2)), zeros(2), ["a", "b", "c"])
    with pytest.raises(PlanError, match="not vectors"):
        head("label").head(zeros((12, 2)), zeros(2), ["a", "b"])
    with pytest.raises(PlanError, match="not end in a vector"):
        compile((Graph(FEATURES.layers[:2]), weights(Graph(FEATURES.layers[:2]))), policy="label")
    with pytest.raises(RangeTooWide):
        features().head(np.full((12, 2), 1e6), zeros(2), ["a", "b"])
    with pytest.raises(PlanError, match="shares of 44 bits do not fit a ring of 40"):
        compile((Graph((Input("x", (), (3,), -1.0, 1.0, bits=44), ReLU("y", ("x",)))), {}))


def test_head_input_is_encoded_at_its_own_scale() -> None:
    with head("label").simulate(1) as session:
        words = encode_input(session.program, np.full((1, 12), 0.5))
    assert (words == 1 << 12).all()  # 2^13 / 2
