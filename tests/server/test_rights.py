"""Rights by plan at two running servers."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gpumpc.deploy.config import LocalSetup, load_server
from gpumpc.deploy.keys import keygen
from gpumpc.deploy.rights import RIGHTS, Budget
from gpumpc.errors import HandshakeMismatch, RemoteError
from gpumpc.server.server import Server
from tests.local.small_plan import compiled_plan, numbers
from tests.server.running import client_of, served, share_weights, written

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "rights.md").read_text()
PLAN = compiled_plan()
WEIGHT = np.random.default_rng(5).uniform(-1, 1, (3, 4))
LABEL = PLAN.head(WEIGHT, np.zeros(4), list("abcd"), "label")
LOGITS = PLAN.head(WEIGHT, np.zeros(4), list("abcd"), "logits")
TABLES = """
[rights.tiny]
share = ["ann"]
extract = ["ann"]

[rights.tiny-label]
classify = { ann = "label" }

[rights.tiny-logits]
classify = { ann = "label" }
"""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSetup]:
    plans = [PLAN, LABEL, LOGITS]
    setup = written(tmp_path_factory.mktemp("rights"), plans, ["ann"], TABLES)
    with served(setup):
        share_weights(setup, plans)
        yield setup


def denied(action: Callable[[], object], right: str) -> None:
    pattern = f"reports AccessDenied: ann has no right to {right}\\."
    with pytest.raises(RemoteError, match=pattern):
        action()


def test_who_may_classify_learns_labels_and_nothing_else(setup: LocalSetup) -> None:
    with client_of(setup, "ann", PLAN) as ann:
        x = numbers(3, 4, 4, 1)
        items = ann.extract(ann.share(x))
        logits = PLAN.evaluate(x) @ WEIGHT
        assert ann.classify(items, LABEL) == ["abcd"[i] for i in logits.argmax(axis=1)]
        denied(lambda: ann.classify(items, LOGITS), "run with plan 'tiny-logits'")
        denied(lambda: ann.run(items), "run with plan 'tiny'")
        denied(lambda: ann.features(items), "fetch with plan 'tiny'")
        denied(lambda: ann.create_index("rows"), "search with plan 'tiny'")
        ann.delete(items)
        assert not ann.list_inputs()


def test_owner_is_denied_what_no_table_grants(setup: LocalSetup) -> None:
    with (
        client_of(setup, "user", PLAN) as owner,
        pytest.raises(RemoteError, match="right to share"),
    ):
        owner.share(numbers(1, 4, 4, 1))


def test_servers_with_different_rights_do_not_start(tmp_path: Path) -> None:
    setup = written(tmp_path, [PLAN], ["ann"], TABLES.partition("[rights.tiny-label]")[0])
    text = setup.server1.read_text()
    setup.server1.write_text(text.replace('extract = ["ann"]', 'extract = ["ann", "user"]'))
    found: list[str] = []

    def run(server: Server) -> None:
        with pytest.raises(HandshakeMismatch) as caught:
            server.run()
        found.append(caught.value.field)

    servers = [Server(load_server(file)) for file in (setup.server0, setup.server1)]
    threads = [threading.Thread(target=run, args=[server]) for server in servers]
    for thread in threads:
        thread.start()
    threads[0].join(10.0)
    for server in servers:
        server.stop()
    for thread in threads:
        thread.join()
    assert found == ["who may extract with plan 'tiny'"] * 2


def test_documented_rights_load(tmp_path: Path) -> None:
    tables = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert len(tables) == 3
    setup = written(tmp_path, [PLAN], ["clinic", "lab"], "\n".join(tables))
    for name in ("ethics", "radiology", "it"):
        keygen(setup.folder / name, name, "user")
        (setup.folder / "cards").mkdir(exist_ok=True)
        card = setup.folder / name / "card.toml"
        card.rename(setup.folder / "cards" / f"{name}.toml")
    config = load_server(setup.server0)
    rights, approvals = config.rights, config.approvals
    assert approvals and (len(approvals.cards), approvals.needed) == (3, 2)
    assert config.budgets == {"lite0": Budget(1000, 200)}
    assert [*rights] == ["lite0", "lite0-label"]
    assert rights["lite0-label"].granted("classify") == ["clinic label", "lab logits"]
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE)
    assert rows == [*RIGHTS] and rights["lite0"].granted("search") == ["clinic"]
