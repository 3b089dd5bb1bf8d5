"""Wrong uses of the public interface: each is an error in three parts, before anything is sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpumpc
from gpumpc import SecureFeatureExtractor, errors
from gpumpc.client import connection
from gpumpc.client.canaries import Canaries
from gpumpc.deploy.config import write_local
from gpumpc.errors import (
    BadShape,
    BadValue,
    ConfigError,
    CorruptPlan,
    GpumpcError,
    MissingFile,
    OutOfRange,
)
from tests.client.fake_server import PLAN, FakeServer
from tests.processes.cluster import BATCH, images, tiny

ITEM, OTHER = "0123456789abcdef" * 2, "f" * 32
X = images(2)

API: Any = gpumpc  # so that wrong types pass the type checker
NAN, INF = float("nan"), float("inf")


@dataclasses.dataclass
class World:
    """What a call is made on; `folder` holds the files that it may name."""

    folder: Path
    client: Any
    index: Any
    labelled: Any
    extractor: Any

    @property
    def config(self) -> Path:
        return self.folder / "local" / "client.toml"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("wrong")
    PLAN.save(folder / "plan")
    setup = write_local(folder / "local", [folder / "plan"], BATCH)
    (folder / "empty").mkdir()
    (folder / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (folder / "no_toml.toml").write_text("this is no TOML")
    (folder / "lacks.toml").write_text('identity = "user"\n')
    (folder / "broken").mkdir()
    (folder / "broken" / "plan.json").write_text('{"format": 1')
    (folder / "other.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "Requester", FakeServer)
        with gpumpc.connect(setup.client, PLAN) as client:
            index = gpumpc.Index(client.served, "archive", "cosine")
            labelled = gpumpc.Index(client.served, "archive", "cosine", ("dark", "light"))
            extractor = SecureFeatureExtractor(client)
            yield World(folder, client, index, labelled, extractor)


def canaries(**changed: Any) -> Canaries:
    one = np.zeros((1, 3))
    given = {"plan_id": "a", "result_plan_id": "a", "inputs": X[:1], "results": one, "bounds": one}
    return Canaries(**{**given, **changed})


Call = Callable[[World], object]
Rows = dict[str, tuple[Call, type[GpumpcError], str]]

SHARING: Rows = {
    "share a text": (lambda w: w.client.share("x"), BadValue, "float array"),
    "share texts": (lambda w: w.client.share(["a.png", "b.png"]), BadValue, "float array"),
    "share None": (lambda w: w.client.share(None), BadValue, "float array"),
    "share complex numbers": (lambda w: w.client.share(X + 1j), BadValue, "complex128"),
    "share dates": (lambda w: w.client.share(np.array(["2020"], "M8[D]")), BadValue, "datetime64"),
    "share ragged rows": (lambda w: w.client.share([[1.0], [1.0, 2.0]]), BadShape, "one array"),
    "share one image": (lambda w: w.client.share(X[0]), BadShape, "channels last"),
    "share channels first": (lambda w: w.client.share(X.transpose(0, 3, 1, 2)), BadShape, "last"),
    "share no image": (lambda w: w.client.share(X[:0]), BadShape, "at least one"),
    "share a number": (lambda w: w.client.share(5), BadShape, "batch"),
    "share NaN": (lambda w: w.client.share(X * NAN), BadValue, "nan"),
    "share infinity": (lambda w: w.client.share(X + INF), BadValue, "infinity"),
    "share bytes of pixels": (lambda w: w.client.share(X * 0 + 255), OutOfRange, "declares"),
    "share under one text": (lambda w: w.client.share(X, ITEM), BadValue, "a list of texts"),
    "share under numbers": (lambda w: w.client.share(X, [1, 2]), BadValue, "items[0] is 1"),
    "share under file names": (lambda w: w.client.share(X, ["a", "b"]), BadValue, "32 hex"),
    "share under a set": (lambda w: w.client.share(X, {ITEM, OTHER}), BadValue, "in order"),
    "share under too few ids": (lambda w: w.client.share(X, [ITEM]), BadShape, "1 ids came for 2"),
    "share under one id twice": (lambda w: w.client.share(X, [ITEM] * 2), BadShape, "of its own"),
    "share with a number for progress": (
        lambda w: w.client.share(X, None, 3),
        BadValue,
        "progress=3",
    ),
    "share weights of another plan": (
        lambda w: w.client.share_weights(tiny(2).weights),
        BadValue,
        "together",
    ),
}

ITEMS: Rows = {
    "run one text": (lambda w: w.client.run(ITEM), BadValue, "also for one"),
    "run nothing": (lambda w: w.client.run([]), BadShape, "name at least one"),
    "run floats": (lambda w: w.client.run([1.5]), BadValue, "items[0] is 1.5"),
    "run None": (lambda w: w.client.run(None), BadValue, "items=None"),
    "run images": (lambda w: w.client.run(X), BadValue, "items[0] is a list"),
    "run an upper-case id": (lambda w: w.client.run(["A" * 32]), BadValue, "32 hex"),
    "run an id with a newline": (lambda w: w.client.run([ITEM + "\n"]), BadValue, "32 hex"),
    "run with items swapped": (
        lambda w: w.client.run([ITEM], [OTHER]),
        BadValue,
        "progress=a list",
    ),
    "run with a number as source": (lambda w: w.client.run([ITEM], source=3), BadValue, "plan=3"),
    "run with a fraction as canaries": (
        lambda w: w.client.run([ITEM], canaries=0.02),
        BadValue,
        "canaries.load",
    ),
    "run with canaries of another plan": (
        lambda w: w.client.run([ITEM], canaries=canaries()),
        BadValue,
        "another plan",
    ),
    "extract one text": (lambda w: w.client.extract(ITEM), BadValue, "a list"),
    "extract a mapping": (lambda w: w.client.extract({ITEM: 1}), BadValue, "a dict"),
    "extract with a text as progress": (
        lambda w: w.client.extract([ITEM], "yes"),
        BadValue,
        "progress='yes'",
    ),
    "reveal features of nothing": (lambda w: w.client.features([]), BadShape, "nothing to compute"),
    "reveal features of numbers": (lambda w: w.client.features([0]), BadValue, "items[0] is 0"),
    "classify nothing": (lambda w: w.client.classify([]), BadShape, "name at least one"),
    "classify by an absent head": (
        lambda w: w.client.classify([ITEM], w.folder / "none"),
        MissingFile,
        "plan.save",
    ),
    "classify by a number": (lambda w: w.client.classify([ITEM], 7), BadValue, "plan=7"),
    "delete one text": (lambda w: w.client.delete(ITEM), BadValue, "a list"),
    "delete file names": (lambda w: w.client.delete(["a.png"]), BadValue, "'a.png'"),
    "delete bytes": (lambda w: w.client.delete([b"a"]), BadValue, "a bytes"),
    "wait for ever": (lambda w: w.client.wait_ready(INF), BadValue, "finite"),
    "wait for a text": (lambda w: w.client.wait_ready("10"), BadValue, "timeout_s='10'"),
}

INDEXES: Rows = {
    "an index without a name": (lambda w: w.client.create_index(""), BadValue, "1 to 40"),
    "an index with a newline": (lambda w: w.client.create_index("a\n"), BadValue, "'a\\n'"),
    "an index with a long name": (lambda w: w.client.create_index("a" * 41), BadValue, "1 to 40"),
    "an index named by a number": (lambda w: w.client.create_index(5), BadValue, "name 5"),
    "an index of no metric": (lambda w: w.client.create_index("a", "cos"), BadValue, "cosine"),
    "an index of a number as metric": (lambda w: w.client.create_index("a", 2), BadValue, "cosine"),
    "an index of another length": (
        lambda w: w.client.create_index("a", dim=2),
        BadShape,
        "leave `dim` out",
    ),
    "classes as one text": (
        lambda w: w.client.create_index("a", classes="dark"),
        BadValue,
        "a list of texts",
    ),
    "classes twice": (
        lambda w: w.client.create_index("a", classes=["x", "x"]),
        BadValue,
        "each class once",
    ),
    "a class without a name": (
        lambda w: w.client.create_index("a", classes=["x", ""]),
        BadValue,
        "1 to 80",
    ),
    "open an index by a path": (lambda w: w.client.open_index("out/a"), BadValue, "1 to 40"),
    "delete an index by None": (lambda w: w.client.delete_index(None), BadValue, "name None"),
    "load an index from a number": (lambda w: w.client.load_index(1), BadValue, "path=1"),
    "load an absent index": (lambda w: w.client.load_index(w.folder / "no"), MissingFile, "save"),
    "load a folder": (lambda w: w.client.load_index(w.folder), CorruptPlan, "not a saved index"),
    "load another JSON": (
        lambda w: w.client.load_index(w.folder / "other.json"),
        CorruptPlan,
        "not a saved index",
    ),
    "save an index nowhere": (lambda w: w.index.save(""), BadValue, "path=''"),
    "save an index in a folder": (lambda w: w.index.save(w.folder), ConfigError, "not of a folder"),
    "add one text": (lambda w: w.index.add(ITEM), BadValue, "a list"),
    "add with labels to no classes": (
        lambda w: w.index.add([ITEM], None, ["dark"]),
        BadShape,
        "0 classes",
    ),
    "add without labels": (lambda w: w.labelled.add([ITEM]), BadShape, "give each item a label"),
    "add with a text as labels": (
        lambda w: w.labelled.add([ITEM], None, "dark"),
        BadValue,
        "labels='dark'",
    ),
    "add with an unknown label": (
        lambda w: w.labelled.add([ITEM], None, ["grey"]),
        BadValue,
        "'grey'",
    ),
    "remove nothing": (lambda w: w.index.remove([]), BadShape, "name at least one"),
    "search k of 0": (lambda w: w.index.search([ITEM], 0), BadValue, "k=0"),
    "search k below 0": (lambda w: w.index.search([ITEM], -1), BadValue, "k=-1"),
    "search a half k": (lambda w: w.index.search([ITEM], 2.5), BadValue, "k=2.5"),
    "search k of True": (lambda w: w.index.search([ITEM], True), BadValue, "k=True"),
    "search a huge k": (lambda w: w.index.search([ITEM], 1 << 30), BadValue, "16777216"),
    "search swapped arguments": (lambda w: w.index.search(5, [ITEM]), BadValue, "items=5"),
    "search nothing": (lambda w: w.index.search([], 5), BadShape, "name at least one"),
    "vote with k of 0": (lambda w: w.labelled.classify([ITEM], 0), BadValue, "k=0"),
    "vote without classes": (lambda w: w.index.classify([ITEM]), BadValue, "use `search`"),
}

CONNECTING: Rows = {
    "connect by a number": (lambda w: API.connect(3, PLAN), BadValue, "config=3"),
    "connect by an absent file": (
        lambda w: API.connect(w.folder / "no.toml", PLAN),
        MissingFile,
        "gpumpc up",
    ),
    "connect by a folder": (lambda w: API.connect(w.folder, PLAN), ConfigError, "of a folder"),
    "connect by no text": (
        lambda w: API.connect(w.folder / "binary.toml", PLAN),
        ConfigError,
        "not toml",
    ),
    "connect by no TOML": (
        lambda w: API.connect(w.folder / "no_toml.toml", PLAN),
        ConfigError,
        "not toml",
    ),
    "connect by a file that lacks a key": (
        lambda w: API.connect(w.folder / "lacks.toml", PLAN),
        ConfigError,
        "server_endpoints",
    ),
    "connect to no plan": (lambda w: API.connect(w.config, None), BadValue, "plan=None"),
    "connect to an absent plan": (
        lambda w: API.connect(w.config, w.folder / "empty"),
        MissingFile,
        "gpumpc compile",
    ),
    "connect to a file as plan": (
        lambda w: API.connect(w.config, w.folder / "other.json"),
        MissingFile,
        "a plan is a folder",
    ),
    "connect to a broken plan": (
        lambda w: API.connect(w.config, w.folder / "broken"),
        CorruptPlan,
        "compile the model again",
    ),
    "connect with swapped arguments": (
        lambda w: API.connect(w.folder / "plan", w.config),
        ConfigError,
        "of a folder",
    ),
    "connect for a negative time": (
        lambda w: API.connect(w.config, PLAN, -1),
        BadValue,
        "timeout_s=-1",
    ),
    "transform one path": (lambda w: w.extractor.transform("a.png"), BadValue, "pass ['a.png']"),
    "transform no image": (lambda w: w.extractor.transform(X[:0]), BadShape, "at least one"),
    "an extractor of nothing": (
        lambda w: API.SecureFeatureExtractor().fit(X),
        ConfigError,
        "pass plan=",
    ),
    "an extractor of no plan": (
        lambda w: API.SecureFeatureExtractor(config="x", plan=5).fit(X),
        BadValue,
        "plan=5",
    ),
    "an unknown parameter": (lambda w: w.extractor.set_params(layer=3), BadValue, "progress"),
}

ROWS: Rows = {**SHARING, **ITEMS, **INDEXES, **CONNECTING}


@pytest.mark.parametrize("name", ROWS)
def test_wrong_use_is_named_before_work_begins(name: str, world: World) -> None:
    call, kind, word = ROWS[name]
    FakeServer.sent.clear()
    before = {*world.folder.rglob("*")}
    with pytest.raises(GpumpcError) as caught:
        call(world)
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.what and error.why and error.hint, repr(error)
    assert word.lower() in str(error).lower()
    assert not FakeServer.sent
    assert {*world.folder.rglob("*")} == before


def test_no_row_hides_another() -> None:
    assert len(ROWS) == sum(map(len, (SHARING, ITEMS, INDEXES, CONNECTING)))


@pytest.mark.parametrize(
    "right",
    [
        lambda w: w.client.run([ITEM]),
        lambda w: w.client.delete(np.array([ITEM])),
        lambda w: w.client.create_index("archive"),
        lambda w: w.index.search([ITEM], np.int64(3)),
        lambda w: w.labelled.add([ITEM], None, ("dark",)),
    ],
)
def test_right_use_reaches_the_servers(right: Call, world: World) -> None:
    FakeServer.sent.clear()
    with pytest.raises(errors.PeerTimeout):
        right(world)
    assert FakeServer.sent


def test_nothing_to_do_is_no_error(world: World) -> None:
    FakeServer.sent.clear()
    assert world.client.extract([]) == []
    world.client.delete([])
    world.index.add([])
    assert not FakeServer.sent
