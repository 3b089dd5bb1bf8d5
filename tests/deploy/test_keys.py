"""Keys: made once, readable by their party alone, agreeing with the right peer and no other."""

import stat
from pathlib import Path

import pytest

from gpumpc.deploy import keys
from gpumpc.deploy.keys import Card, Identity, Role, agree_root, keygen, load_identity, seal
from gpumpc.errors import ConfigError, ExposedSecret, MissingFile, RevealError
from gpumpc.wire.zmq_channel import Listener, Requester


def make(folder: Path, role: Role, name: str = "") -> Identity:
    keygen(folder / (name or role), name or role, role)
    return load_identity(folder / (name or role))


@pytest.fixture
def user(tmp_path: Path) -> Identity:
    return make(tmp_path, "user", "ann")


def test_keys_are_private_and_never_overwritten(tmp_path: Path, user: Identity) -> None:
    folder = tmp_path / "ann"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"ann": 0o700, "secret.toml": 0o600, "card.toml": 0o644}
    assert keys.load_card(folder / "card.toml") == user.card
    assert (user.card.name, user.card.role) == ("ann", "user")
    with pytest.raises(ConfigError, match="never overwritten"):
        keygen(folder, "ann", "user")
    assert load_identity(folder).card == user.card


@pytest.mark.parametrize("name", ["", "Ann", "a b", "../up", "a" * 41, "ann\n", 'a"b'])
def test_keygen_refuses_unsafe_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a party"):
        keygen(tmp_path / "x", name, "user")
    assert not (tmp_path / "x").exists()


def test_secrets_do_not_print(tmp_path: Path, user: Identity) -> None:
    lines = (tmp_path / "ann" / "secret.toml").read_text().splitlines()
    secrets = [line.split('"')[1] for line in lines]
    assert len(secrets) == 3
    card = (tmp_path / "ann" / "card.toml").read_text()
    for text in (repr(user), str(user), repr(user.curve), card):
        assert not any(secret in text for secret in secrets)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_exposed_secret_is_refused_with_a_chmod_hint(
    tmp_path: Path, user: Identity, mode: int
) -> None:
    path = tmp_path / "ann" / "secret.toml"
    path.chmod(mode)
    with pytest.raises(ExposedSecret, match=f"chmod 600 {path}"):
        load_identity(tmp_path / "ann")


def test_missing_and_damaged_files_are_named_without_content(
    tmp_path: Path, user: Identity
) -> None:
    folder = tmp_path / "ann"
    with pytest.raises(MissingFile):
        load_identity(tmp_path / "bob")
    with pytest.raises(MissingFile):
        keys.load_card(tmp_path / "card.toml")
    secret = (folder / "secret.toml").read_text()
    for damaged in (
        secret[:-3],
        secret.replace("curve_secret", "curve"),
        secret + 'more = "1"\n',
        "\xff",
    ):
        (folder / "secret.toml").write_text(damaged)
        with pytest.raises(ConfigError, match=r"secret\.toml cannot be used") as caught:
            load_identity(folder)
        assert secret.split('"')[1] not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("user", "boss"),
        ("ann", "An\\u001b"),
        ("curve_public", "curve"),
        ("x25519_public = ", "x25519_public = 7 #"),
    ],
)
def test_a_damaged_card_is_refused(tmp_path: Path, user: Identity, old: str, new: str) -> None:
    path = tmp_path / "ann" / "card.toml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=r"card\.toml cannot be used"):
        keys.load_card(path)


def test_a_card_of_other_keys_is_refused(tmp_path: Path, user: Identity) -> None:
    make(tmp_path, "user", "bob")
    (tmp_path / "ann" / "card.toml").write_text((tmp_path / "bob" / "card.toml").read_text())
    with pytest.raises(ConfigError, match="do not belong to the card"):
        load_identity(tmp_path / "ann")


