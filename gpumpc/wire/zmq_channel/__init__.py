"""Frames over ZeroMQ with CURVE: the only package that imports zmq.

Authentication: a listening socket has an allow-list of public keys, held by its own ZAP handler in
its own zmq context; ZAP_ENFORCE_DOMAIN makes it refuse every key if that handler is gone. A
connecting socket pins the public key of the server. Loss: a socket monitor reports connections,
handshakes and refusals, and heartbeats, answered by ZeroMQ's own thread, distinguish a peer that
computes from one that is dead.

The two servers use DEALER at both ends (PAIR does not survive TCP); dealer and users reach a server
by `Requester` (DEALER) and `Listener` (ROUTER).

CURVE's cipher is slow, so the servers' `PeerSocket`, and a `Requester` that asks for it, agree on
keys inside CURVE and send their frames over a `wire.stream`. CURVE then only authenticates the peer
and notices its loss.
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
