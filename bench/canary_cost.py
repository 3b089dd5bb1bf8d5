"""What canaries cost: requests to three processes with and without them, in turn."""

import tempfile
import time
from pathlib import Path

from bench.command import command_line, show
from bench.schema import row
from gpumpc.client.canaries import Canaries
from gpumpc.client.client import Client, connect
from gpumpc.deploy.config import write_local
from gpumpc.deploy.local_cluster import LocalCluster
from gpumpc.local.canary_maker import make_canaries
from gpumpc.local.named_networks import compile_named, sample_inputs

BATCH_SIZE, START_S = 8, 60.0


def main() -> None:
    """Measure one network; seconds are the least of the repeats, the least disturbed."""
    parser = command_line("canary_cost", __doc__ or "")
    parser.add_argument("network", nargs="?", default="lenet", help="lenet, vgg, resnet18 or lite0")
    parser.add_argument("--items", type=int, default=784, help="the user's own images a request")
    parser.add_argument("--fraction", type=float, default=0.02, help="canaries among all images")
    parser.add_argument("--repeats", type=int, default=5, help="requests of each kind")
    arguments = parser.parse_args()
    plan = compile_named(arguments.network)
    made = make_canaries(plan)
    canaries = Canaries(
        made.plan_id, made.plan_id, made.inputs, made.results, made.bounds, arguments.fraction
    )
    x = sample_inputs((arguments.items, *plan.record.graph.input.shape))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan.save(folder / "plan")
        setup = write_local(folder / "local", [folder / "plan"], BATCH_SIZE)
        with LocalCluster(setup), connect(setup.client, plan, START_S) as client:
            client.wait_connected(START_S)
            client.share_weights(plan.weights)
            client.wait_ready(START_S)
            items = client.share(x)
            client.run(items[:BATCH_SIZE])
            both = [
                [measured(client, items, kind) for kind in (None, canaries)]
                for _ in range(arguments.repeats)
            ]
    plain, mixed = ([run[kind] for run in both] for kind in (0, 1))
    seconds = [min(seconds for seconds, _ in runs) for runs in (plain, mixed)]
    batches = [runs[0][1] for runs in (plain, mixed)]
    cost = client.program.cost
    n_bytes = [n * max(cost.s0_bytes, cost.s1_bytes) for n in batches]
    result = row(
        seconds_total=seconds[1],
        online_bytes=n_bytes[1],
        offline_bytes=batches[1] * cost.dealer_bytes,
        plain_seconds=seconds[0],
        plain_bytes=n_bytes[0],
        more_seconds_share=seconds[1] / seconds[0] - 1,
        more_bytes_share=n_bytes[1] / n_bytes[0] - 1,
    )
    text = (
        f"{arguments.network}, {arguments.items} images, {arguments.fraction:.1%} canaries: "
        f"{seconds[0]:.2f} s without, {seconds[1]:.2f} s with; "
        f"{n_bytes[0] / 1e6:.1f} MB without, {n_bytes[1] / 1e6:.1f} MB with"
    )
    show(result, arguments.json, text)


def measured(client: Client, items: list[str], canaries: Canaries | None) -> tuple[float, int]:
    """Seconds of a request with its reveal, and its batches."""
    before, start = client.plan_status()[0].next_batch, time.monotonic()
    client.run(items, canaries=canaries).reveal()
    seconds = time.monotonic() - start
    return seconds, client.plan_status()[0].next_batch - before


if __name__ == "__main__":
    main()
