"""`gpumpc demo`: real patches through EfficientNet-Lite0 on shares, in three processes, compared with the clear."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from gpumpc.cli import models
from gpumpc.cli.progress import counted
from gpumpc.cli.told import told
from gpumpc.ring.choose import choose_backend
from gpumpc.roles.compiled import CompiledPlan

SOURCES = ("lite0", "icbm152", "skimage", "nuclear")
START_S = 30.0  # for three processes on a busy machine
Array = npt.NDArray[np.float64]

console = Console(stderr=True)


def demo(
    images: Annotated[int, typer.Option(min=1, help="How many real patches.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 8,
    folder: Annotated[Path, typer.Option(help="Where keys, logs, plan and results go.")] = Path("out/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Share real medical patches, extract features privately, reveal them to the user, compare."""
    with told():
        row = run(images, batch, folder)
    if as_json:
        sys.stdout.write(json.dumps(row) + "\n")
    else:
        _show(row)


def run(n_images: int, batch: int, folder: Path) -> dict[str, Any]:
    """The whole path, each step said as it begins; one row of figures."""
    from gpumpc.media.fetch import fetch
    from gpumpc.media.patches import build_patches, preprocess

    start = time.perf_counter()
    fetched = fetch(SOURCES, say=lambda text: console.print(text, highlight=False))
    for name, why in fetched.missing.items():
        console.print(f"[yellow]without {name}:[/] {why}")
    patches = build_patches(n_images)
    x = preprocess(patches.images)
    console.print(f"{len(x)} patches of {len(set(patches.labels))} modalities from {len(set(patches.sources))} sources")
    compiled = models.compile_named("lite0")
    plan_folder = folder / "plan"
    compiled.save(plan_folder)
    console.print(f"EfficientNet-Lite0 compiled: {compiled.plan.bounds} bounds, weights stay private")
    features, seconds = _extract(compiled, plan_folder, x, batch, folder)
    np.save(folder / "features.npy", features, allow_pickle=False)
    return _row(compiled, x, features, patches, batch, seconds, time.perf_counter() - start)


def _extract(compiled: CompiledPlan, plan: Path, x: Array, batch: int, folder: Path) -> tuple[Array, dict[str, float]]:
    from gpumpc.roles.client import connect
    from gpumpc.roles.config import load_client, write_local
    from gpumpc.roles.supervise import LocalCluster

    shutil.rmtree(folder / "cluster", ignore_errors=True)
    setup = write_local(folder / "cluster", [plan], batch)
    console.print("starting dealer, server 0 and server 1 as processes; logs are beside their keys in", folder / "cluster")
    with LocalCluster(setup) as cluster, connect(load_client(setup.client), compiled.plan, START_S) as owner:
        cluster.check()
        begin = time.perf_counter()
        owner.wait_connected(START_S)
        owner.share_weights(compiled.weights)
        owner.wait_ready(30.0)
        weights_shared = time.perf_counter()
        shared = owner.share(x)
        images_shared = time.perf_counter()
        with counted("private features, batches") as progress:
            result = owner.run(shared, progress)
        computed = time.perf_counter()
        features = result.reveal()
        owner.drop(shared)
    return features, {
        "seconds_sharing_weights": weights_shared - begin,
        "seconds_sharing_images": images_shared - weights_shared,
        "seconds_online": computed - images_shared,
    }


def _row(
    compiled: CompiledPlan, x: Array, features: Array, patches: Any, batch: int, seconds: dict[str, float], total: float
) -> dict[str, Any]:
    from gpumpc.nn.compiler import program_of

    clear, fixed = compiled(x, "float"), compiled(x, "fixed")
    spread = float(clear.std(axis=0).mean())
    cost = program_of(compiled.plan, batch).cost
    error = np.abs(features - clear) / spread
    params = compiled.plan.params
    return {
        "images": len(x),
        "sources": len(set(patches.sources)),
        "modalities": sorted(set(patches.labels)),
        "seconds_total": total,
        **seconds,
        "images_per_second": len(x) / seconds["seconds_online"],
        "online_bytes": cost.online_bytes * -(-len(x) // batch),
        "offline_bytes": cost.dealer_bytes * -(-len(x) // batch),
        "online_bytes_per_image": cost.online_bytes // batch,
        "offline_bytes_per_image": cost.dealer_bytes // batch,
        "rounds": cost.rounds,
        "rounds_per_batch": cost.rounds,
        "backend": choose_backend().name,
        "k": params.k,
        "f": params.f,
        "n_threads": 1,
        "bounds": compiled.plan.bounds,
        "feature_spread": spread,
        "feature_error_max": float(error.max()),
        "feature_error_p999": float(np.quantile(error, 0.999)),
        "fixed_error_max": float((np.abs(fixed - clear) / spread).max()),
    }


def _show(row: dict[str, Any]) -> None:
    table = Table("what", "measured", title="private features of real patches", show_header=False)
    table.add_row("images, from sources", f"{row['images']} from {row['sources']} ({', '.join(row['modalities'])})")
    table.add_row("images a second", f"{row['images_per_second']:.2f}")
    table.add_row("sent by each server, an image", f"{row['online_bytes_per_image'] / 1e6:.2f} MB")
    table.add_row("sent by the dealer, an image", f"{row['offline_bytes_per_image'] / 1e6:.2f} MB")
    table.add_row("rounds a batch", str(row["rounds_per_batch"]))
    table.add_row("mode", f"k = {row['k']}, f = {row['f']}, {row['bounds']} bounds, private weights")
    table.add_row("largest feature error", f"{100 * row['feature_error_max']:.2f} % of the spread between images")
    table.add_row("99.9 % of features within", f"{100 * row['feature_error_p999']:.2f} %")
    Console().print(table)
    Console().print("no server saw an image, a feature or a weight; features are in out/demo/features.npy", highlight=False)
