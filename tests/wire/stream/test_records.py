"""The keys of a connection, and its records, which open once, in order and unchanged."""

import copy
import itertools

import msgspec
import pytest

from gpumpc.errors import BadFrame
from gpumpc.wire.frames import encode_record
from gpumpc.wire.stream import records
from gpumpc.wire.stream.records import TAG_BYTES, Exchange, Opener, Sealer, StreamHello, StreamKeys

OTHER_VERSION = records.VERSION + 1

LISTENER, CONNECTOR = b"L" * 40, b"C" * 40
SECRET = bytes(range(32))


def agreed(
    listener: bytes = LISTENER, connector: bytes = CONNECTOR
) -> tuple[StreamKeys, StreamKeys]:
    """Both ends' keys; the identities are what the connecting end believes."""
    here, there = Exchange(LISTENER, CONNECTOR, 7001), Exchange(connector, listener)
    keys, port = there.agree(here.hello)
    assert port == 7001
    return here.agree(there.hello)[0], keys


def seal(sealer: Sealer, data: bytes, associated: bytes = b"h") -> bytes:
    out = bytearray(len(data) + TAG_BYTES)
    sealer.seal_into(data, associated, memoryview(out))
    return bytes(out)


def unseal(opener: Opener, sealed: bytes, associated: bytes = b"h") -> bytes:
    out = bytearray(len(sealed) - TAG_BYTES)
    opener.open_into(sealed, associated, out)
    return bytes(out)


def test_ends_agree_on_one_key_for_each_direction() -> None:
    here, there = agreed()
    assert here.ticket == there.ticket and len(here.ticket) == 16
    sealers = here.sealer(), there.sealer()
    sealed = [seal(sealer, b"the same words") for sealer in sealers]
    assert sealed[0] != sealed[1]
    assert unseal(there.opener(), sealed[0]) == b"the same words"
    assert unseal(here.opener(), sealed[1]) == b"the same words"
    with pytest.raises(BadFrame, match="refused"):
        unseal(here.opener(), sealed[0])  # sent back to whom it came from


def test_every_connection_has_its_own_keys() -> None:
    (here, _), (_, there) = agreed(), agreed()
    assert here.ticket != there.ticket
    with pytest.raises(BadFrame, match="another connection"):
        unseal(there.opener(), seal(here.sealer(), b"x"))


@pytest.mark.parametrize("wrong", [{"listener": b"X" * 40}, {"connector": b"X" * 40}])
def test_different_identities_give_different_keys(wrong: dict[str, bytes]) -> None:
    here, there = agreed(**wrong)
    assert here.ticket != there.ticket
    with pytest.raises(BadFrame):
        unseal(there.opener(), seal(here.sealer(), b"x"))


