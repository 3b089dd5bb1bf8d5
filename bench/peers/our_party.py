"""A server of the benchmark that reads the kernel's TCP counters, as the peers' runners do."""

from __future__ import annotations

from bench.peers.traffic import Counter
from gpumpc.measure.benchmark_party import ServerParty, serve
from gpumpc.measure.pipes import Message


class CountingParty(ServerParty):
    """Counts from the end of one run to that of the next: a dealer may begin before the servers."""

    def open(self, weight_sharing_id: str, pids: dict[str, int]) -> Message:
        """As `ServerParty`."""
        answer = super().open(weight_sharing_id, pids)
        own = f"server{self.party}"
        self._counter = Counter({name: pid for name, pid in pids.items() if name != own})
        return answer

    def run(self, batch_index: int) -> Message:
        """As `ServerParty`, with `traffic`: (sent, received) by name of the other process."""
        answer = super().run(batch_index)
        traffic = self._counter.read()
        self._counter.reset()
        return {**answer, "traffic": traffic}


if __name__ == "__main__":
    serve(CountingParty)
