"""Frames over plain TCP as AES-256-GCM records, beside a CURVE connection that says who is there.

CURVE identifies the peers and carries the key agreement; what is bulk crosses here at the speed of
AES, and small frames without a change of threads: the thread that sends is the one that calls the
kernel.

records  keys from an exchange of ephemeral keys, one for each direction; sealing and opening
outbox   sending: at once where the kernel takes it, else by a thread of its own
stream   a connection: whole frames out and in, each record decrypted into its place
door     how the two ends find each other, and prove that they hold the keys
"""

from gpumpc.wire.stream.listener import StreamListener, dial
from gpumpc.wire.stream.records import Exchange, StreamKeys
from gpumpc.wire.stream.stream import Stream

__all__ = ["Exchange", "Stream", "StreamKeys", "StreamListener", "dial"]