@pytest.mark.parametrize("field", ["port", "version"])
def test_keys_depend_on_every_hello_field(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the ends read a hello differently, their keys differ, with equal ephemeral keys too."""
    here, there = Exchange(LISTENER, CONNECTOR, 7001), Exchange(CONNECTOR, LISTENER)
    hello = msgspec.msgpack.decode(here.hello, type=StreamHello)
    if field == "version":
        monkeypatch.setattr(records, "VERSION", OTHER_VERSION)
    change = {"port": {"port": 7002}, "version": {"version": OTHER_VERSION}}[field]
    changed = encode_record(msgspec.structs.replace(hello, **change))
    back = there.hello if field == "port" else _of_other_version(there.hello)
    assert here.agree(back)[0].ticket != there.agree(changed)[0].ticket


def _of_other_version(hello: bytes) -> bytes:
    return encode_record(
        msgspec.structs.replace(
            msgspec.msgpack.decode(hello, type=StreamHello), version=OTHER_VERSION
        )
    )


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"version": OTHER_VERSION}, "another version"),
        ({"port": 7001}, "one of the two ends listens"),
        ({"port": -1}, "one of the two ends listens"),
        # The point whose agreed secret is always zero.
        ({"ephemeral": bytes(32)}, "its ephemeral key is not a key"),
        ({"ephemeral": b"short"}, "its ephemeral key is not a key"),
    ],
)
def test_hello_with_wrong_fields_is_refused(change: dict[str, object], cause: str) -> None:
    hello = msgspec.msgpack.decode(Exchange(CONNECTOR, LISTENER).hello, type=StreamHello)
    changed = encode_record(msgspec.structs.replace(hello, **change))
    with pytest.raises(BadFrame, match=cause):
        Exchange(LISTENER, CONNECTOR, 7001).agree(changed)


@pytest.mark.parametrize("hello", [b"", b"\x90", encode_record({"version": 1, "port": 0})])
def test_a_hello_is_read_strictly(hello: bytes) -> None:
    with pytest.raises(BadFrame):
        Exchange(LISTENER, CONNECTOR, 7001).agree(hello)


def test_an_exchange_and_a_sealer_are_used_once() -> None:
    here, there = Exchange(LISTENER, CONNECTOR, 7001), Exchange(CONNECTOR, LISTENER)
    keys, _ = here.agree(there.hello)
    with pytest.raises(BadFrame, match="a second hello"):
        here.agree(there.hello)
    keys.sealer()
    with pytest.raises(BadFrame, match="used twice"):
        keys.sealer()


def test_only_the_next_record_opens() -> None:
    for a, b in itertools.permutations(range(3), 2):
        sealer, opener = Sealer(SECRET), Opener(SECRET)
        sealed = [seal(sealer, bytes([i]) * 5) for i in range(3)]
        for i in range(a):
            assert unseal(opener, sealed[i]) == bytes([i]) * 5
        with pytest.raises(BadFrame, match=f"record {a} "):  # moved forward, moved back or repeated
            unseal(opener, sealed[b])


@pytest.mark.parametrize("at", range(5 + TAG_BYTES))
def test_record_with_a_flipped_bit_does_not_open(at: int) -> None:
    for bit in range(8):
        sealed = bytearray(seal(Sealer(SECRET), b"12345"))
        sealed[at] ^= 1 << bit
        with pytest.raises(BadFrame):
            unseal(Opener(SECRET), bytes(sealed))


@pytest.mark.parametrize("associated", [b"", b"i", b"hh"])
def test_record_with_other_associated_data_does_not_open(associated: bytes) -> None:
    with pytest.raises(BadFrame):
        unseal(Opener(SECRET), seal(Sealer(SECRET), b"x"), associated)


def test_nonces_never_repeat_and_keys_are_renewed() -> None:
    sealer, opener = Sealer(SECRET, records_a_key=3), Opener(SECRET, records_a_key=3)
    seen: set[tuple[int, bytes]] = set()
    keys = []
    for i in range(10):
        assert unseal(opener, seal(sealer, bytes([i]))) == bytes([i])
        keys.append(sealer._aead)
        nonce = records._NONCE.pack(0, sealer.n_records - 1)
        assert (id(keys[-1]), nonce) not in seen
        seen.add((id(keys[-1]), nonce))
    assert len({*map(id, keys)}) == 4 and sealer.n_records == 10
    # The number goes on over a change of keys: so not even a key that came back would see a nonce
    # twice.
    assert len({nonce for _, nonce in seen}) == 10


def test_renewed_key_differs() -> None:
    often, never = Sealer(SECRET, records_a_key=1), Sealer(SECRET)
    assert seal(often, b"x") == seal(never, b"x")
    assert seal(often, b"x") != seal(never, b"x")


def test_records_per_key_stay_far_below_the_gcm_bound() -> None:
    blocks = records.RECORDS_A_KEY * (records.RECORD_BYTES // 16 + 2)
    assert blocks**2 / 2**129 < 2**-60
    assert records.RECORD_BYTES <= 1 << 20


def test_keys_do_not_print_and_are_not_copied() -> None:
    here, _ = agreed()
    for thing in (Exchange(LISTENER, CONNECTOR), here, here.sealer(), here.opener()):
        values = {value for value in vars(thing).values() if isinstance(value, bytes)}
        for secret in values - {here.ticket}:
            assert secret.hex() not in repr(thing) and repr(secret)[2:-1] not in repr(thing)
        assert "<secret>" in repr(thing) and "<secret>" in f"{thing}"
    for thing in (here, here.opener()):
        for copied in (copy.copy, copy.deepcopy, _reduced):
            with pytest.raises(TypeError, match="neither copied"):
                copied(thing)


@pytest.mark.parametrize(
    "bug", ["constant nonce", "header not bound", "one key for both", "identities not bound"]
)
def test_planted_bugs_are_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these would let a test above fail: they are no decoration."""
    if bug == "constant nonce":
        monkeypatch.setattr(records, "_NONCE", _Constant())
        with pytest.raises(pytest.fail.Exception):
            test_only_the_next_record_opens()
    elif bug == "header not bound":
        monkeypatch.setattr(Sealer, "seal_into", _without_header(Sealer.seal_into))
        monkeypatch.setattr(Opener, "open_into", _without_header(Opener.open_into))
        with pytest.raises(pytest.fail.Exception):
            test_record_with_other_associated_data_does_not_open(b"i")
    elif bug == "one key for both":
        monkeypatch.setattr(StreamKeys, "__init__", _same_key)
        with pytest.raises((AssertionError, BadFrame)):
            test_ends_agree_on_one_key_for_each_direction()
    else:
        monkeypatch.setattr(Exchange, "__init__", _nameless(Exchange.__init__))
        with pytest.raises(AssertionError):
            test_different_identities_give_different_keys({"listener": b"X" * 40})


class _Constant:
    def pack(self, *_: int) -> bytes:
        return bytes(12)


def _without_header(original):
    return lambda self, data, associated, out: original(self, data, b"", out)


def _same_key(self: StreamKeys, own: bytes, peers: bytes, ticket: bytes) -> None:
    self._own, self._peers, self.ticket = min(own, peers), min(own, peers), ticket


def _nameless(original):
    return lambda self, own_key, peer_key, port=0: original(self, b"", b"", port)


def _reduced(value: object) -> object:
    return value.__reduce_ex__(4)
