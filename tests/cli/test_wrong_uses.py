"""Wrong uses of the command line: each is told in three parts, before anything is sent."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gpumpc.cli.main import app
from gpumpc.client import connection
from gpumpc.client.client import Client
from gpumpc.deploy.config import write_local
from tests.client.fake_server import PLAN, FakeServer
from tests.processes.cluster import BATCH, images

ITEM = "0123456789abcdef" * 2
HERE = "--config {f}/local/client.toml --plan {f}/plan"

# Command, exit code (2: its usage is wrong) and words that must come.
ROWS: tuple[tuple[str, int, str], ...] = (
    ("up --plan {f}/plan", 1, "only --local"),
    ("up --local", 2, "missing option '--plan'"),
    ("up --local --plan {f}/none --folder {f}/new", 1, "gpumpc compile"),
    ("up --local --plan {f}/plan --folder {f}/new --pool 5apples", 1, "'5apples' is not a size"),
    ("up --local --plan {f}/plan --folder {f}/new --batch-size 0", 2, "greater than or equal to 1"),
    ("up --local --plan {f}/plan --folder {f}/text.toml", 1, "is not a folder"),
    ("keygen {f}/new --role king", 1, "role 'king'"),
    ("dealer --config {f}", 1, "path of a file"),
    ("dealer --config {f}/text.toml", 1, "not TOML"),
    ("server --config {f}/none.toml --party 0", 1, "gpumpc up --local"),
    ("server --config {f}/local/server0.toml --party 1", 1, "is of party 0"),
    ("server --config {f}/local/server0.toml --party 2", 2, "less than or equal to 1"),
    ("server --config {f}/local/client.toml --party 0", 1, "has the unknown field"),
    ("compile resnet99 --out {f}/new", 1, "there is no network"),
    ("compile {f}/none.pt2 --out {f}/new", 1, "none.pt2"),
    ("compile {f}/text.toml --out {f}/new", 1, "torch.export.save"),
    ("compile lenet --out {f}/new --ring-bits 99", 1, "k = 99"),
    ("compile lenet --out {f}/new --frac-bits 0", 1, "f = 0"),
    ("compile lenet --out {f}/new --weights Public", 1, "private or public"),
    ("compile lenet --out {f}/new --policy best", 1, "top5"),
    ("compile lenet --out {f}/new --bounds sure", 1, "calibrated"),
    ("share-weights --config {f}/local/client.toml --plan {f}/empty", 1, "gpumpc compile"),
    ("share {f}/none.png " + HERE, 1, "there is no file"),
    ("share {f}/two.npy {f}/text.toml " + HERE, 1, "share arrays alone"),
    ("share {f}/text.npy " + HERE, 1, "float array"),
    ("share {f}/text.toml " + HERE, 1, "not an image of a known kind"),
    ("share {f}/two.npy --axis 3 " + HERE, 2, "less than or equal to 2"),
    ("extract " + HERE, 1, "use --all"),
    ("extract " + ITEM + " --all " + HERE, 1, "not both"),
    ("extract a.png " + HERE, 1, "gpumpc list"),
    ("extract " + ITEM + " --out {f}/y.txt " + HERE, 1, ".npz or .csv"),
    ("extract " + ITEM + " --canaries two " + HERE, 1, "2% or 0.02"),
    ("extract " + ITEM + " --canaries 90% " + HERE, 1, "gpumpc canaries"),
    ("classify " + ITEM + " --canaries 2% --index a " + HERE, 1, "leave one of them out"),
    ("classify " + ITEM + " --top 0 --index a " + HERE, 2, "greater than or equal to 1"),
    ("search a.png --index a " + HERE, 1, "gpumpc list"),
    ("search a.png --index a --top -1 " + HERE, 2, "greater than or equal to 1"),
    ("delete " + HERE, 1, "use --all"),
    ("delete a.png " + HERE, 1, "gpumpc list"),
    ("index create A/B " + HERE, 1, "1 to 40"),
    ("index create a --metric cos " + HERE, 1, "l2, ip or cosine"),
    ("index create a --classes x,x " + HERE, 1, "each class once"),
    ("index info A/B " + HERE, 1, "1 to 40"),
    ("index remove a " + HERE, 1, "use --all"),
    ("index delete A/B " + HERE, 1, "1 to 40"),
    ("list --config {f}/local/client.toml --plan {f}/text.toml", 1, "a plan is a folder"),
    ("canaries --plan {f}/empty", 1, "gpumpc compile"),
    ("canaries --plan {f}/plan --inputs {f}/text.npy", 1, "float array"),
    ("canaries --plan {f}/plan -n 0", 2, "greater than or equal to 1"),
    ("store verify --config {f}/none.toml", 1, "gpumpc up --local"),
    ("store rotate-key --config {f}/local/server0.toml --to nowhere", 1, "file:"),
    ("data build none --out {f}/new", 1, "there is no benchmark"),
    ("data fetch none", 1, "none"),
    ("doctor --config {f}/none.toml", 1, "gpumpc up --local"),
    ("bench none", 1, "none"),
    ("bench relu --n -1", 2, "greater than or equal to 0"),
    ("bench relu --n 10 --in-flight 2", 1, "give --net"),
    ("bench relu --n 10 --backend tpu", 1, "choose one of these"),
    ("bench relu --n 10 --ring-bits 5", 1, "k = 5"),
    ("evaluate {f}/none.npz --labels {f}/none.csv", 1, "none.csv"),
    ("train-head {f}/none.npz --labels l.csv --on {f}/plan --out {f}/new", 1, "none.npz"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("wrong")
    PLAN.save(folder / "plan")
    write_local(folder / "local", [folder / "plan"], BATCH)
    (folder / "empty").mkdir()
    (folder / "text.toml").write_text("neither TOML nor an image")
    np.save(folder / "text.npy", np.array(["a", "b"]))
    np.save(folder / "two.npy", images(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "Requester", FakeServer)
        yield folder


def made(folder: Path) -> set[Path]:
    """All files but the catalogue, which every verb opens."""
    return {path for path in folder.rglob("*") if not path.name.startswith("catalog.sqlite")}


@pytest.mark.parametrize(("command", "code", "words"), ROWS, ids=[row[0] for row in ROWS])
def test_wrong_use_is_told(folder: Path, command: str, code: int, words: str) -> None:
    FakeServer.sent.clear()
    before = made(folder)
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, command.format(f=folder).split())
    said = " ".join(done.output.replace("│", " ").split())
    assert isinstance(done.exception, SystemExit), (said, done.exception)
    assert done.exit_code == code and words.lower() in said.lower(), said
    if code == 1:
        assert "Cause:" in said and "What to do:" in said, said
    assert not FakeServer.sent
    assert made(folder) == before


def test_delete_names_items_that_are_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[list[str]] = []
    monkeypatch.setattr(Client, "delete", lambda _, items, *more: deleted.append(items))
    done = CliRunner().invoke(app, f"delete {ITEM} {HERE}".format(f=folder).split())
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and deleted == [[ITEM]]
    assert f"item {ITEM} was at neither server" in said and "0 items deleted" in said
