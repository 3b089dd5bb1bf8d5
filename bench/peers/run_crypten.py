"""CrypTen on one case: `python -m bench.peers.run_crypten FOLDER`, run by CrypTen's own Python.

Three processes: party 0 (this one), party 1 and the trusted third party. Commands come as lines on
stdin, answers go as JSON lines to stdout. See `bench.peers.child_pipe` for what is said.
"""

from __future__ import annotations

import os
import sys
import time
import types
from pathlib import Path
from typing import Any

from bench.peers import child_pipe
from bench.peers.peer_workloads import WORKLOADS, Array, Layer, Workload, load, names

DEALER = 2
# Of `Party.run`, around the clock: CrypTen counts them as rounds.
_BARRIERS = 2


def import_crypten(case: child_pipe.Case, folder: Path, rank: int) -> Any:
    """CrypTen with a third-party dealer, for this rank."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "DISTRIBUTED_BACKEND": "gloo"}
    os.environ |= {"RENDEZVOUS": f"file://{folder}/rendezvous", "GLOO_SOCKET_IFNAME": "lo"}
    import torch

    torch.set_num_threads(1)
    # The third party draws its seeds from torch's global generator, whose seed is the same in every
    # fresh process.
    torch.seed()
    # Modules that later releases of torch no longer have; they serve an importer that nothing here
    # uses.
    for name in ("torch.onnx.symbolic_registry", "torch.onnx._internal.registration"):
        sys.modules.setdefault(name, types.ModuleType(name))
    import crypten

    crypten.cfg.mpc.provider = "TTP"
    crypten.cfg.encoder.precision_bits = case.frac_bits
    return crypten


def apply(layer: Layer, x: Any, weight: Any, bias: Any) -> Any:
    """One layer on shares."""
    match layer.kind:
        case "relu":
            return x.relu()
        case "pool":
            return x.max_pool2d(2)
        case "flatten":
            return x.flatten(start_dim=1)
        case "mean":
            height, width = x.size()[2:]
            return x.sum(3).sum(2).div(height * width)
        case "multiply":
            return x * weight
        case "matmul":
            return x.matmul(weight)
        case "linear":
            return x.matmul(weight.t()) + bias
    y = x.conv2d(weight, padding=layer.padding)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


class Party:
    """One of the two; both make the same calls in the same order."""

    def __init__(self, case: child_pipe.Case, folder: Path, rank: int) -> None:
        self.work: Workload = WORKLOADS[case.workload]
        self.rank, self._crypten = rank, import_crypten(case, folder, rank)
        self._crypten.init()
        import crypten.communicator

        self.link = crypten.communicator.get()
        arrays = load(folder / child_pipe.INPUTS)
        self._shared = {name: self._share(array) for name, array in arrays.items()}

    def _share(self, array: Array) -> Any:
        import torch

        return self._crypten.cryptensor(torch.from_numpy(array), src=0)

    def hear(self, command: str = "") -> str:
        """The command that party 0 gives to both."""
        return str(self.link.broadcast_obj(command if self.rank == 0 else None, 0))

    def run(self) -> tuple[Any, float, str]:
        """Output shares, seconds from shares to shares, digest of the first opened message."""
        with self._crypten.no_grad():
            opened = self._watch_first()
            self.link.barrier()
            start = time.perf_counter()
            x = self._shared["x"]
            for i, layer in enumerate(self.work.layers):
                x = apply(layer, x, self._shared.get(f"{i}.weight"), self._shared.get(f"{i}.bias"))
            self.link.barrier()
            return x, time.perf_counter() - start, opened[0] if opened else ""

    def _watch_first(self) -> list[str]:
        """A list that will hold the digest of the first message of the next run."""
        digests: list[str] = []
        for name in ("all_reduce", "all_gather"):
            self.link.__dict__.pop(name, None)
            original = getattr(self.link, name)

            def watched(
                tensor: Any, *arguments: Any, original: Any = original, **options: Any
            ) -> Any:
                if not digests:
                    first = tensor[0] if isinstance(tensor, list) else tensor
                    # A contiguous copy of the beginning alone: the digest must not cost what it
                    # watches.
                    part = first.data.reshape(-1)[: child_pipe.DIGEST_BYTES // 8].numpy()
                    digests.append(child_pipe.digest(part.tobytes()))
                return original(tensor, *arguments, **options)

            setattr(self.link, name, watched)
        return digests

    def count_rounds(self) -> int:
        """Rounds of one run as CrypTen counts them: openings and third-party messages."""
        self._crypten.cfg.communicator.verbose = True
        self.link.reset_communication_stats()
        self.run()
        self._crypten.cfg.communicator.verbose = False
        return int(self.link.comm_rounds) - _BARRIERS

    def reveal(self, x: Any) -> Array:
        """The output in the clear, after the clock and the counters."""
        self.link.barrier()
        plain: Array = x.get_plain_text().numpy()
        return plain


def follow(party: Party) -> None:
    """Party 1: what party 0 says, until it says stop."""
    while (command := party.hear()) != "stop":
        if command == "run":
            party.reveal(party.run()[0])
        else:
            party.count_rounds()
    party._crypten.uninit()


def deal(case: child_pipe.Case, folder: Path) -> None:
    """The third party."""
    import_crypten(case, folder, DEALER)
    import crypten.mpc.provider

    crypten.mpc.provider.TTPServer()


def lead(case: child_pipe.Case, folder: Path) -> None:
    """Party 0: starts the other two, takes commands, answers."""
    stage = child_pipe.Stage(folder / "crypten.log")
    others = [stage.spawn("bench.peers.run_crypten", folder, rank) for rank in (1, DEALER)]
    party = Party(case, folder, 0)
    counter = child_pipe.Counter({"peer": others[0].pid, "dealer": others[1].pid})
    stage.say(ready=True)
    for command in child_pipe.commands():
        party.hear(command)
        if command == "stop":
            break
        if command == "rounds":
            stage.say(rounds=party.count_rounds())
            continue
        counter.reset()
        shared, seconds, first = party.run()
        traffic = counter.read()
        stage.say(
            seconds_total=seconds,
            online_bytes=max(traffic["peer"]),
            offline_bytes=traffic["dealer"][1],
            opened_digest=first,
            output=child_pipe.save_output(folder, party.reveal(shared)),
            peak_memory_bytes=child_pipe.peaks(
                {"party_0": os.getpid(), "party_1": others[0].pid, "dealer": others[1].pid}
            ),
        )
    party._crypten.uninit()
    child_pipe.end(others)


def main() -> None:
    """Folder and rank from the command line."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    case = child_pipe.Case.read(folder)
    if {*names(WORKLOADS[case.workload])} != {*load(folder / child_pipe.INPUTS)}:
        raise ValueError(f"{folder} holds the arrays of another case than {case.workload}")
    if rank == DEALER:
        deal(case, folder)
    elif rank == 1:
        follow(Party(case, folder, 1))
    else:
        lead(case, folder)


if __name__ == "__main__":
    main()
