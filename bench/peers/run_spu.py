"""SPU on one case: `python -m bench.peers.run_spu FOLDER`, run by SPU's own Python.

Two processes, SEMI2K over 64 bits; the beaver triples come from the trusted first party, which is
party 0: the wheel has no dealer of its own. Says and hears what `bench.peers.child_pipe` describes.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from bench.peers import child_pipe
from bench.peers.peer_workloads import WORKLOADS, Array, Layer, Workload, load, names

_SENT = re.compile(r"total send bytes (\d+).*?send actions (\d+)", re.DOTALL)


def apply(layer: Layer, x: Any, weight: Any, bias: Any) -> Any:
    """One layer in jax, channels last."""
    import jax
    import jax.numpy as jnp

    match layer.kind:
        case "relu":
            return jnp.maximum(x, 0)
        case "pool":
            window = (1, 2, 2, 1)
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        case "flatten":
            return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        case "mean":
            return jnp.mean(x, axis=(1, 2))
        case "multiply":
            return x * weight
        case "matmul":
            return x @ weight
        case "linear":
            return x @ weight + bias
    edge = (layer.padding, layer.padding)
    y = jax.lax.conv_general_dilated(
        x, weight, (1, 1), (edge, edge), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y if bias is None else y + bias


def channels_last(work: Workload, arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays as jax takes them, float32."""
    turned = dict(arrays)
    if len(work.shape) == 4:
        turned["x"] = arrays["x"].transpose(0, 2, 3, 1)
    for i, layer in enumerate(work.layers):
        if layer.kind in ("conv", "linear"):
            weight = arrays[f"{i}.weight"]
            order = (2, 3, 1, 0) if layer.kind == "conv" else (1, 0)
            turned[f"{i}.weight"] = weight.transpose(order)
    return {name: array.astype("float32") for name, array in turned.items()}


class Party:
    """One of the two; both make the same calls in the same order."""

    def __init__(self, case: child_pipe.Case, folder: Path, rank: int) -> None:
        import spu
        import spu.libspu

        self._spu, self.rank, self.work = spu, rank, WORKLOADS[case.workload]
        description = spu.libspu.link.Desc()
        for party in (0, 1):
            port = case.ports[party] if party == rank else case.reached_at[party]
            description.add_party(f"party_{party}", f"127.0.0.1:{port}")
        description.recv_timeout_ms = 600_000
        description.http_timeout_ms = 600_000
        self.link = spu.libspu.link.create_brpc(description, rank)
        self._config = self._configuration(case)
        self._io = spu.Io(2, self._config)
        self._names = names(self.work)
        arrays = channels_last(self.work, load(folder / child_pipe.INPUTS))
        self._program = self._compile([arrays[name] for name in self._names])
        self._shares = [self._distribute(arrays[name]) for name in self._names]
        self._runtime = spu.Runtime(self.link, self._config)

    def _configuration(self, case: child_pipe.Case) -> Any:
        library = self._spu.libspu
        kind, field = library.ProtocolKind.SEMI2K, library.FieldType.FM64
        config = library.RuntimeConfig(kind, field, case.frac_bits)
        config.max_concurrency = 1
        return config

    def _compile(self, arguments: list[Array]) -> Any:
        from spu.utils import frontend

        def network(x: Any, *parts: Any) -> Any:
            given = dict(zip(self._names[1:], parts, strict=True))
            for i, layer in enumerate(self.work.layers):
                x = apply(layer, x, given.get(f"{i}.weight"), given.get(f"{i}.bias"))
            return x

        kind, secret = frontend.Kind.JAX, [self._spu.Visibility.VIS_SECRET] * len(arguments)
        inputs: tuple[Any, ...] = arguments, {}, self._names, secret
        program, _ = frontend.compile(kind, network, *inputs, lambda flat: ["y"])
        return program

    def _distribute(self, array: Array) -> Any:
        """This party's share; party 0 splits."""
        if self.rank == 0:
            own, other = self._io.make_shares(array, self._spu.Visibility.VIS_SECRET)
            self._send(other)
            return own
        return self._receive()

    def _send(self, share: Any) -> None:
        self.link.send(1 - self.rank, str(len(share.share_chunks)))
        for part in (share.meta, *share.share_chunks):
            self.link.send(1 - self.rank, part)

    def _receive(self) -> Any:
        share = self._spu.libspu.Share()
        count = int(self.link.recv(1 - self.rank))
        share.meta = self.link.recv(1 - self.rank)
        share.share_chunks = [self.link.recv(1 - self.rank) for _ in range(count)]
        return share

    def hear(self, command: str = "") -> str:
        """The command that party 0 gives to both."""
        if self.rank == 0:
            self.link.send(1, command)
            return command
        return bytes(self.link.recv(0)).decode()

    def run(self, runtime: Any = None) -> tuple[Any, float]:
        """This party's output share, and seconds from shares to shares."""
        runtime = runtime or self._runtime
        for name, share in zip(self._names, self._shares, strict=True):
            runtime.set_var(name, share)
        self.link.barrier()
        start = time.perf_counter()
        runtime.run(self._program)
        self.link.barrier()
        seconds = time.perf_counter() - start
        share = runtime.get_var("y")
        runtime.del_var("y")
        return share, seconds

    def profile(self) -> None:
        """One run that writes its counters to the log."""
        config = self._spu.libspu.RuntimeConfig(self._config)
        config.enable_pphlo_profile = config.enable_hal_profile = self.rank == 0
        self.run(self._spu.Runtime(self.link, config))

    def reveal(self, share: Any) -> Array | None:
        """The output in the clear at party 0, in torch's order of axes; it is not timed."""
        self.link.barrier()
        if self.rank == 1:
            self._send(share)
            return None
        y: Array = self._io.reconstruct([share, self._receive()])
        return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


