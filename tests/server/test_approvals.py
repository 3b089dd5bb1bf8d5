"""A plan is served only while enough approvers have signed it for the purpose."""

import dataclasses
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpumpc.cli.main import app
from gpumpc.deploy.approvals import ApprovalRules, approve, approvers
from gpumpc.deploy.config import load_server
from gpumpc.deploy.keys import keygen, load_identity
from gpumpc.errors import AccessDenied, ConfigError, RemoteError
from gpumpc.program.plan import plan_hash
from gpumpc.server.access.checks import Access
from tests.local.small_plan import compiled_plan, numbers
from tests.server.running import client_of, served, written

PLAN = compiled_plan()
PLAN_ID = plan_hash(PLAN.record).hex()
NAMES = ("ann", "bob", "eve")
TABLE = """
[approvals]
cards = ["ann/card.toml", "bob/card.toml", "eve/card.toml"]
needed = 2
purpose = "study 12"
folder = "approvals"
"""


@pytest.fixture
def rules(tmp_path: Path) -> ApprovalRules:
    (tmp_path / "approvals").mkdir()
    cards = tuple(keygen(tmp_path / name, name, "user") for name in NAMES)
    return ApprovalRules(cards, 2, "study 12", tmp_path / "approvals")


def signed(rules: ApprovalRules, name: str, plan: str, purpose: str, expires_at: int) -> Path:
    file = rules.folder / f"{len([*rules.folder.iterdir()])}.json"
    approve(load_identity(rules.folder.parent / name), plan, purpose, expires_at, file)
    return file


def test_only_valid_approvals_count(rules: ApprovalRules) -> None:
    signed(rules, "ann", PLAN_ID, "study 12", 200)
    signed(rules, "bob", "0" * 64, "study 12", 200)
    signed(rules, "bob", PLAN_ID, "study 13", 200)
    signed(rules, "bob", PLAN_ID, "study 12", 100)
    keygen(rules.folder.parent / "mallory", "mallory", "user")
    signed(rules, "mallory", PLAN_ID, "study 12", 200)
    (rules.folder / "broken.json").write_bytes(b"{")
    assert approvers(rules, PLAN_ID, 99) == {"ann", "bob"}
    assert approvers(rules, PLAN_ID, 100) == {"ann"} and not approvers(rules, PLAN_ID, 200)
    assert approvers(rules, "0" * 64, 99) == {"bob"}


@pytest.mark.parametrize(
    ("old", "new"), [(b'"bob"', b'"eve"'), (b"100", b"999"), (b"study 13", b"study 12")]
)
def test_changed_approval_counts_for_nothing(rules: ApprovalRules, old: bytes, new: bytes) -> None:
    purpose = "study 13" if old == b"study 13" else "study 12"
    file = signed(rules, "bob", PLAN_ID, purpose, 100)
    text = file.read_bytes()
    assert old in text
    file.write_bytes(text.replace(old, new))
    assert not approvers(rules, PLAN_ID, 50)


def test_refusal_names_who_is_missing(rules: ApprovalRules, tmp_path: Path) -> None:
    setup = written(tmp_path / "x", [PLAN], [], "")
    config = dataclasses.replace(load_server(setup.server0), approvals=rules)
    access = Access(config, {PLAN_ID: PLAN.record})
    soon = int(time.time()) + 1000
    signed(rules, "ann", PLAN_ID, "study 12", soon)
    with pytest.raises(AccessDenied, match=r"1 of 2 approvals hold.*here of bob, eve\."):
        access.check_approved(PLAN_ID)
    signed(rules, "eve", PLAN_ID, "study 12", soon)
    access.check_approved(PLAN_ID)
    more = Access(dataclasses.replace(config, approvals=None), {PLAN_ID: PLAN.record})
    assert {*access.agreed()} - {*more.agreed()} == {"approvals needed", "who may approve"}


def test_plan_is_served_once_both_servers_have_approvals(tmp_path: Path) -> None:
    setup = written(tmp_path, [PLAN], NAMES, TABLE)
    (setup.folder / "approvals").mkdir()
    with served(setup), client_of(setup, "user", PLAN) as client:
        client.wait_connected(10.0)
        for action in (
            lambda: client.share_weights(PLAN.weights),
            lambda: client.share(numbers(1, 4, 4, 1)),
        ):
            with pytest.raises(RemoteError, match="AccessDenied: plan 'tiny' is not served: 0 of"):
                action()
        assert not client.list_inputs()
        for name in NAMES[:2]:
            words = ["approve", "--plan", str(tmp_path / "plan0"), "--days", "1"]
            words += ["--identity", str(setup.folder / name), "--purpose", "study 12"]
            words += ["--out", str(setup.folder / "approvals" / f"{name}.json")]
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, result.output
        client.share_weights(PLAN.weights)
        assert client.share(numbers(1, 4, 4, 1))


def test_approvers_are_listed_once_and_enough(tmp_path: Path) -> None:
    setup = written(tmp_path, [PLAN], NAMES, TABLE)
    text = setup.server0.read_text()
    for old, new in (("needed = 2", "needed = 4"), ('"eve/card.toml"]\nn', '"bob/card.toml"]\nn')):
        assert old in text
        setup.server0.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match="`approvals.cards` must name each approver once"):
            load_server(setup.server0)
