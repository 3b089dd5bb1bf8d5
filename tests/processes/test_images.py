"""From a folder of image files to a private search, by command, in three real processes."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpumpc.deploy.config import write_local
from gpumpc.errors import GpumpcError
from gpumpc.local.compile import Plan, compile
from gpumpc.nn.graph import Conv2d, Flatten, Graph, Input, ReLU
from gpumpc.program.plan import Preprocessing
from tests.processes.cluster import LIMIT_S, PARAMS, ROOT, Cluster, close, images, rewrite

N = 12
CLASSES = ("dark", "light")
RECIPE = Preprocessing(size=(4, 4), mean=(127.0,), std=(128.0,))
FEATURES = Graph(
    (
        Input("x", (), (4, 4, 1), -1.0, 1.0),
        Conv2d("conv", ("x",), (3, 3), 2, padding=(1, 1, 1, 1)),
        ReLU("relu", ("conv",)),
        Flatten("flat", ("relu",)),
    )
)


def features() -> Plan:
    """Two channels: what is light, and what is dark."""
    middle = np.zeros((3, 3, 1, 2))
    middle[1, 1, 0] = 1, -1
    weights = {"conv.weight": middle, "conv.bias": np.zeros(2)}
    return compile((FEATURES, weights), name="light", params=PARAMS, preprocessing=RECIPE)


def head(below: Plan) -> Plan:
    weight = np.stack([-np.tile([1.0, -1.0], 16), np.tile([1.0, -1.0], 16)], axis=1)
    return below.head(weight, np.zeros(2), CLASSES)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Servers of two plans: features, and a head that takes them."""
    folder = tmp_path_factory.mktemp("images")
    below = features()
    below.save(folder / "features")
    head(below).save(folder / "head")
    plans = [folder / "features", folder / "head"]
    cluster = Cluster(write_local(folder / "local", plans, 4, pool="256KiB", timeout_s=30.0), below)
    with cluster:
        for name in ("features", "head"):
            gpumpc(cluster, "share-weights", plan=name)
        yield cluster


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures from dark to light, with some files that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(N):
        grey = np.full((4, 4), 20 * i + 10, dtype=np.uint8)
        grey[i % 4] += 3
        Image.fromarray(grey).save(folder / f"{i:02}.png")
    (folder / "bad.png").write_bytes((folder / "00.png").read_bytes()[:40])
    (folder / "empty.png").write_bytes(b"")
    (folder / "note.txt").write_text("no image")
    return folder


