"""The handshake: both ends find the same difference, and get each other's informative fields."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumpc.errors import BadFrame, HandshakeMismatch, PeerTimeout
from gpumpc.wire.channel import memory_pair
from gpumpc.wire.frames import encode_record
from gpumpc.wire.handshake import Hello, compare, exchange_hello, pack_hello, unpack_hello

FIELDS = {"version": "1", "plan": "abc", "cipher": "aes128ctr"}


def test_equal_fields_pass() -> None:
    compare(FIELDS, dict(FIELDS), "server1")


@pytest.mark.parametrize(
    ("theirs", "field"),
    [
        ({**FIELDS, "plan": "abd"}, "plan"),
        ({**FIELDS, "plan": "abd", "version": "2"}, "version"),
        ({"version": "1", "plan": "abc"}, "cipher"),
        ({**FIELDS, "packing": "limbs"}, "packing"),
        ({}, "version"),
    ],
)
def test_the_first_difference_is_named(theirs: Hello, field: str) -> None:
    with pytest.raises(HandshakeMismatch) as caught:
        compare(FIELDS, theirs, "server1")
    assert caught.value.field == field
    assert field in str(caught.value) and "server1" in str(caught.value)


def test_field_named_absent_differs_from_a_missing_field() -> None:
    with pytest.raises(HandshakeMismatch):
        compare({"mode": "absent"}, {}, "server1")


def test_informative_fields_are_exchanged() -> None:
    s0, s1 = memory_pair()
    with ThreadPoolExecutor() as pool:
        other = pool.submit(exchange_hello, s1, equal=FIELDS, informative={"mark": "17"})
        assert exchange_hello(s0, equal=FIELDS, informative={"nonce": "ff"}) == {"mark": "17"}
        assert other.result() == {"nonce": "ff"}


def test_both_ends_raise_on_the_same_field() -> None:
    s0, s1 = memory_pair()

    def first() -> None:
        try:
            exchange_hello(s0, equal=FIELDS)
        finally:
            s0.close()

    with ThreadPoolExecutor() as pool:
        other = pool.submit(first)
        with pytest.raises(HandshakeMismatch) as here:
            exchange_hello(s1, equal={**FIELDS, "plan": "zzz"})
        with pytest.raises(HandshakeMismatch) as there:
            other.result()
    assert here.value.field == there.value.field == "plan"
    assert (here.value.ours, here.value.theirs) == ("zzz", "abc")
    assert (there.value.theirs, there.value.ours) == ("zzz", "abc")


def test_a_silent_peer_is_a_timeout() -> None:
    s0, _ = memory_pair()
    with pytest.raises(PeerTimeout):
        exchange_hello(s0, equal=FIELDS, timeout_s=0.01)


def test_a_hello_is_read_strictly() -> None:
    assert unpack_hello(pack_hello(FIELDS, {})).equal == FIELDS
    for bad in (b"", encode_record({"equal": {}}), encode_record({"equal": {"k": 40}, "more": {}})):
        with pytest.raises(BadFrame):
            unpack_hello(bad)


def test_a_hello_keeps_the_order_of_its_fields() -> None:
    assert list(unpack_hello(pack_hello(FIELDS, {})).equal) == list(FIELDS)
