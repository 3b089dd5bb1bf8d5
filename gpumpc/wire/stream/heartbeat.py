"""The heartbeat of a stream: an end that has nothing to send says so, and silence is a lost peer.

It has a thread of its own: an end that computes for minutes still sends its heartbeat, and one that
waits for nothing still notices that the other has gone.
"""

import threading
import time
from collections.abc import Callable

# An end that has sent nothing for so long sends a heartbeat, and while it has nothing to send ...
IDLE_S = 1.0
# ... another one after so long.
HEARTBEAT_S = 0.5
# An end that has heard nothing for so long is without a peer. A process that is stopped for three
# and a half seconds is not lost, nor an idle one for four, and every silence is known within five.
SILENCE_S = 4.6
_LOOK_S = 0.1
# At most so much of one look counts as silence: if this very process was stopped, or got no
# processor, the peer had no chance to be heard.
_MOST_A_LOOK_S = 0.5


class Heartbeat(threading.Thread):
    """Sends one end's heartbeats and notices the silence of the other, until `stop`.

    Args:
        beat: sends a heartbeat if it is due.
        heard: a number that changes with whatever arrives; None while that cannot be told.
        lose: called once, when the peer was silent for `SILENCE_S`.
    """

    def __init__(
        self, beat: Callable[[], None], heard: Callable[[], int | None], lose: Callable[[], None]
    ) -> None:
        super().__init__(name="gpumpc-heartbeat", daemon=True)
        self._beat, self._heard, self._lose = beat, heard, lose
        self._stopping = threading.Event()

    def run(self) -> None:
        """The thread's loop."""
        known, silent_s, looked_at = self._heard(), 0.0, time.monotonic()
        while not self._stopping.wait(_LOOK_S):
            self._beat()
            now, heard = time.monotonic(), self._heard()
            if heard is None or heard != known:
                silent_s = 0.0
            else:
                silent_s += min(now - looked_at, _MOST_A_LOOK_S)
            known, looked_at = heard, now
            if silent_s > SILENCE_S:
                self._lose()
                return

    def stop(self) -> None:
        """End the thread; safe to call twice, and from the thread itself."""
        self._stopping.set()
        if self is not threading.current_thread():
            self.join()
