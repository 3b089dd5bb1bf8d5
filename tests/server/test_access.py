"""Rights by plan: what each client may do, and what the two servers compare of it."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest

from gpumpc import messages as m
from gpumpc.deploy.config import ServerConfig, load_server, write_local
from gpumpc.deploy.keys import keygen
from gpumpc.deploy.rights import RIGHTS, Budget, Right, Rights
from gpumpc.errors import AccessDenied, ConfigError, HandshakeMismatch
from gpumpc.program.head import Policy
from gpumpc.program.plan import PlanRecord
from gpumpc.server.access.checks import Access, policy_of
from gpumpc.server.requests.handler import _REQUESTS
from gpumpc.wire.handshake import compare
from tests.local.small_plan import LAYERS, compiled_plan

PLAN = compiled_plan().record
ZEROS = np.zeros((3, 6))


def head(policy: Policy) -> PlanRecord:
    return compiled_plan().head(ZEROS, ZEROS[0], list("abcdef"), policy).record


HEADS = {policy: head(policy) for policy in get_args(Policy)}


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    """Of a server with users ann and bob, and an owner who is no user."""
    config = load_server(write_local(tmp_path / "local", [tmp_path / "plan"], 2).server0)
    users = tuple(keygen(tmp_path / name, name, "user") for name in ("ann", "bob"))
    owner = keygen(tmp_path / "owner", "owner", "owner")
    return dataclasses.replace(config, users=users, owners=(owner,), plan_owners=(owner,))


def access(config: ServerConfig, plan: PlanRecord = PLAN, **rights: object) -> Access:
    tables = {plan.name: msgspec.convert(rights, Rights)} if rights else {}
    return Access(dataclasses.replace(config, rights=tables), {"p": plan})


def allowed(found: Access, client: str) -> set[Right]:
    rights = set[Right]()
    for right in RIGHTS:
        try:
            found.check(client, "p", right)
            rights.add(right)
        except AccessDenied:
            pass
    return rights


def test_without_tables_users_may_do_all_and_owners_none(config: ServerConfig) -> None:
    found = access(config)
    assert allowed(found, "ann") == {*RIGHTS} and allowed(found, "owner") == set()
    assert not found.agreed()
    with pytest.raises(AccessDenied, match="add 'owner' to `user_cards`"):
        found.check("owner", "p", "share")


def test_what_no_table_grants_is_denied(config: ServerConfig) -> None:
    found = access(config, share=["ann", "owner"], search=["bob"])
    assert [allowed(found, name) for name in ("ann", "bob", "owner")] == [
        {"share"},
        {"search"},
        {"share"},
    ]
    other = dataclasses.replace(config, rights={"other": Rights(share=["ann"])})
    plans = {"p": PLAN, "q": msgspec.structs.replace(PLAN, name="other")}
    assert allowed(Access(other, plans), "ann") == set()


def test_refusal_names_right_plan_and_who_grants_it(config: ServerConfig) -> None:
    with pytest.raises(AccessDenied) as caught:
        access(config, share=["ann"]).check("bob", "p", "fetch")
    text = str(caught.value)
    assert "bob has no right to fetch with plan 'tiny'" in text
    assert "both servers to add 'bob' to `fetch` in [rights.tiny]" in text
    assert "consent of its owner owner" in text and "ann" not in text


@pytest.mark.parametrize("granted", HEADS)
@pytest.mark.parametrize("shown", HEADS)
def test_classify_is_bound_to_its_policy(config: ServerConfig, granted: str, shown: str) -> None:
    """Who may learn a label learns no more than that, from a head of any other policy."""
    found = access(config, HEADS[shown], classify={"ann": granted}, run=["bob"])
    policies = [*HEADS]
    may = policies.index(shown) <= policies.index(granted)
    assert ("run" in allowed(found, "ann")) == may and "run" in allowed(found, "bob")
    assert "fetch" not in allowed(found, "ann")


def test_who_may_classify_is_sent_no_features(config: ServerConfig) -> None:
    assert policy_of(PLAN) is None and len(LAYERS) == 5
    found = access(config, PLAN, classify={"ann": "logits"})
    assert not allowed(found, "ann") & {"run", "fetch"}


def test_every_request_says_which_right_it_takes() -> None:
    assert {*_REQUESTS} == {*get_args(m.Request)}
    free = {kind.__name__ for kind, (_, right) in _REQUESTS.items() if right is None}
    own_rows = {"Delete", "IndexDelete", "IndexRemove", "IndexInfo", "ListItems", "GetStoreStatus"}
    assert free == own_rows | {"GetStatus", "ShareWeights"}


def test_tables_of_no_plan_or_of_two_are_refused(config: ServerConfig) -> None:
    for tables in ({"rights": {"tinny": Rights()}}, {"budgets": {"tinny": Budget()}}):
        changed = dataclasses.replace(config, **tables)
        with pytest.raises(ConfigError, match=r"tinny\] is not of one plan.*named tiny"):
            Access(changed, {"p": PLAN})
    with pytest.raises(ConfigError, match=r"\[rights.tiny\] is not of one plan"):
        twice = dataclasses.replace(config, rights={"tiny": Rights()})
        Access(twice, {"p": PLAN, "q": PLAN})


def field_that_differs(first: Access, second: Access) -> str:
    with pytest.raises(HandshakeMismatch) as caught:
        compare(first.agreed(), second.agreed(), "server 1")
    return caught.value.field


def test_servers_that_grant_differently_name_the_right(
    config: ServerConfig, tmp_path: Path
) -> None:
    first = access(config, share=["ann", "bob"], fetch=["ann"])
    compare(first.agreed(), access(config, share=["bob", "ann"], fetch=["ann"]).agreed(), "")
    changed = access(config, share=["ann", "bob"], fetch=["bob"])
    assert field_that_differs(first, changed) == "who may fetch with plan 'tiny'"
    assert "who may share" in field_that_differs(first, access(config))
    policies = [access(config, classify={"ann": policy}) for policy in ("label", "logits")]
    assert field_that_differs(*policies) == "who may classify with plan 'tiny'"
    keys = dataclasses.replace(config, users=(config.users[0], keygen(tmp_path, "bob", "user")))
    same = access(keys, share=["ann", "bob"], fetch=["ann"])
    assert field_that_differs(first, same) == "cards of who has rights"


def test_long_lists_are_compared_to_their_last_name(config: ServerConfig) -> None:
    names = [f"user{i:03}" for i in range(100)]
    users = tuple(msgspec.structs.replace(config.users[0], name=name) for name in names)
    many = dataclasses.replace(config, users=users)
    first, second = access(many, run=names), access(many, run=names[:-1])
    assert field_that_differs(first, second) == "who may run with plan 'tiny'"
    assert max(map(len, first.agreed().values())) < 300


def test_names_in_rights_must_have_cards(tmp_path: Path) -> None:
    file = write_local(tmp_path / "local", [tmp_path / "plan"], 2).server0
    good = file.read_text()
    file.write_text(good + '[rights."tiny"]\nshare = ["user"]\nclassify = { user = "label" }\n')
    rights = load_server(file).rights["tiny"]
    assert rights.share == ["user"] and rights.classify == {"user": "label"}
    for line, cause in (
        ('share = ["usr"]', r"`rights.tiny` names usr: no card"),
        ('classify = { usr = "label" }', r"`rights.tiny` names usr: no card"),
        ('classify = { user = "best" }', r"Invalid enum value 'best'.*rights"),
        ('shares = ["user"]', "unknown field `shares`"),
    ):
        file.write_text(f"{good}[rights.tiny]\n{line}\n")
        with pytest.raises(ConfigError) as caught:
            load_server(file)
        assert re.search(cause, str(caught.value)), str(caught.value)