def follow(party: Party) -> None:
    """Party 1: what party 0 says, until it says stop."""
    while (command := party.hear()) != "stop":
        if command == "run":
            party.reveal(party.run()[0])
        else:
            party.profile()


def rounds_in(log: str) -> int | None:
    """Messages that party 0 sent in the last profiled run; None where the log does not say."""
    found = _SENT.findall(log)
    return int(found[-1][1]) if found else None


def lead(case: child_pipe.Case, folder: Path) -> None:
    """Party 0: starts the other, takes commands, answers."""
    stage = child_pipe.Stage(folder / "spu.log")
    other = stage.spawn("bench.peers.run_spu", folder, 1)
    party = Party(case, folder, 0)
    # Behind a relay the other end of each connection is the comparison's process.
    peer = other.pid if case.reached_at == case.ports else os.getppid()
    counter = child_pipe.Counter({"peer": peer})
    stage.say(ready=True)
    for command in child_pipe.commands():
        party.hear(command)
        if command == "stop":
            break
        if command == "rounds":
            party.profile()
            stage.say(rounds=rounds_in(stage.log.read_text(errors="replace")))
            continue
        counter.reset()
        share, seconds = party.run()
        traffic = counter.read()
        stage.say(
            seconds_total=seconds,
            online_bytes=max(traffic["peer"]),
            share_digest=child_pipe.digest(b"".join(share.share_chunks)),
            output=child_pipe.save_output(folder, party.reveal(share)),  # type: ignore[arg-type]  # party 0 has it
            peak_memory_bytes=child_pipe.peaks({"party_0": os.getpid(), "party_1": other.pid}),
        )
    child_pipe.end([other])


def main() -> None:
    """Folder and rank from the command line."""
    folder, rank = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    case = child_pipe.Case.read(folder)
    if rank == 1:
        follow(Party(case, folder, 1))
    else:
        lead(case, folder)


if __name__ == "__main__":
    main()
