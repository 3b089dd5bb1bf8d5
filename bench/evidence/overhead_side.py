"""One side of `bench.evidence.overhead`, run as a file with the package of one commit.

    python overhead_side.py WORKLOAD FOLDER

It starts both servers and a dealer, shares weights and images, and then runs them once for each
line that it reads: it prints the seconds of a request until its result is revealed, the processor
seconds of the three parties with the dealing that follows, and the largest error. It uses only what
both commits have.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from gpumpc.client.client import connect
from gpumpc.deploy.config import write_local
from gpumpc.deploy.local_cluster import LocalCluster
from gpumpc.measure.workloads import case_of
from gpumpc.params import Params
from gpumpc.program.compiler import program_of

BATCH = {"vgg": 8, "lite0": 2}
_READY_S = 120.0
_QUIET_S = 0.4


def processor_seconds(cluster: LocalCluster) -> float:
    """What the three parties have used so far."""
    ticks = 0
    for process in cluster.processes.values():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def quiet(cluster: LocalCluster) -> float:
    """Wait until the dealer has dealt ahead as far as it may; the processor seconds then."""
    before = processor_seconds(cluster)
    while True:
        time.sleep(_QUIET_S)
        now = processor_seconds(cluster)
        if now - before <= 0.1 * _QUIET_S:
            return now
        before = now


def main(workload: str, folder: Path) -> None:
    """Serve runs until the input ends."""
    case = case_of(workload, 0, BATCH[workload], Params())
    case.compiled.save(folder / "plan")
    images, exact = case.inputs[0], case.compiled.evaluate(case.inputs[0])
    # Room for two batches: the next one is there when a request comes.
    program = program_of(case.compiled.record, BATCH[workload])
    pool = f"{3 * program.cost.dealer_bytes >> 10}KiB"
    setup = write_local(folder / "local", [folder / "plan"], BATCH[workload], pool=pool)
    with LocalCluster(setup) as cluster, connect(setup.client, folder / "plan", _READY_S) as client:
        client.wait_connected(_READY_S)
        client.share_weights(case.compiled.weights)
        client.wait_ready(_READY_S)
        items = client.share(images)
        before = quiet(cluster)
        print("ready", flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            result = client.run(items).reveal()
            seconds = time.perf_counter() - start
            after = quiet(cluster)
            error = float(np.abs(result - exact).max())
            print(json.dumps([seconds, after - before, error]), flush=True)
            before = after


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
