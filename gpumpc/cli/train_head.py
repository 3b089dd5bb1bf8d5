"""`gpumpc train-head`: train a linear classifier on revealed features, in the clear."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from gpumpc.cli.console import exit_on_error
from gpumpc.cli.options import FeaturesFile


def train_head(
    features: FeaturesFile,
    labels: Annotated[
        Path, typer.Option(help="A table: file,label[,source][,part]; part `test` is left out.")
    ],
    on: Annotated[Path, typer.Option("--on", help="Folder of the plan that made the features.")],
    out: Annotated[Path, typer.Option(help="Folder for plan.json and weights.safetensors.")],
    policy: Annotated[str, typer.Option(help="What a user learns: label, top5, logits.")] = "label",
    l2: Annotated[float, typer.Option(help="Penalty on weights of standardised features.")] = 1.0,
) -> None:
    """Train a head on features that the servers keep; `gpumpc classify --head` uses it."""
    from gpumpc.program import plan as plan_files
    from gpumpc.program.head import Policy, compile_head
    from gpumpc.retrieval.evaluation.feature_file import read_features
    from gpumpc.retrieval.evaluation.labels import read_labels
    from gpumpc.retrieval.evaluation.probe import train_head as train

    with exit_on_error():
        chosen = cast(Policy, policy)
        below, found = plan_files.load(on), read_features(features)
        rows = read_labels(labels).of(found.items, found.files)
        used = [i for i, row in enumerate(rows) if row.train is not False]
        head = train(found.features[used], [rows[i].label for i in used], l2=l2)
        plan, weights = compile_head(below, head.weight, head.bias, head.classes, chosen)
        plan_files.save(plan, weights, out)
        counts = f"{len(head.classes)} classes, trained on {len(used)} images"
        typer.echo(f"plan '{plan.name}' of {counts}, is in {out}")
