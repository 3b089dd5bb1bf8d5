"""Payloads of the messages between the parties."""

import pytest

from gpumpc import messages as m
from gpumpc.errors import BadFrame, GpumpcError


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x05", b"\xff\xff\xff\xffabc", b"\x01\x00\x00\x00\xc1", m.pack(m.Heartbeat())],
)
def test_unpack_refuses_records_outside_a_union(payload: bytes) -> None:
    with pytest.raises(GpumpcError, match="BadFrame|message|record|frame") as caught:
        m.unpack(payload, m.Request)
    assert isinstance(caught.value, BadFrame)
