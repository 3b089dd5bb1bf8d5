"""The clear side of the demo: modality-6 in float and in fixed point, and the trained head."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.datasets.labelled import LabelledImages
from gpumpc.datasets.modality import modality6
from gpumpc.errors import ConfigError
from gpumpc.local import named_networks as models
from gpumpc.local.compile import Plan
from gpumpc.media.preprocess import preprocess
from gpumpc.program.compiler import program_of
from gpumpc.retrieval.evaluation.metrics import (
    accuracy,
    mean_average_precision,
    overlap_at_k,
    precision_at_k,
)
from gpumpc.retrieval.evaluation.probe import train_head
from gpumpc.retrieval.geometry import geometry_of
from gpumpc.retrieval.plain import plain_search
from gpumpc.retrieval.programs import Metric

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

METRIC: Metric = "cosine"
TOP = 5
# Images that are evaluated in the clear at a time: so much memory is enough.
_PORTION = 32


class Study(NamedTuple):
    """Attributes:
    data: all of modality-6.
    inputs: what the owner shares of it.
    features: the network up to its features, with the owner's weights.
    head: the classifier on kept features.
    clear, fixed: features (N, d) of every image in float64 and in fixed point.
    gallery, queries: positions of what the demo shares.
    """

    data: LabelledImages
    inputs: Floats
    features: Plan
    head: Plan
    clear: Floats
    fixed: Floats
    gallery: Ints
    queries: Ints

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """True classes of all images."""
        return self.data.labels


def prepare(n_gallery: int, n_queries: int, progress: Callable[[int, int], None]) -> Study:
    """Load, compile, train the head on the training part, evaluate everything in the clear."""
    data = modality6()
    inputs = preprocess(data.images)
    features = models.compile_named("lite0")
    portions = range(0, len(inputs), _PORTION)
    clear, fixed = [], []
    for i, start in enumerate(portions):
        portion = inputs[start : start + _PORTION]
        clear.append(features.evaluate(portion))
        fixed.append(features.evaluate(portion, fixed_point=True))
        progress(i + 1, len(portions))
    in_clear = np.concatenate(clear)
    head = train_head(in_clear[data.train], data.labels[data.train])
    return Study(
        data,
        inputs,
        features,
        features.head(head.weight, head.bias, head.classes),
        in_clear,
        np.concatenate(fixed),
        _spread(data, n_gallery, train=True),
        _spread(data, n_queries, train=False),
    )


def _spread(data: LabelledImages, count: int, *, train: bool) -> Ints:
    """Positions of about equally many images of each class of a part, evenly spaced in each."""
    chosen = []
    for number, name in enumerate(data.classes):
        share = (count + len(data.classes) - 1 - number) // len(data.classes)
        [found] = np.nonzero((data.labels == name) & (data.train == train))
        if len(found) < share:
            what = f"there are {len(found)} images of {name}, {share} were asked for"
            raise ConfigError(what, hint="ask for fewer")
        chosen.append(found[np.arange(share) * len(found) // share])
    return np.concatenate(chosen).astype(np.int64)


def labels_of(head: Plan, features: Floats, *, fixed_point: bool = False) -> npt.NDArray[np.str_]:
    """Names of the classes that a head finds, in the clear."""
    indices = head.evaluate(features, fixed_point).astype(int)
    return np.asarray(np.array(head.record.classes)[indices])


def ranked_in_float(gallery: Floats, queries: Floats, k: int) -> Ints:
    """Positions of each query's k best rows by cosine, in float64; the lowest position on ties."""
    unit = [
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        for rows in (gallery, queries)
    ]
    order = (-(unit[1] @ unit[0].T)).argsort(axis=1, kind="stable")[:, :k]
    return np.asarray(order, dtype=np.int64)


def ranked_in_fixed(plan: Plan, gallery: Floats, queries: Floats, k: int) -> Ints:
    """The same as the search computes it, in the clear, on fixed-point features."""
    geometry = geometry_of(program_of(plan.record, 1), METRIC)
    return plain_search(geometry, plan.record.params, gallery, queries, k)[1]


class Retrieved(NamedTuple):
    """P@1, P@5 and mAP@5 of a ranking."""

    p_at_1: float
    p_at_5: float
    map_at_5: float


def retrieved(study: Study, gallery: Ints, queries: Ints, ranks: Ints) -> Retrieved:
    """Figures of positions (Q, 5) in a gallery."""
    relevant = study.labels[gallery][ranks] == study.labels[queries][:, None]
    n_relevant = (study.labels[gallery][None] == study.labels[queries][:, None]).sum(axis=1)
    what = float(precision_at_k(relevant, 1).mean())
    why = float(precision_at_k(relevant, TOP).mean())
    return Retrieved(what, why, mean_average_precision(relevant, n_relevant, TOP))


def full_figures(study: Study) -> dict[str, float]:
    """Float and fixed point on the whole held-out part, searched in the whole training part."""
    [train], [test] = np.nonzero(study.data.train), np.nonzero(~study.data.train)
    truth = study.labels[test]
    in_float = ranked_in_float(study.clear[train], study.clear[test], TOP)
    in_fixed = ranked_in_fixed(study.features, study.fixed[train], study.fixed[test], TOP)
    right = accuracy(truth, labels_of(study.head, study.clear[test]))
    right_in_fixed = accuracy(truth, labels_of(study.head, study.fixed[test], fixed_point=True))
    return {
        "n_full": len(test),
        "n_full_gallery": len(train),
        "float_full_accuracy": right,
        "fixed_full_accuracy": right_in_fixed,
        "full_accuracy_loss": abs(right - right_in_fixed),
        "full_ranking_overlap_at_5": float(overlap_at_k(in_float, in_fixed, TOP).mean()),
        "full_precision_at_5_float": retrieved(study, train, test, in_float).p_at_5,
        "full_precision_at_5_fixed": retrieved(study, train, test, in_fixed).p_at_5,
    }
