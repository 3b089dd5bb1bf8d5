"""Canaries among a user's items, through three processes of which one may compute wrongly."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gpumpc.cli.main import app
from gpumpc.client.canaries import Canaries
from gpumpc.client.client import BATCHES_PER_REQUEST, Client
from gpumpc.errors import BadValue, WrongResult
from gpumpc.local.canary_maker import make_canaries
from tests.processes.cluster import BATCH, Cluster, close, images, one_line

# A server that flips one bit of one word of each result share, in every n-th batch while a file
# says n.
FLIPS = """
import pathlib
from gpumpc.engine.evaluation import Evaluation
release = Evaluation.release
def flipped(self, result, batch_index, backend=None):
    released = release(self, result, batch_index, backend)
    file = pathlib.Path({file!r})
    if file.exists() and batch_index % int(file.read_text()) == 0:
        words = released.words.copy()
        words[:, 0] ^= words.dtype.type(1 << (released.bits - 2))
        released = released.with_words(words)
    return released
Evaluation.release = flipped
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster.make(tmp_path_factory.mktemp("canaries"))
    cluster.faults["server1"] = FLIPS.format(file=str(cluster.folder / "flip"))
    with cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.ready() as client:
        yield client


@pytest.fixture
def fault(cluster: Cluster) -> Iterator[Path]:
    """Every third batch is spoiled."""
    file = cluster.folder / "flip"
    file.write_text("3")
    yield file
    file.unlink()


@pytest.fixture(scope="module")
def canaries(cluster: Cluster) -> Canaries:
    made = make_canaries(cluster.compiled)
    return Canaries(made.plan_id, made.plan_id, made.inputs, made.results, made.bounds, 0.5)


def test_items_are_computed_as_without_canaries(
    cluster: Cluster, client: Client, canaries: Canaries
) -> None:
    x = images(5)
    items = client.share(x)
    assert close(cluster.compiled, x, client.run(items, canaries=canaries).reveal())
    assert client.extract(items, canaries=canaries) == items
    assert close(cluster.compiled, x, client.features(items).reveal())
    assert client.list_inputs() == client.list_features() == sorted(items)
    client.delete(items)


def test_200_right_batches_raise_no_alarm(client: Client, canaries: Canaries) -> None:
    """Half of all images are canaries: 200 of them in 200 batches of 2."""
    items = client.share(images(200))
    before = client.plan_status()[0].next_batch
    assert client.run(items, canaries=canaries).reveal().shape == (200, 3)
    assert client.plan_status()[0].next_batch - before == 400 // BATCH
    client.delete(items)


def test_flipped_word_of_one_server_is_found(
    client: Client, canaries: Canaries, fault: Path
) -> None:
    items = client.share(images(40))  # 13 spoiled batches without a canary: a chance of 2^-26
    sealed = client.run(items, canaries=canaries)
    for act in (sealed.reveal, lambda: client.extract(items, canaries=canaries)):
        with pytest.raises(WrongResult, match=r"canary \d+ in batch \d+") as found:
            act()
        assert "use no result of this request" in one_line(found.value)
        assert client.list_inputs() == sorted(items)  # no canary is left
    client.delete(items)


def test_fault_is_found_in_the_request_it_is_in(
    client: Client, canaries: Canaries, fault: Path
) -> None:
    """Later requests are not made: their items have no features."""
    fault.write_text("1")  # spoils every batch
    n = BATCHES_PER_REQUEST * BATCH
    items = client.share(images(2 * n))
    with pytest.raises(WrongResult):
        client.extract(items, canaries=canaries)
    assert 0 < len(client.list_features()) <= n
    client.delete(items)


def test_canaries_of_another_plan_are_refused(client: Client, canaries: Canaries) -> None:
    [item] = client.share(images(1))
    ids = ("0" * 64, "0" * 64)
    other = Canaries(*ids, canaries.inputs, canaries.results, canaries.bounds)
    with pytest.raises(BadValue, match="another plan or head"):
        client.run([item], canaries=other)
    with pytest.raises(BadValue, match="another plan or head"):
        client.extract([item], source=client.plan, canaries=canaries)
    client.delete([item])


def gpumpc(*arguments: object, rc: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == rc, (done.output, done.exception)
    return " ".join(done.output.split())


def test_commands_make_and_mix_in_canaries(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    plan = cluster.folder.parent / "plan"
    options = ("--config", cluster.setup.client, "--plan", plan)
    assert "there is no file of canaries" in gpumpc(
        "extract", "--all", *options, "--canaries", "2%", rc=1
    )
    assert "4 canaries are in" in gpumpc("canaries", "--plan", plan, "-n", 4)
    np.save(tmp_path / "x.npy", images(40))
    gpumpc("canaries", "--plan", plan, "--inputs", tmp_path / "x.npy", "--out", tmp_path / "c.npz")
    items = gpumpc("share", tmp_path / "x.npy", *options).split()[-40:]
    gpumpc("extract", *items[:5], *options, "--canaries", "50%")
    assert client.list_features() == sorted(items[:5])
    wrong = [*options, "--canaries", "0.5", "--canary-file", tmp_path / "c.npz"]
    (cluster.folder / "flip").write_text("1")
    assert "WrongResult" in gpumpc("extract", "--all", *wrong, rc=1)
    assert "WrongResult" in gpumpc("classify", "--all", *wrong, rc=1)
    (cluster.folder / "flip").unlink()
    for more, error in ((("2 cats",), "2%"), (("2%", "--index", "some"), "--index")):
        text = gpumpc("classify", "--all", *options, "--canaries", *more, rc=1)
        assert error in text
    client.delete(items)
