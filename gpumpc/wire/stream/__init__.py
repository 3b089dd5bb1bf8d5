"""Frames over plain TCP as AES-256-GCM records, next to a CURVE connection that authenticates.

CURVE authenticates the peers and carries the key agreement. A stream then moves large frames at the
speed of AES, and small ones without a change of threads: the sending thread itself calls the
kernel.

records      one key a direction from an exchange of ephemeral keys; sealing and opening
send_buffer  sending: at once if the kernel takes it, else in a thread
stream       a connection: whole frames out and in, each record decrypted into its place
listener     connecting, and the proof that both ends hold the keys
"""

from gpumpc.wire.stream.listener import StreamListener, dial
from gpumpc.wire.stream.records import Exchange, StreamKeys
from gpumpc.wire.stream.stream import Stream

__all__ = ["Exchange", "Stream", "StreamKeys", "StreamListener", "dial"]
