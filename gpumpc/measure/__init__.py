"""A program run and timed by three processes: dealer, server 0 and server 1.

For measuring only, as `gpumpc bench --net` and `bench/` do, over loopback or a relay; it protects
nothing. The parties use the product's channel, pool, ledgers and dealing. Sharing operands and
weights and revealing results are not timed.
"""

from gpumpc.measure.process_benchmark import Outcome, ProcessBenchmark, network_named

__all__ = ["Outcome", "ProcessBenchmark", "network_named"]
