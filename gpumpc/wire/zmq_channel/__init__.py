"""Frames over ZeroMQ with CURVE: the only package that imports zmq.

Who may talk: a listening socket has an allow-list of public keys, kept by its own ZAP handler in
its own zmq context; ZAP_ENFORCE_DOMAIN makes it refuse everybody should that handler be gone. A
connecting socket pins the public key of the server. Who has gone: a socket monitor reports
connections, handshakes and refusals, and heartbeats, answered by ZeroMQ's own thread, tell a peer
that computes from one that is dead.

The two servers use DEALER at both ends (PAIR does not survive TCP); dealer and users reach a server
by `Requester` (DEALER) and `Listener` (ROUTER).

What is bulk does not pay CURVE's slow box: the channel between the servers, and a `Requester` that
asks for it, agree on keys inside CURVE and send their frames over a `wire.stream` beside it. CURVE
then says who is there, and who has gone.
"""

from gpumpc.wire.zmq_channel.endpoint import CurveKeys, curve_keypair, curve_public
from gpumpc.wire.zmq_channel.peer_socket import PeerSocket
from gpumpc.wire.zmq_channel.requests import Listener, Requester
from gpumpc.wire.zmq_channel.streams import Arrival

__all__ = [
    "Arrival",
    "CurveKeys",
    "Listener",
    "PeerSocket",
    "Requester",
    "curve_keypair",
    "curve_public",
]
