"""`gpumpc demo`: real images classified and searched on shares, compared with the clear."""

import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console

from gpumpc.demo import study as st
from gpumpc.demo.cost_plot import layer_costs
from gpumpc.demo.report import Found, Note, Query, Report, class_rows, write_report
from gpumpc.program.compiler import program_of
from gpumpc.progress import counted
from gpumpc.retrieval.evaluation.metrics import accuracy, overlap_at_k
from gpumpc.retrieval.geometry import geometry_of

START_S = 30.0  # for three processes on a busy machine
INDEX = "gallery"
Floats = npt.NDArray[np.float64]

console = Console(stderr=True)


class Secure(NamedTuple):
    """Results that the user revealed, and how long each part took.

    Attributes:
        features: (N, d) of gallery, then queries: revealed to check everything else against.
        labels: (Q,) classes of the queries.
        ranks, scores: (Q, 5) positions in the gallery, and cosines.
        seconds: by part.
    """

    features: Floats
    labels: npt.NDArray[np.str_]
    ranks: npt.NDArray[np.int64]
    scores: Floats
    seconds: dict[str, float]


def run(n_gallery: int, n_queries: int, batch_size: int, folder: Path) -> dict[str, Any]:
    """Run the whole demo, announcing each step; one row of figures."""
    from gpumpc.datasets.fetch import SOURCES, fetch

    start = time.perf_counter()
    fetched = fetch(list(SOURCES), say=lambda text: console.print(text, highlight=False))
    for name, why in fetched.missing.items():
        console.print(f"[yellow]without {name}:[/] {why}")
    ready = time.perf_counter()
    with counted("in the clear, portions") as progress:
        study = st.prepare(n_gallery, n_queries, progress)
    compiled = time.perf_counter()
    secure = _secure(study, batch_size, folder)
    seconds = {"seconds_fetching": ready - start, "seconds_in_the_clear": compiled - ready}
    row = _row(study, secure, batch_size) | seconds | secure.seconds
    row["seconds_total"] = time.perf_counter() - start
    write_report(folder / "report.html", _report(study, secure, row, batch_size))
    return row


def _secure(study: st.Study, batch_size: int, folder: Path) -> Secure:
    """Everything on shares, in three processes, by the owner and the user in this one."""
    from gpumpc.client.client import connect
    from gpumpc.deploy.config import write_local
    from gpumpc.deploy.local_cluster import LocalCluster

    study.features.save(folder / "features")
    study.head.save(folder / "head")
    shutil.rmtree(folder / "cluster", ignore_errors=True)
    setup = write_local(folder / "cluster", [folder / "features", folder / "head"], batch_size)
    text = "starting dealer, server 0 and server 1 as processes; logs are next to their keys in"
    console.print(text, folder / "cluster")
    chosen = np.concatenate([study.gallery, study.queries])
    clock = _Clock()
    with (
        LocalCluster(setup) as cluster,
        connect(setup.client, study.features, START_S) as owner,
        connect(setup.client, study.head, START_S) as classifier,
    ):
        cluster.check()
        owner.wait_connected(START_S)
        for client, model in ((owner, study.features), (classifier, study.head)):
            client.share_weights(model.weights)
            client.wait_ready(START_S)
        clock.lap("seconds_sharing_weights")
        items = owner.share(study.inputs[chosen])
        clock.lap("seconds_sharing_images")
        with counted("features on shares, images", batch_size, len(items)) as progress:
            owner.extract(items, progress)
        clock.lap("seconds_online")
        gallery, queries = items[: len(study.gallery)], items[len(study.gallery) :]
        with counted("classified on shares, images", batch_size, len(queries)) as progress:
            labels = np.array(owner.classify(queries, study.head, progress))
        clock.lap("seconds_classifying")
        index = owner.create_index(INDEX, st.METRIC)
        with counted("taken into the index, batches") as progress:
            index.add(gallery, progress)
        clock.lap("seconds_indexing")
        text = f"searching {len(gallery)} images for the {st.TOP} nearest of each of {len(queries)}"
        console.print(text, "queries")
        scores, found = index.search(queries, st.TOP)
        clock.lap("seconds_searching")
        features = owner.features(items).reveal()
    position = {item: i for i, item in enumerate(gallery)}
    ranks = np.array([[position[item] for item in row] for row in found])
    return Secure(features, labels, ranks, scores, clock.laps)


