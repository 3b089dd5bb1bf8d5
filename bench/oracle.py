"""Lite0 with private weights on real images, held against the oracle: `python -m bench.oracle
--images 64 --json`.

Every layer of every image of the secure run is compared bit for bit with what the oracle of
`tests/oracle` predicts from the seeds; the revealed features are compared with torch in float64.
Images come from the data cache (`out/data`); what is missing there is fetched. Roots and masks come
from `--seed`, so the figures are the same on every run.
"""

import copy
import functools
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import gpumpc
from bench.command import command_line, show
from bench.schema import row
from gpumpc.datasets.fetch import CACHE, SOURCES, fetch
from gpumpc.datasets.patches import SIZE, build_patches
from gpumpc.media.preprocess import LITE0_INPUT, preprocess
from gpumpc.models.lite0 import lite0
from gpumpc.nn.plaintext import evaluate_float
from gpumpc.params import Params
from gpumpc.ring.choose import choose_backend
from tests.oracle.oracle import Oracle, integer_weights
from tests.oracle.secure import SecureRun, Verdict, compare, drawn_from

FloatArray = npt.NDArray[np.float64]
BATCH = 8


def real_images(count: int, cache: Path) -> FloatArray:
    """Preprocessed patches (count, 64, 64, 3) of the fetched packages."""
    return preprocess(build_patches(count, cache).images)


def true_features(model: torch.nn.Module, images: FloatArray) -> FloatArray:
    """The model in torch, float64."""
    with torch.inference_mode():
        features = copy.deepcopy(model).double()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    return np.asarray(features.numpy())


def rounded_weights_features(compiled: gpumpc.Plan, images: FloatArray) -> FloatArray:
    """The same with weights rounded to f fraction bits: the error no protocol can avoid."""
    unit = 2.0**compiled.record.params.frac_bits
    rounded = {
        n: np.rint(w * unit) / unit if n.endswith(".weight") else w
        for n, w in compiled.weights.items()
    }
    return evaluate_float(compiled.record.graph, rounded, images)


def compile_lite0(model: torch.nn.Module, params: Params) -> gpumpc.Plan:
    """For 64 x 64 pixels in the range that preprocessing gives them."""
    low, high = ((255.0 * pixel - LITE0_INPUT.mean[0]) / LITE0_INPUT.std[0] for pixel in (0.0, 1.0))
    example, recipe = torch.zeros(1, 3, SIZE, SIZE), LITE0_INPUT
    made = functools.partial(gpumpc.compile, name="lite0", params=params, preprocessing=recipe)
    return made(model, example, input_range=(low, high))


class Tally:
    """What the batches add up to."""

    def __init__(self) -> None:
        self.differing: Counter[str] = Counter()
        self.n_values = 0
        self.n_layers = 0
        self.features: list[FloatArray] = []
        self.seconds_secure = self.seconds_oracle = 0.0

    def take(self, verdict: Verdict, layers: set[str]) -> None:
        """Add a batch. Raises RuntimeError if a layer was not compared."""
        if missing := layers - verdict.values.keys():
            raise RuntimeError(f"the secure run showed no layer {', '.join(sorted(missing))}")
        self.n_layers = len(layers)
        self.n_values += verdict.n_values
        # Shares and openings under names of their own: a wrong share can hide behind a right sum.
        self.differing.update({name: n for name, n in verdict.values.items() if n})
        self.differing.update({f"shares of {name}": n for name, n in verdict.shares.items() if n})


def run(compiled: gpumpc.Plan, images: FloatArray, session: SecureRun) -> Tally:
    """All images through the secure session, each batch against the oracle."""
    graph, tally = compiled.record.graph, Tally()
    layers = {layer.name for layer in graph.layers}
    weights = integer_weights(graph, compiled.record.params.frac_bits, compiled.weights)
    ks = {name: width.ring_bits for name, width in compiled.record.widths.items()}
    oracle = Oracle(graph, compiled.record.params, weights, session.seeds, ks)
    for start in range(0, len(images), BATCH):
        x = images[start : start + BATCH]
        begun = time.monotonic()
        batch = session.run_batch(x)
        ended = time.monotonic()
        predicted = oracle.predict(session.integers(x), batch.number)
        tally.take(compare(session, batch, predicted), layers)
        tally.features.append(batch.result)
        tally.seconds_secure += ended - begun
        tally.seconds_oracle += time.monotonic() - ended
        n_differing = sum(tally.differing.values())
        print(f"{start + len(x)} images, {n_differing} values differ", file=sys.stderr, flush=True)
    return tally


def feature_error(secure: FloatArray, true: FloatArray, name: str) -> dict[str, float]:
    """|secure - float64| over the spread: the features' mean deviation between images."""
    error = np.abs(secure - true) / true.std(axis=0).mean()
    return {
        f"{name}_max": float(error.max()),
        f"{name}_p999": float(np.quantile(error, 0.999)),
        f"{name}_mean": float(error.mean()),
    }


def measure(count: int, seed: int, cache: Path) -> dict[str, Any]:
    """The whole benchmark as one row."""
    begun = time.monotonic()
    fetch(SOURCES, cache, say=lambda line: print(line, file=sys.stderr))
    images = real_images(count, cache)
    model = lite0(cache / "lite0" / Path(SOURCES["lite0"].files[0].inside).name)
    params, backend = Params(ring_bits=40, frac_bits=13), choose_backend()
    with drawn_from(seed):
        compiled = compile_lite0(model, params)
        with SecureRun(compiled.record, compiled.weights, BATCH, backend) as session:
            tally = run(compiled, images, session)
            # A run whose measured cost is another one fails.
            cost, n_batches = session.program.cost, len(tally.features)
    true, secure = true_features(model, images), np.concatenate(tally.features)
    rounded = rounded_weights_features(compiled, images)
    return row(
        images=len(images),
        batch_size=BATCH,
        layers=tally.n_layers,
        compared_values=tally.n_values,
        differing_values=sum(tally.differing.values()),
        differing_names=sorted(tally.differing),
        feature_spread=float(true.std(axis=0).mean()),
        **feature_error(secure, true, "feature_error"),
        **feature_error(rounded, true, "weights_rounded_error"),
        **feature_error(secure, rounded, "protocol_error"),
        seconds_total=time.monotonic() - begun,
        seconds_secure=tally.seconds_secure,  # the dealer, which works beside the servers, included
        seconds_oracle=tally.seconds_oracle,
        online_bytes=max(cost.s0_bytes, cost.s1_bytes) * n_batches,
        offline_bytes=cost.dealer_bytes * n_batches,
        rounds=cost.rounds * n_batches,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        backend=backend.name,
        k=params.ring_bits,
        f=params.frac_bits,
        n_threads=len(os.sched_getaffinity(0)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a value differs."""
    parser = command_line("oracle", "Lite0 against the plaintext oracle.")
    parser.add_argument("--images", type=int, default=64, help="how many real images")
    parser.add_argument("--seed", type=int, default=0, help="of roots, masks and names")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where fetched data lies")
    options = parser.parse_args(arguments)
    measured = measure(options.images, options.seed, options.cache)
    text = (
        "{images} images, {layers} layers, {compared_values} values: {differing_values} differ; "
        "feature error {feature_error_max:.2g} of the spread"
    )
    show(measured, options.json, text.format(**measured))
    return int(measured["differing_values"] > 0)


if __name__ == "__main__":
    sys.exit(main())
