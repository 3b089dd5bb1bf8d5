"""The owner's statement is kept beside the weights, told to clients, and checked by them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gpumpc import messages as m
from gpumpc.cli.servers import doctor
from gpumpc.client.client import connect
from gpumpc.deploy.config import LocalSetup, load_client
from gpumpc.deploy.keys import Card, load_card
from gpumpc.deploy.signatures import verify
from gpumpc.errors import AccessDenied, ConfigError
from gpumpc.server.access.weight_statements import WeightStatements
from tests.local.small_plan import compiled_plan
from tests.server.running import client_of, served, share_weights, written

PLAN = compiled_plan()
STATEMENT = m.WeightStatement("ann", 1, ("0" * 64, "1" * 64), "2" * 128)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSetup]:
    setup = written(tmp_path_factory.mktemp("statements"), [PLAN], ["ann"], "")
    with served(setup):
        share_weights(setup, [PLAN])
    with served(setup):  # it outlives the process
        yield setup


def card_of(setup: LocalSetup, name: str) -> Card:
    return load_card(setup.folder / name / "card.toml")


def statement_of(status: m.PlanStatus) -> m.WeightStatement:
    assert status.statement is not None
    return status.statement


def test_both_servers_tell_who_shared_the_weights(setup: LocalSetup) -> None:
    with client_of(setup, "ann", PLAN) as ann:
        ann.wait_ready(10.0)
        first, second = ann.plan_status()
    for status in (first, second):
        found = statement_of(status)
        text = m.weights_statement(first.fields["plan"], first.weight_sharing_id, found.halves)
        verify(card_of(setup, "user"), "weights", text, bytes.fromhex(found.signature))
        assert found.shared_by == "user" and found.shared_at > 1_700_000_000
    assert statement_of(first).signature == statement_of(second).signature
    assert "shared by user, 2" in doctor._weights(first)


def test_client_refuses_weights_of_another_owner(setup: LocalSetup) -> None:
    config = load_client(setup.client)
    with connect(dataclasses.replace(config, owner=card_of(setup, "user")), PLAN) as client:
        client.wait_ready(10.0)
    other = dataclasses.replace(config, owner=card_of(setup, "ann"))
    with pytest.raises(AccessDenied, match="not from ann.* user shared them.*`owner_card`"):
        connect(other, PLAN)


def test_client_refuses_weights_without_a_statement(setup: LocalSetup) -> None:
    config = dataclasses.replace(load_client(setup.client), owner=card_of(setup, "user"))
    with connect(config, PLAN) as client:
        client.wait_ready(10.0)
        first, _ = client.plan_status()
        lost = msgspec.structs.replace(first, statement=None)
        foreign = msgspec.structs.replace(first, weight_sharing_id="0" * 32)
        for changed in (lost, foreign):
            with pytest.raises(AccessDenied, match="server 0 has weights of plan 'tiny' not from"):
                client.served._check_owner(changed, 0)


def test_owner_card_is_read_and_its_role_checked(setup: LocalSetup, tmp_path: Path) -> None:
    text = setup.client.read_text()
    file = setup.folder / "other.toml"
    file.write_text(text + 'owner_card = "ann/card.toml"\n')
    assert load_client(file).owner == card_of(setup, "ann")
    file.write_text(text + 'owner_card = "server0/card.toml"\n')
    with pytest.raises(ConfigError, match="`owner_card` names a card with the role server0"):
        load_client(file)


def test_statement_of_older_weights_is_dropped(tmp_path: Path) -> None:
    statements = WeightStatements(tmp_path)
    for sharing in ("old", "new", "new"):  # the last again, after a crash
        statements.add("p" * 64, sharing, STATEMENT)
    statements.add("q" * 64, "old", STATEMENT)
    statements.keep_only("p" * 64, "new")
    found = [
        WeightStatements(tmp_path).find(*key) for key in (("p" * 64, "old"), ("q" * 64, "old"))
    ]
    assert found == [None, STATEMENT]
    assert WeightStatements(tmp_path).find("p" * 64, "new") == STATEMENT
    for file in tmp_path.glob("p*"):
        file.write_bytes(b"{")
    assert WeightStatements(tmp_path).find("p" * 64, "new") is None
