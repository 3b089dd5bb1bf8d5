"""Make canaries: the model's owner draws images and computes what the servers must answer.

Results on shares scatter about those in fixed point, since each truncation rounds up or down at
random. How far is measured: the images are shared and evaluated several times in this process.
"""

import contextlib
import math
import secrets

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.client.canaries import Canaries
from gpumpc.errors import BadValue
from gpumpc.local.compile import Plan
from gpumpc.nn.graph import Argmax, Graph, Input, TopK
from gpumpc.nn.plaintext import check_input
from gpumpc.program.compiler import program_of
from gpumpc.program.plan import plan_hash
from gpumpc.ring.prg import KEY_BYTES, expand

Array = npt.NDArray[np.float64]

# Results on shares that are measured, over all images: their root mean square is then known to
# 1 / sqrt(2 * 128) = 6 %.
N_MEASURED = 128
# The bound lies so many root mean squares beyond the largest difference seen. Roundings are
# unbiased, independent and bounded, so their sum has Gaussian tails: 8 are passed with a chance
# below 2 exp(-32) = 3e-14 an entry.
MARGIN = 8.0
# Images tried for each canary where the answer is a class: some are too close to call.
TRIES = 4


def make_canaries(
    plan: Plan, n: int = 16, head: Plan | None = None, inputs: npt.ArrayLike | None = None
) -> Canaries:
    """Canaries for requests that evaluate `plan`, or `head` on its features.

    Args:
        n: how many, each for any number of requests.
        head: made by `plan.head`; the results are then its answers.
        inputs: (B, *shape of the plan's input), B >= n, to choose from: for a calibrated plan, real
            images. None: uniform in the plan's range.

    Raises:
        BadShape, OutOfRange: inputs that the plan does not admit.
        BadValue: too few inputs; results that scatter over the ring, as where inputs are unlike
            the samples of a calibrated plan; or answers too close to call.
    """
    stages = [plan] if head is None else [plan, head]
    n_ranks = _n_ranks(stages[-1])
    x = _candidates(plan, n * TRIES if n_ranks else n, inputs)
    if len(x) < n or n < 1:
        raise BadValue(f"{len(x)} inputs for {n} canaries", "there are too few", "give more inputs")
    scored = [*stages[:-1], _scores_of(stages[-1])]
    scores = _fixed(scored, x)
    bounds = _measured_bounds(scored, x, scores)
    _check_scatter(scored[-1], bounds)
    kept = _clear(scores, bounds, n_ranks)[:n] if n_ranks else np.arange(n)
    if len(kept) < n:
        what = f"only {len(kept)} of {len(x)} inputs have an answer that no rounding changes"
        raise BadValue(what, f"{n} canaries were asked for", "ask for fewer, or give real images")
    results = _fixed(stages, x[kept]) if n_ranks else scores[kept]
    bounds = np.zeros(results.shape) if n_ranks else bounds[kept]
    ids = [plan_hash(stage.record).hex() for stage in (stages[0], stages[-1])]
    return Canaries(ids[0], ids[1], x[kept], results, bounds)


def _candidates(plan: Plan, n: int, inputs: npt.ArrayLike | None) -> Array:
    record = plan.record.graph.input
    return check_input(record, _uniform(record, n) if inputs is None else inputs)


def _uniform(record: Input, n: int) -> Array:
    """(n, *record.shape), uniform over the plan's range and not to be guessed."""
    shape = (n, *record.shape)
    drawn = expand("chacha20", secrets.token_bytes(KEY_BYTES), 4 * math.prod(shape))
    return record.low + (record.high - record.low) * (drawn.view("<u4") / 2.0**32).reshape(shape)


def _n_ranks(plan: Plan) -> int:
    """How many ranks of the scores the result shows; 0 where it shows the scores themselves."""
    last = plan.record.graph.output
    return 1 if isinstance(last, Argmax) else last.k if isinstance(last, TopK) else 0


def _scores_of(plan: Plan) -> Plan:
    """The same network up to the scores that its answer ranks."""
    if not _n_ranks(plan):
        return plan
    graph = Graph(plan.record.graph.layers[:-1])
    return Plan(msgspec.structs.replace(plan.record, graph=graph, output_bits=None), plan.weights)


def _fixed(stages: list[Plan], x: Array) -> Array:
    for stage in stages:
        x = stage.evaluate(x, fixed_point=True)
    return x


def _measured_bounds(stages: list[Plan], x: Array, expected: Array) -> Array:
    """How far a right result may be from the expected one: (len(x), ...)."""
    differences = []
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(stage.simulate(min(8, len(x)))) for stage in stages]
        for _ in range(-(-N_MEASURED // len(x))):
            found = x
            for session in sessions:
                found = session.run(session.share(found)).reveal()
            differences.append(np.abs(found - expected))
    measured = np.stack(differences)
    # An entry that happened to scatter little gets the mean of all.
    spread = np.sqrt(np.mean(measured**2, axis=(0, 1)))
    spread = np.maximum(spread, np.sqrt(np.mean(measured**2)))
    return np.asarray(measured.max(axis=0) + MARGIN * spread, dtype=np.float64)


def _check_scatter(plan: Plan, bounds: Array) -> None:
    """Raises BadValue for bounds so wide that many a wrong result would lie within them."""
    result = program_of(plan.record, 1).result
    room = 2.0 ** (result.bits - 1) / result.scale
    if bounds.max() > room / 8:
        what = f"results scatter by {bounds.max():.3g}, where at most {room:.3g} can be told"
        why = "these inputs leave the ranges that the plan was calibrated for"
        raise BadValue(what, why, "give inputs like those that it is used on")


def _clear(scores: Array, bounds: Array, n_ranks: int) -> npt.NDArray[np.intp]:
    """Rows of which neighbouring scores are so far apart that no rounding changes the ranks."""
    ordered = -np.sort(-scores, axis=-1)[:, : n_ranks + 1]
    gaps = (ordered[:, :-1] - ordered[:, 1:]).min(axis=-1)
    return np.flatnonzero(gaps > 2 * bounds.max(axis=-1))
