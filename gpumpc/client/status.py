"""The status of both servers, for every party on their lists."""

import time

from gpumpc import messages as m
from gpumpc.client.connection import CONNECT_S
from gpumpc.deploy.config import ClientConfig
from gpumpc.deploy.keys import load_identity
from gpumpc.errors import BadFrame, GpumpcError
from gpumpc.wire.frames import Kind
from gpumpc.wire.zmq_channel import Requester


def ask_status(config: ClientConfig, timeout_s: float = CONNECT_S) -> list[m.Status | GpumpcError]:
    """Each server's status, or the error in its place; needs no plan."""
    identity = load_identity(config.identity)
    answers: list[m.Status | GpumpcError] = []
    ends = zip(config.server_endpoints, config.server_cards, strict=True)
    servers = [
        Requester(endpoint, identity.curve, card.curve_key, peer=f"server {party}")
        for party, (endpoint, card) in enumerate(ends)
    ]
    deadline = time.monotonic() + timeout_s  # for both: they connect at the same time
    for server in servers:
        try:
            server.wait_peer(max(0.1, deadline - time.monotonic()))
            server.send(Kind.REQUEST, m.pack(m.GetStatus()))
            frame = server.receive(max(0.5, deadline - time.monotonic()))
            reply, _ = m.unpack(frame.payload, m.Reply)
            missing = BadFrame("no status came", hint="update gpumpc")
            answers.append(reply if isinstance(reply, m.Status) else missing)
        except GpumpcError as error:
            answers.append(error)
        finally:
            server.close()
    return answers