class _Clock:
    """Seconds between one lap and the next."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _row(study: st.Study, secure: Secure, batch_size: int) -> dict[str, Any]:
    """All figures of a run."""
    from gpumpc.ring.choose import choose_backend

    gallery, queries = study.gallery, study.queries
    n, n_images = len(gallery), len(gallery) + len(queries)
    truth = study.labels[queries]
    in_float = st.ranked_in_float(study.clear[gallery], study.clear[queries], st.TOP)
    # In the clear, from the features that the servers kept: all labels and ranks must equal these.
    kept_labels = st.labels_of(study.head, secure.features[n:], fixed_point=True)
    on_shares = secure.features[:n], secure.features[n:]
    kept_ranks = st.ranked_in_fixed(study.features, *on_shares, st.TOP)
    same_labels, same_ranks = secure.labels == kept_labels, secure.ranks == kept_ranks
    fixed_labels = st.labels_of(study.head, study.fixed[queries], fixed_point=True)
    spread = float(study.clear.std(axis=0).mean())
    error = np.abs(secure.features - study.clear[np.concatenate([gallery, queries])]) / spread
    program = program_of(study.features.record, batch_size)
    params = study.features.record.params
    counts = study.data.counts().values()
    secure_found = st.retrieved(study, gallery, queries, secure.ranks)
    float_found = st.retrieved(study, gallery, queries, in_float)
    return {
        "images": n_images,
        "n_gallery": n,
        "sources": sum(count.n_train_sources + count.n_test_sources for count in counts),
        "n_test": len(queries),
        "accuracy": {
            "chance": 1 / len(study.data.classes),
            "float": accuracy(truth, st.labels_of(study.head, study.clear[queries])),
            "fixed": accuracy(truth, fixed_labels),
            "secure": accuracy(truth, secure.labels),
        },
        **st.full_figures(study),
        "secure_equals_oracle": bool(same_labels.all() and same_ranks.all()),
        "labels_differing": int((~same_labels).sum()),
        "ranks_differing": int((~same_ranks).any(axis=1).sum()),
        "precision_at_1": {"float": float_found.p_at_1, "secure": secure_found.p_at_1},
        "precision_at_5": {"float": float_found.p_at_5, "secure": secure_found.p_at_5},
        "map_at_5": {"float": float_found.map_at_5, "secure": secure_found.map_at_5},
        "ranking_overlap_at_5": float(overlap_at_k(in_float, secure.ranks, st.TOP).mean()),
        "images_per_s": n_images / secure.seconds["seconds_online"],
        "online_bytes_per_image": program.cost.online_bytes // batch_size,
        "offline_bytes_per_image": program.cost.dealer_bytes // batch_size,
        "online_bytes": program.cost.online_bytes * -(-n_images // batch_size),
        "offline_bytes": program.cost.dealer_bytes * -(-n_images // batch_size),
        "rounds_per_batch": program.cost.rounds,
        "rounds": program.cost.rounds,
        "feature_error_max": float(error.max()),
        "feature_error_p999": float(np.quantile(error, 0.999)),
        "backend": choose_backend().name,
        "k": params.ring_bits,
        "f": params.frac_bits,
        "n_threads": 1,
        "bounds": study.features.record.bounds,
        "dim": geometry_of(program, st.METRIC).dim,
    }


def rows_for_people(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures, for people."""
    hits, differ = row["accuracy"], f"{row['labels_differing']} and {row['ranks_differing']} differ"
    overlap, full = row["ranking_overlap_at_5"], row["full_ranking_overlap_at_5"]
    same = "all equal" if row["secure_equals_oracle"] else differ
    archive = f"{row['n_gallery']} in the archive, {row['n_test']} queries"
    accuracies = f"{hits['float']:.3f} / {hits['fixed']:.3f} / {hits['secure']:.3f}"
    held_out = f"{row['float_full_accuracy']:.3f} / {row['fixed_full_accuracy']:.3f}"
    ring = f"k = {row['k']}, f = {row['f']}, {row['bounds']} bounds"

    def compared(key: str) -> str:
        return f"{row[key]['float']:.3f} / {row[key]['secure']:.3f}"

    return [
        ("images", f"{archive}, from {row['sources']} sources"),
        ("accuracy: chance", f"{hits['chance']:.3f}"),
        ("accuracy: float / fixed / secure", accuracies),
        (f"accuracy, all {row['n_full']} held out: float / fixed", held_out),
        ("P@1: float / secure", compared("precision_at_1")),
        ("P@5: float / secure", compared("precision_at_5")),
        ("mAP@5: float / secure", compared("map_at_5")),
        ("top-5 overlap with float: secure", f"{overlap:.3f} (fixed, all held out: {full:.3f})"),
        ("labels and ranks against the clear, on kept features", same),
        ("images a second", f"{row['images_per_s']:.2f}"),
        ("sent by each server, an image", f"{row['online_bytes_per_image'] / 1e6:.2f} MB"),
        ("sent by the dealer, an image", f"{row['offline_bytes_per_image'] / 1e6:.2f} MB"),
        ("rounds a batch", str(row["rounds_per_batch"])),
        ("mode", f"{ring}, private weights, {row['backend']} backend"),
        ("seconds in all", f"{row['seconds_total']:.0f}"),
    ]


_HOW = """Dealer, server 0 and server 1 ran as three processes on one machine and spoke over
encrypted channels. Neither server saw an image, a feature, a weight, a class, a distance or which
rows were found; this page was put together by the user, who holds both halves of every answer.

"Fixed" is the same integer arithmetic in the clear. Labels and ranks are compared with it on the
very features that the servers kept."""
_DATA = """Few sources stand behind these images, and no source is both in the archive and among
the queries; the fundus queries are overlapping patches of one eye. Accuracy therefore says how
close fixed point and shares come to float on real pictures: it does not estimate how well
modalities can be told apart. How the data set is cut was chosen after about fifteen settings had
been looked at on the held-out part.

The head was trained by the model's owner, in the clear, on float features of the training part."""


def _report(study: st.Study, secure: Secure, row: dict[str, Any], batch_size: int) -> Report:
    fixed = st.labels_of(study.head, study.fixed[study.queries], fixed_point=True)
    data = study.data
    asked = []
    for i, position in enumerate(study.queries):
        places = study.gallery[secure.ranks[i]]
        found = [
            Found(data.images[place], str(data.labels[place]), float(score))
            for place, score in zip(places, secure.scores[i], strict=True)
        ]
        image, truth = data.images[position], str(data.labels[position])
        asked.append(Query(image, truth, str(secure.labels[i]), str(fixed[i]), found))
    return Report(
        "Found without being seen",
        rows_for_people(row),
        asked,
        layer_costs(program_of(study.features.record, batch_size).steps, batch_size),
        class_rows(data),
        [Note("How it was computed", _HOW), Note("What the numbers are worth", _DATA)],
        lead="Real medical images, classified and searched by two servers that hold nothing but "
        "random shares of them.",
        score="cosine",
    )
