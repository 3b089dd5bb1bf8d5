"""A tiny network and three real processes for tests, with faults injected from outside."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc.client.client import Client, connect
from gpumpc.deploy.config import LocalSetup, load_client, write_local
from gpumpc.deploy.local_cluster import LocalCluster
from gpumpc.errors import GpumpcError
from gpumpc.local.compile import Plan, compile
from gpumpc.nn.graph import Conv2d, Flatten, Graph, Input, Linear, ReLU
from gpumpc.params import Params
from gpumpc.program.plan import Preprocessing

ROOT = Path(__file__).resolve().parents[2]
BATCH = 2
PARAMS = Params(ring_bits=32, frac_bits=8)
Row = tuple[str, int, int, str]  # of a ledger: session, first, n, state
LIMIT_S = 5.0  # every error is known by then ...
SLACK_S = 1.5  # ... and this much later on a busy machine
ULP = 2.0**-PARAMS.frac_bits

GRAPH = Graph(
    (
        Input("x", (), (4, 4, 1), -1.0, 1.0),
        Conv2d("conv", ("x",), (3, 3), 2, padding=(1, 1, 1, 1)),
        ReLU("relu", ("conv",)),
        Flatten("flat", ("relu",)),
        Linear("fc", ("flat",), 3),
    )
)

# An environment without torch: its import fails, as it does where it is not installed.
NO_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r} (as in an environment without it)")
sys.meta_path.insert(0, NoTorch())
"""

# Appends every (session, batch) under which a process sends masked bytes.
_RECORD = """
from gpumpc.wire.channel import Channel
begin = Channel.begin
def recorded(channel, session_id, batch):
    if any(session_id):
        with open({file!r}, "a") as file:
            file.write(f"{{channel.party}} {{session_id.hex()}} {{batch}}\\n")
    begin(channel, session_id, batch)
Channel.begin = recorded
"""


def tiny(seed: int = 1, params: Params = PARAMS, graph: Graph = GRAPH, name: str = "tiny") -> Plan:
    rng = np.random.default_rng(seed)
    weights = {key: 0.3 * rng.normal(size=shape) for key, shape in graph.weight_shapes().items()}
    recipe = Preprocessing(size=(4, 4), mean=(127.0,), std=(128.0,))
    return compile((graph, weights), name=name, params=params, preprocessing=recipe)


def rewrite(file: Path, **fields: object) -> None:
    """Change keys of a configuration."""
    known = {**tomllib.loads(file.read_text()), **fields}
    lines = [f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in known.items()]
    file.write_text("".join(lines))


def images(n: int, seed: int = 2) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 4, 4, 1))


def law(compiled: Plan) -> npt.NDArray[np.float64]:
    """How far two evaluations may differ: 1 ulp a truncation, so 1 ulp * |weight|, plus 1."""
    weights = np.abs(compiled.weights["fc.weight"]).astype(np.float64)
    return np.asarray((1 + weights.sum(axis=0)) * ULP, dtype=np.float64)


def close(compiled: Plan, x: npt.NDArray[np.float64], result: npt.NDArray[np.float64]) -> bool:
    expected, bound = compiled.evaluate(x, fixed_point=True), law(compiled) + 1e-12
    return expected.shape == result.shape and bool((np.abs(result - expected) <= bound).all())


class Cluster(LocalCluster):
    """Three processes without torch; `faults` gives some of them code that runs first."""

    def __init__(self, setup: LocalSetup, compiled: Plan) -> None:
        super().__init__(setup)
        self.compiled = compiled
        self.faults: dict[str, str] = {}
        self.names = ["server0", "server1", "dealer"]
        # Tiny networks need no compiled loops, whose loading takes seconds a process. Empty: what a
        # user would get.
        self.backend = "numpy"

    @classmethod
    def make(
        cls, folder: Path, plan: Plan | None = None, batch_size: int = BATCH, pool: str = "64KiB"
    ) -> Cluster:
        plan, local, saved = plan or tiny(), folder / "local", folder / "plan"
        plan.save(saved)
        return cls(write_local(local, [saved], batch_size, pool=pool, timeout_s=30.0), plan)

    @property
    def folder(self) -> Path:
        return self.setup.folder

    def _commands(self) -> dict[str, list[str]]:
        commands = super()._commands()
        return {name: commands[name] for name in commands if name in self.names}

    def _spawn(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        recording = _RECORD.format(file=str(self.folder / "begun"))
        injected = self.folder / f"inject-{name}"
        injected.mkdir(exist_ok=True)
        code = NO_TORCH + self.faults.get(name, "") + recording
        (injected / "sitecustomize.py").write_text(code)
        environment = {**os.environ, "PYTHONPATH": f"{injected}:{ROOT}"}
        environment |= {"GPUMPC_BACKEND": self.backend, "OPENBLAS_NUM_THREADS": "1"}
        with self.log_path(name).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "gpumpc", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(5)

    def log(self, name: str) -> str:
        return self.log_path(name).read_text() if self.log_path(name).exists() else ""

    def wait_log(
        self, name: str, pattern: str, timeout_s: float = LIMIT_S + SLACK_S, start: int = 0
    ) -> str:
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.log(name)[start:]):
            text = f"{pattern!r} did not come in the log of {name}:\n{self.log(name)[start:]}"
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        return self.log(name)[start:]

    def client(self, compiled: Plan | None = None, config: Path | None = None) -> Client:
        plan = (compiled or self.compiled).record
        return connect(load_client(config or self.setup.client), plan, 10.0)

    @contextmanager
    def ready(self) -> Iterator[Client]:
        """A client of servers that are connected and have weights."""
        with self.client() as client:
            client.wait_connected(10.0)
            if not client.is_ready:
                client.share_weights(self.compiled.weights)
            client.wait_ready(10.0)
            yield client

    def serves(self) -> bool:
        """Whether everything still works."""
        x = images(1, seed=9)
        with self.ready() as client:
            shared = client.share(x)
            result = client.run(shared).reveal()
            client.delete(shared)
        return close(self.compiled, x, result)

    def begun(self) -> list[str]:
        return (self.folder / "begun").read_text().splitlines()

    def ledger(self, party: int) -> list[Row]:
        """Every row of the ledger, of the sessions of the server's last process."""
        query = "SELECT hex(session), first, n, state FROM batches ORDER BY session, first"
        with sqlite3.connect(self.folder / f"state{party}" / "ledger.sqlite") as db:
            rows = db.execute(query).fetchall()
        db.close()
        return rows


def one_line(error: GpumpcError) -> str:
    """Its message; every error names a cause and a cure."""
    assert error.what and error.why and error.hint, str(error)
    return str(error)
