"""A server that serves the tiny plan and keeps nothing; it notes requests that would change it."""

from typing import ClassVar

from gpumpc import messages as m
from gpumpc.errors import PeerTimeout
from gpumpc.program.agreement import agreed_fields
from gpumpc.program.compiler import program_of
from gpumpc.wire.frames import Frame, Kind
from tests.processes.cluster import BATCH, tiny

PLAN = tiny()


class FakeServer:
    """Answers that it is ready and has no items, and notes every other request."""

    sent: ClassVar[list[m.Request]] = []

    def __init__(self, *_: object, peer: str) -> None:
        self.party = int(peer[-1])
        self._sequence, self._is_list = 0, False

    def wait_peer(self, timeout_s: float) -> None: ...

    def close(self) -> None: ...

    def send(self, kind: Kind, payload: bytes, sequence: int = 0) -> None:
        request, _ = m.unpack(payload, m.Request)
        self._sequence, self._is_list = sequence, isinstance(request, m.ListItems)
        if not isinstance(request, m.GetStatus | m.ListItems):
            self.sent.append(request)

    def receive(self, timeout_s: float, errors_of: int = 0) -> Frame:
        if self.sent:
            raise PeerTimeout("this server only listens")
        fields = agreed_fields(PLAN.record, program_of(PLAN.record, BATCH))
        plan = m.PlanStatus(fields, "user", "", None, "a session", 0, 0)
        status = m.Status(self.party, [plan], True, True)
        reply = m.pack(m.ItemList() if self._is_list else status)
        return Frame(Kind.REPLY, memoryview(reply), sequence=self._sequence)
