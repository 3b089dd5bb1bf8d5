"""Cosines on shares against float64: `python -m bench.cosine --train 400 --test 200 --json`.

Features of EfficientNet-Lite0 of modality-6, from the data cache (`out/data`; `gpumpc data fetch`
fills it), as its plan at 64 px shares them: 20 bits, 15 of them fractions. Both servers and the
dealer run in this process and normalise every row; the five nearest gallery rows of each query, and
all cosines, are compared with those of float64. Masks come from `--seed`.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.command import command_line, show
from bench.schema import row
from gpumpc.datasets.fetch import CACHE, path_of
from gpumpc.datasets.modality import modality6
from gpumpc.media.preprocess import preprocess
from gpumpc.models.lite0 import lite0
from gpumpc.params import Params
from gpumpc.protocols.step import Clear
from gpumpc.retrieval.evaluation.metrics import overlap_at_k
from gpumpc.retrieval.index_store import ROWS_PER_BATCH
from gpumpc.retrieval.programs import Geometry, rows_program
from gpumpc.ring.fixed_point import encode, signed
from tests.harness import BACKEND, run_program, share

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
GEOMETRY = Geometry(1280, "cosine", 20, 15)
PARAMS = Params()
BATCH = 32
K = 5


def features(images: Floats, cache: Path) -> Floats:
    """(N, 1280) pooled features in torch's own float32; the measurement begins after them."""
    model = lite0(path_of("lite0", "efficientnet-lite0-57934424.pth", cache))
    inputs = torch.from_numpy(preprocess(images).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        parts = [model(inputs[i : i + BATCH]).numpy() for i in range(0, len(inputs), BATCH)]
    return np.concatenate(parts).astype(np.float64)


def on_shares(x: Ints, seed: int) -> Ints:
    """The normalised rows, out of runs of `rows_program`."""
    parts = []
    for start in range(0, len(x), ROWS_PER_BATCH):
        rows = x[start : start + ROWS_PER_BATCH]
        program = rows_program(GEOMETRY, len(rows), PARAMS)
        pair = share(rows, GEOMETRY.bits, GEOMETRY.frac, seed=seed + start)
        shares = run_program(program, [pair], seed=seed, batch_index=start).shares
        first, second = (kept.masked for kept in shares)
        whole = BACKEND.reduce(first.opened + first.mask + second.mask, GEOMETRY.score_bits)
        parts.append(signed(whole, GEOMETRY.score_bits))
    return np.concatenate(parts)


def in_the_clear(x: Ints) -> Ints:
    """The same by `Program.plain`, which rounds to nearest."""
    program = rows_program(GEOMETRY, len(x), PARAMS)
    words: Any = x.view(np.uint64)
    return np.asarray(program.plain(Clear(BACKEND, {}), words)).view(np.int64)


def compared(u: Ints, exact: Floats, train: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Overlap of the five nearest, and how far cosines are off."""
    cosines = u[~train] @ u[train].T / GEOMETRY.score_scale
    first, second = (np.argsort(-scores, axis=1, kind="stable") for scores in (cosines, exact))
    error = np.abs(cosines - exact)
    return {
        "overlap_at_5": float(overlap_at_k(first, second, K).mean()),
        "same_nearest": float((first[:, 0] == second[:, 0]).mean()),
        "error_largest": float(error.max()),
        "error_root_mean_square": float(np.sqrt((error**2).mean())),
    }


def measure(cache: Path, n_train: int, n_test: int, seed: int) -> dict[str, Any]:
    """The row of one run."""
    started = time.perf_counter()
    data = modality6(cache, n_train=n_train, n_test=n_test)
    real = features(data.images, cache)
    unit = real / np.linalg.norm(real, axis=1, keepdims=True)
    exact = unit[~data.train] @ unit[data.train].T
    x = signed(encode(real, 2.0**GEOMETRY.frac, GEOMETRY.bits, "a feature"), GEOMETRY.bits)
    online = time.perf_counter()
    on = compared(on_shares(x, seed), exact, data.train)
    cost = rows_program(GEOMETRY, ROWS_PER_BATCH, PARAMS).cost
    return row(
        seconds_total=time.perf_counter() - started,
        seconds_online=time.perf_counter() - online,
        online_bytes=cost.online_bytes // ROWS_PER_BATCH,
        offline_bytes=cost.dealer_bytes // ROWS_PER_BATCH,
        rounds=cost.rounds,
        backend="numpy",
        n_queries=int((~data.train).sum()),
        n_rows=int(data.train.sum()),
        on_shares=on,
        in_the_clear=compared(in_the_clear(x), exact, data.train),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the row; 0."""
    parser = command_line("cosine", "Cosines on shares against float64.")
    parser.add_argument("--train", type=int, default=64, help="gallery rows a class, at most")
    parser.add_argument("--test", type=int, default=32, help="queries a class, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=CACHE)

    chosen = parser.parse_args(arguments)
    result = measure(chosen.cache, chosen.train, chosen.test, chosen.seed)
    lines = []
    for where in ("on_shares", "in_the_clear"):
        values = ", ".join(f"{name} {value:.2g}" for name, value in result[where].items())
        lines.append(f"{where}: {values}")
    n_queries, n_rows, n_bytes = (result[key] for key in ("n_queries", "n_rows", "online_bytes"))
    lines.append(f"{n_queries} queries, {n_rows} rows; {n_bytes} bytes each way a row")
    show(result, chosen.json, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
