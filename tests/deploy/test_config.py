"""Configuration files: strict, and every refusal names the file and the key."""

import re
from pathlib import Path

import pytest

from gpumpc.deploy import config
from gpumpc.deploy.config import LocalSetup, load_client, load_dealer, load_server, write_local
from gpumpc.deploy.keys import keygen, load_identity
from gpumpc.errors import ConfigError, MissingFile


@pytest.fixture
def local(tmp_path: Path) -> LocalSetup:
    return write_local(tmp_path / "local", [tmp_path / "plan"], 8, pool="64MiB", timeout_s=30)


SIZES = [("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("1.5KiB", 1536), ("7", 7), ("7B", 7)]
OTHER, A_SERVER = "server1/card.toml", "a card with the role server1"
NO_SIZES = ["", "GiB", "-1GiB", "2GB", "2 gib", "1e9", "nan", "2GiB2", "0x10"]


@pytest.mark.parametrize(("text", "n_bytes"), [*SIZES, ("1TiB", 1 << 40)])
def test_parse_size_reads_bytes_and_units(text: str, n_bytes: int) -> None:
    assert config.parse_size(text) == n_bytes


@pytest.mark.parametrize("text", NO_SIZES)
def test_parse_size_rejects_malformed_text(text: str) -> None:
    with pytest.raises(ConfigError, match="2GiB"):
        config.parse_size(text)


def test_local_configuration_is_complete(local: LocalSetup, tmp_path: Path) -> None:
    s0, s1 = load_server(local.server0), load_server(local.server1)
    dealer, client = load_dealer(local.dealer), load_client(local.client)
    assert (s0.party, s1.party) == (0, 1)
    assert s0.peer_listen == s1.peer_connect and s0.peer_connect is s1.peer_listen is None
    assert dealer.server_endpoints == client.server_endpoints == (s0.listen, s1.listen)
    assert len({s0.listen, s1.listen, s0.peer_listen}) == 3
    cards = [load_identity(party.identity).card for party in (s0, s1, dealer, client)]
    assert [s1.peer, s0.peer, s0.dealer, s1.users[0]] == cards
    assert dealer.server_cards == client.server_cards == (cards[0], cards[1])
    assert s0.users == s0.owners == s1.users
    assert s0.allowed == {cards[2].curve_key: "dealer", cards[3].curve_key: "user"}
    assert s0.plans == dealer.plans == (tmp_path / "plan",)
    assert s0.batch_size == dealer.batch_size == 8
    assert (s0.pool_bytes, s0.backend, s0.timeout_s) == (64 << 20, "", 30)
    assert s0.state == local.folder / "state0" != s1.state
    with pytest.raises(ConfigError, match="never overwritten"):
        write_local(local.folder, [], 8)


@pytest.mark.parametrize(
    ("line", "kind", "name"),
    [
        ("", "file", "server0/store.key"),
        ('store_key = "file:keys/k"', "file", "keys/k"),
        ('store_key = "file:/etc/k"', "file", "/etc/k"),
        ('store_key = "env:STORE_KEY"', "env", "STORE_KEY"),
        ('store_key = "credential:store.key"', "credential", "store.key"),
    ],
)
def test_master_key_is_where_the_file_says(
    local: LocalSetup, line: str, kind: str, name: str
) -> None:
    """In the identity's folder if nothing is said; paths are relative to the file."""
    local.server0.write_text(f"{local.server0.read_text()}{line}\n")
    found = load_server(local.server0)
    assert found.store_key.kind == kind
    assert found.store_key.name == (str(local.folder / name) if kind == "file" else name)
    assert found.state not in Path(found.store_key.name).parents


def test_paths_with_special_characters_survive(tmp_path: Path) -> None:
    plan = tmp_path / 'a "plan" \\ für 𝟙'
    assert load_dealer(write_local(tmp_path / "x", [plan], 1).dealer).plans == (plan,)


def test_paths_are_relative_to_the_configuration_file(
    local: LocalSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(local.folder)
    assert load_server(Path("server0.toml")).identity == local.folder / "server0"


@pytest.mark.parametrize(
    ("pattern", "line", "cause"),
    [
        (r"^batch_size.*", "", "lacks the required field `batch_size`"),
        (r"^batch_size.*", "batch_size = 8\nbatches = 8", "has the unknown field `batches`"),
        (r"^batch_size.*", 'batch_size = "8"', "Expected `int`, got `str` - at `batch_size`"),
        (r"^batch_size.*", "batch_size = 0", "at `batch_size`"),
        (r"^batch_size.*", "batch_size = true", "at `batch_size`"),
        (r"^party.*", "party = 2", "at `party`"),
        (r"^party.*", "party = 1", "party 1 must have the key `peer_connect`"),
        (r"^listen.*", 'listen = "127.0.0.1:1"', "at `listen`"),
        (r"^listen.*", 'listen = "ipc://x"', "at `listen`"),
        (r"^plans.*", 'plans = "plan"', "at `plans`"),
        (r"^plans.*", "plans = [1]", "at `plans"),
        (r"^pool.*", 'pool = "much"', "key `pool`"),
        (r"^pool.*", 'store_key = "vault:k"', "key `store_key`: 'vault:k' names no place of a key"),
        (r"^timeout_s.*", "timeout_s = 0", "at `timeout_s`"),
        (r"^timeout_s.*", "timeout_s = inf", "`timeout_s`"),
        (r"^peer_card.*", 'peer_card = "dealer/card.toml"', "role dealer, and server1 is expected"),
        (r"^peer_card.*", 'peer_card = "nobody/card.toml"', "key `peer_card`"),
        (r"^user_cards.*", f'user_cards = ["{OTHER}"]', f"`user_cards` names {A_SERVER}"),
        (r"^party.*", "party == 0", "not TOML"),
        (r"^backend.*", 'peer_connect = "tcp://h:1"', "must not have `peer_connect`"),
    ],
)
def test_invalid_server_key_is_named(
    local: LocalSetup, pattern: str, line: str, cause: str
) -> None:
    text, n = re.subn(pattern, lambda _: line, local.server0.read_text(), flags=re.MULTILINE)
    assert n == 1
    local.server0.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_server(local.server0)
    assert cause in str(caught.value) and str(local.server0) in str(caught.value)


def test_two_cards_of_one_name_are_refused(local: LocalSetup) -> None:
    keygen(local.folder / "other", "user", "user")
    both = '["user/card.toml", "other/card.toml"]'
    local.server0.write_text(local.server0.read_text().replace('["user/card.toml"]', both))
    with pytest.raises(ConfigError, match="two different cards have the name 'user'"):
        load_server(local.server0)


def test_dealer_and_client_files_are_strict(local: LocalSetup) -> None:
    for path, load in ((local.dealer, load_dealer), (local.client, load_client)):
        good = path.read_text()
        shorter = re.sub(r"(s = \[)[^,]*, ", r"\1", good)
        for bad in (good + "more = 1\n", good.replace("identity", "id"), shorter):
            path.write_text(bad)
            with pytest.raises(ConfigError, match=str(path)):
                load(path)
    with pytest.raises(MissingFile, match=r"none\.toml"):
        load_client(local.folder / "none.toml")