def test_dealer_and_server_agree_on_a_root_of_their_own(tmp_path: Path) -> None:
    dealer, s0, s1 = (make(tmp_path, role) for role in ("dealer", "server0", "server1"))
    root_0, root_1 = agree_root(dealer, s0.card, 0), agree_root(dealer, s1.card, 1)
    assert root_0 == agree_root(s0, dealer.card, 0)
    assert root_1 == agree_root(s1, dealer.card, 1)
    assert root_0 != root_1 and len(root_0.expose()) == 32
    other = make(tmp_path, "dealer", "other")
    assert agree_root(other, s0.card, 0) != root_0


def test_only_the_dealer_and_the_right_server_agree_on_a_root(tmp_path: Path) -> None:
    dealer, s0, s1 = (make(tmp_path, role) for role in ("dealer", "server0", "server1"))
    for identity, card, party in ((dealer, s0.card, 1), (s0, s1.card, 0), (dealer, dealer.card, 0)):
        with pytest.raises(ConfigError, match="no root can be agreed"):
            agree_root(identity, card, party)


def test_low_order_public_key_is_refused(tmp_path: Path, user: Identity) -> None:
    dealer = make(tmp_path, "dealer")
    weak = Card("server0", "server0", dealer.card.curve_public, "00" * 32, "00" * 32)
    with pytest.raises(ConfigError):
        agree_root(dealer, weak, 0)
    with pytest.raises(ConfigError):
        seal(weak, b"x", b"")
    with pytest.raises(RevealError):
        keys.open_sealed(user, bytes(100), b"")


@pytest.mark.parametrize("payload", [b"", b"x", bytes(100_000)])
def test_sealed_message_is_opened_by_its_user_only(
    tmp_path: Path, user: Identity, payload: bytes
) -> None:
    blob = seal(user.card, payload, b"request 1")
    assert len(blob) == len(payload) + 48
    assert keys.open_sealed(user, blob, b"request 1") == payload
    assert seal(user.card, payload, b"request 1") != blob
    with pytest.raises(RevealError, match="another key or for another request"):
        keys.open_sealed(user, blob, b"request 2")
    with pytest.raises(RevealError):
        keys.open_sealed(make(tmp_path, "user", "bob"), blob, b"request 1")


def test_changed_or_cut_sealed_message_is_not_opened(user: Identity) -> None:
    blob = seal(user.card, b"payload", b"aad")
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 0x01
        with pytest.raises(RevealError):
            keys.open_sealed(user, bytes(changed), b"aad")
    for cut in (b"", blob[:47], blob[:-1], blob + b"\0"):
        with pytest.raises(RevealError):
            keys.open_sealed(user, cut, b"aad")


def test_generated_keys_open_a_connection(tmp_path: Path, user: Identity) -> None:
    server = make(tmp_path, "server0")
    listener = Listener("tcp://127.0.0.1:0", server.curve, {user.card.curve_key: user.card.name})
    requester = Requester(listener.endpoint, user.curve, server.card.curve_key)
    try:
        requester.wait_peer()
    finally:
        requester.close()
        listener.close()


@pytest.mark.parametrize("file", ["secret.toml", "card.toml"])
def test_keys_without_a_signing_key_name_the_cure(
    tmp_path: Path, user: Identity, file: str
) -> None:
    path = tmp_path / "ann" / file
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("sign_")))
    with pytest.raises(ConfigError, match="make new keys with `gpumpc keygen`"):
        load_identity(tmp_path / "ann")


def test_exchanged_signing_key_is_refused(tmp_path: Path, user: Identity) -> None:
    other, path = make(tmp_path, "user", "bob"), tmp_path / "ann" / "secret.toml"
    own = user.sign_secret.expose().hex()
    path.write_text(path.read_text().replace(own, other.sign_secret.expose().hex()))
    with pytest.raises(ConfigError, match=r"do not belong to the card\.toml"):
        load_identity(tmp_path / "ann")
