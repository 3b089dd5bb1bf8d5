"""One program run by three real processes of this machine, timed: dealer, server 0 and server 1
over loopback or a relay.

For measuring, as `gpumpc bench --net` and the comparisons of `bench/` do; it protects nothing. The
parties are those of the
product: its channel, its pool, its ledgers, its dealing. What stays outside the clock is what users
and owners do before and after: sharing operands and weights, and revealing.
"""

from gpumpc.measure.process_benchmark import Outcome, ProcessBenchmark, network_named

__all__ = ["Outcome", "ProcessBenchmark", "network_named"]