def command(*arguments: object, rc: int = 0) -> str:
    """What `gpumpc` prints on both streams."""
    done = subprocess.run(
        [sys.executable, "-m", "gpumpc", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == rc, done.stderr + done.stdout
    return done.stdout + done.stderr


def gpumpc(cluster: Cluster, *arguments: object, plan: str = "features", rc: int = 0) -> str:
    """A user's command against this cluster."""
    config, folder = cluster.folder / "client.toml", cluster.folder.parent / plan
    return command(*arguments, "--config", config, "--plan", folder, rc=rc)


def test_dealer_of_two_plans_reconnects(cluster: Cluster) -> None:
    """Server 1 wants batches of both plans at once, and does not ask between the hellos."""
    start = len(cluster.log("dealer"))
    cluster.kill("dealer")
    cluster.start()
    log = cluster.wait_log("dealer", "is connected to both servers and agrees", start=start)
    assert "answered a hello with" not in log


def test_disagreeing_dealer_does_not_replace_a_working_one(cluster: Cluster) -> None:
    root, file = cluster.folder.parent, cluster.setup.dealer
    other = features().head(np.ones((32, 2)), np.zeros(2), ("another", "head"))
    other.save(root / "other")
    saved, start = file.read_text(), len(cluster.log("dealer"))
    rewrite(file, plans=[str(root / "features"), str(root / "other")])
    stranger = cluster._spawn("dealer", cluster._commands()["dealer"])
    try:
        assert stranger.wait(20) == 1
    finally:
        stranger.kill()
        file.write_text(saved)
    assert "differs" in cluster.log("dealer")[start:]
    # New weights are a new session, for which only the dealer that was there before can deal.
    pool = cluster.folder / "state1" / "pool"
    before = {path.name.split(".")[0] for path in pool.glob("*.corr")}
    gpumpc(cluster, "share-weights", plan="features")
    deadline = time.monotonic() + 15
    while not {path.name.split(".")[0] for path in pool.glob("*.corr")} - before:
        assert time.monotonic() < deadline, cluster.log("dealer")
        time.sleep(0.1)


def test_a_folder_of_images_is_shared_once(cluster: Cluster, pictures: Path) -> None:
    """The good ones go through and the bad are listed; asked again, nothing is sent twice."""
    text = gpumpc(cluster, "share", pictures, rc=1)
    assert f"{N} images shared, 0 were there already, 3 files left out" in text
    for bad in ("bad.png", "empty.png", "note.txt"):
        assert f"{bad} is refused. Cause: " in text
    text = gpumpc(cluster, "share", pictures / "00.png", pictures / "01.png")
    assert "0 images shared, 2 were there already, 0 files left out" in text
    text = gpumpc(cluster, "list")
    assert f"of this plan: {N} images, 0 features; {N} images in the local catalogue" in text


def test_file_names_stay_at_the_client(cluster: Cluster, pictures: Path) -> None:
    for party in (0, 1):
        for path in (cluster.folder / f"state{party}").rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert b"00.png" not in data and str(pictures).encode() not in data, path


def write_labels(folder: Path, pictures: Path) -> Path:
    rows = [f"{pictures / f'{i:02}.png'},{CLASSES[i > 5]}\n" for i in range(N)]
    (folder / "labels.csv").write_text("".join(["file,label\n", *rows]))
    return folder / "labels.csv"


def test_extract_classify_and_evaluate_by_command(
    cluster: Cluster, pictures: Path, tmp_path: Path
) -> None:
    text = gpumpc(cluster, "extract", pictures / "03.png")
    assert "0 of 1 images are extracted already" in text
    out = tmp_path / "features.npz"
    text = gpumpc(cluster, "extract", "--all", "--out", out)
    assert f"1 of {N} images are extracted already" in text
    assert f"features ({N}, 32) of {N} images saved" in text
    found = np.load(out)
    assert sorted(Path(file).name for file in found["files"]) == [f"{i:02}.png" for i in range(N)]
    text = gpumpc(cluster, "classify", "--all", "--head", cluster.folder.parent / "head")
    for i in range(N):
        assert f"{i:02}.png\t{CLASSES[i > 5]}" in text
    labels = write_labels(tmp_path, pictures)
    row = command("evaluate", out, "--labels", labels, "--metric", "l2", "--json")
    assert json.loads(row)
    below, trained_folder = cluster.folder.parent / "features", tmp_path / "head"
    text = command("train-head", out, "--labels", labels, "--on", below, "--out", trained_folder)
    assert f"of 2 classes, trained on {N} images" in text
    trained = Plan.load(tmp_path / "head")
    assert trained.record.classes == CLASSES
    classes = [CLASSES[int(i)] for i in trained.evaluate(found["features"], fixed_point=True)]
    assert classes == [CLASSES[int(Path(file).stem) > 5] for file in found["files"]]


def test_index_and_search_by_command(cluster: Cluster, pictures: Path, tmp_path: Path) -> None:
    gpumpc(cluster, "index", "create", "greys", "--metric", "l2")
    gpumpc(cluster, "index", "add", "greys", pictures / "00.png")
    assert f"index 'greys' has {N} rows" in gpumpc(cluster, "index", "add", "greys", "--all")
    text = gpumpc(cluster, "search", pictures / "06.png", "--index", "greys", "--top", "3")
    assert text.index("06.png") < min(text.index("05.png"), text.index("07.png"))
    new = tmp_path / "new.png"
    grey = np.full((4, 4), 20 * 8 + 9, dtype=np.uint8)
    Image.fromarray(grey).save(new)
    text = gpumpc(cluster, "search", new, "--index", "greys", "--top", "1")
    assert "08.png" in text
    text = gpumpc(cluster, "list")
    assert f"of this plan: {N} images, {N} features" in text  # the question was deleted again
    text = gpumpc(cluster, "index", "info", "greys")
    assert f"{N} rows of 32 entries, metric l2" in text and "11.png" in text
    assert f"has {N - 1} rows" in gpumpc(cluster, "index", "remove", "greys", pictures / "11.png")


def test_nearest_neighbours_vote_by_command(
    cluster: Cluster, pictures: Path, tmp_path: Path
) -> None:
    labels = write_labels(tmp_path, pictures)
    gpumpc(cluster, "index", "create", "labelled", "--metric", "l2", "--classes", ",".join(CLASSES))
    add = ("index", "add", "labelled", "--all")
    assert f"{N} rows" in gpumpc(cluster, *add, "--labels", labels)
    text = gpumpc(cluster, "classify", "--all", "--index", "labelled", "--top", "3")
    for i in range(N):
        assert f"{i:02}.png\t{CLASSES[i > 5]}" in text
    assert "give each item a label" in gpumpc(cluster, *add, rc=1)
    assert "has no classes" in gpumpc(cluster, "classify", "--all", "--index", "greys", rc=1)
    labels.write_text(re.sub(f",({'|'.join(CLASSES)})", ",grey", labels.read_text()))
    text = gpumpc(cluster, *add, "--labels", labels, rc=1)
    assert "'grey' is not a class of index 'labelled'" in text
    for party in (0, 1):  # names of classes are there, and no row says which it has
        log = cluster.folder / f"state{party}" / "store" / "manifest.sqlite-wal"
        assert "light" in log.read_text(errors="ignore")


@pytest.mark.parametrize(
    "arguments, text",
    [
        (
            ("search", "06.png", "--index", "greys", "--top", "50"),
            "50 neighbours each to index 'greys' of 11 rows",
        ),
        (("search", "06.png", "--index", "none"), "there is no index 'none'"),
        (("search", "bad.png", "--index", "greys"), "bad.png is refused"),
        (("search", "nowhere.png", "--index", "greys"), "neither a file that was shared from here"),
        (("share", "nowhere.png"), "there is no file"),
        (("share", "06.png", "x.npy"), "given together"),
        (("extract",), "items or --all"),
        (("extract", "note.txt"), "neither a file that was shared"),
        (("extract", "--all", "--out", "features.xls"), "cannot be the name of a features file"),
        (("index", "add", "greys", "0" * 32), "item 00000000 is not in the store"),
        (("index", "create", "greys", "--metric", "ip"), "there is an index 'greys' already"),
        (("index", "create", "greys", "--metric", "l1"), "'l1' is not known"),
        (("delete",), "items or --all"),
    ],
)
def test_wrong_commands_are_refused_with_a_hint(
    cluster: Cluster, pictures: Path, arguments: tuple[str, ...], text: str
) -> None:
    start = time.monotonic()
    named = [pictures / word if re.search(r"\.\w{3}$", word) else word for word in arguments]
    said = gpumpc(cluster, *named, rc=1)
    assert text in said and "What to do: " in said and "Traceback" not in said
    assert time.monotonic() - start < LIMIT_S + 5.0  # an interpreter starts, on a busy machine


def test_deleted_images_are_gone_at_both_servers(cluster: Cluster, pictures: Path) -> None:
    assert "1 items deleted at both servers" in gpumpc(cluster, "delete", pictures / "00.png")
    text = gpumpc(cluster, "list")
    left = N - 1
    assert f"of this plan: {left} images, {left} features; {left} images in the local" in text
    assert f"has {N - 3} rows" in gpumpc(cluster, "index", "remove", "greys", pictures / "10.png")
    assert "1 items deleted" in gpumpc(cluster, "delete", "--images-only", pictures / "01.png")
    assert f"{N - 2} images, {N - 1} features" in gpumpc(cluster, "list")


def test_store_is_verified_and_given_a_new_key(tmp_path: Path) -> None:
    cluster = Cluster.make(tmp_path)

    def store(verb: str, *arguments: object, rc: int = 0) -> str:
        return command("store", verb, "--config", cluster.setup.server1, *arguments, rc=rc)

    with cluster:
        with cluster.ready() as client:
            client.share(images(3))
        assert "another process holds" in store("verify", rc=1)
    key, written = cluster.folder / "server1" / "store.key", "1 segments with 3 rows are as they"
    assert written in store("verify")
    old = key.read_text()
    assert "the keys of 3 rows are encrypted under the new master key" in store("rotate-key")
    assert written in store("verify") and key.read_text() != old
    text = store("rotate-key", "--to", "file:elsewhere.key")
    assert 'now set `store_key = "file:elsewhere.key"`' in text
    refused = store("verify", rc=1)
    assert f"{key} is not that of this store" in refused.replace("\n", " ")
    with open(cluster.setup.server1, "a", encoding="utf-8") as file:
        file.write('store_key = "file:elsewhere.key"\n')
    assert written in store("verify")
    [segment] = (cluster.folder / "state1" / "store").glob("*.seg")
    data = segment.read_bytes()
    segment.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert "a byte was changed" in store("verify", rc=1)


_DIE_IN_A_BATCH = """
import os, signal
from gpumpc.wire.channel import Channel
receive = Channel._receive_opening
def receive_or_die(channel):
    if channel._batch == {batch} and channel._out == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return receive(channel)
Channel._receive_opening = receive_or_die
"""
_DIE_DEALING = """
import os, signal
from gpumpc.engine.dealer_engine import DealerEngine
deal = DealerEngine.deal
def deal_and_die(engine, pair_id, nonces, batch, send, task=None):
    if batch == {batch}:
        os.kill(os.getpid(), signal.SIGKILL)
    deal(engine, pair_id, nonces, batch, send, task)
DealerEngine.deal = deal_and_die
"""


@pytest.mark.parametrize("in_flight", [1, 3])
def test_extraction_survives_killing_each_process(tmp_path: Path, in_flight: int) -> None:
    """One process after another dies: 0 results lost, 0 doubled, 0 correlations reused."""
    cluster = Cluster.make(tmp_path, batch_size=4, pool="8KiB")
    for file in (cluster.setup.server0, cluster.setup.server1):
        rewrite(file, in_flight=in_flight)
    x = images(64)
    # Every start opens a new session, which counts from zero.
    faults = {
        "server0": _DIE_IN_A_BATCH.format(batch=3),
        "server1": _DIE_IN_A_BATCH.format(batch=4),
        "dealer": _DIE_DEALING.format(batch=5),
    }
    items = sorted(secrets.token_hex(16) for _ in x)
    for name, fault in faults.items():
        cluster.faults = {name: fault}
        with cluster:
            with cluster.ready() as client:
                if not client.list_inputs():
                    client.share(x, items)
                with pytest.raises(GpumpcError):
                    client.extract(items)
            assert cluster.processes[name].wait(8) == -signal.SIGKILL
    cluster.faults = {}
    with cluster, cluster.ready() as client:
        assert len(client.list_inputs()) == 64
        n_kept = len(client.list_features())
        assert client.extract(items) == items and client.list_features() == sorted(items)
        result = client.features(items).reveal()
        rows = [status.rows for status in client.store_status()]
    assert 8 <= n_kept < 64  # work that was done before a death stayed done
    assert rows[0] == rows[1]
    assert {kind.split("/")[0]: n for kind, n in rows[0].items()} == {"input": 64, "feature": 64}
    assert close(cluster.compiled, x, result)
    begun = Counter(cluster.begun())
    assert not [line for line, times in begun.items() if times > 1]
