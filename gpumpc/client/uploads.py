"""What an owner sends to both servers as shares: the weights of a plan, and inputs."""

import hashlib
import secrets
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpumpc import messages as m
from gpumpc.arguments import called_back, seconds
from gpumpc.client.connection import ITEMS_PER_REQUEST, Connection, Progress
from gpumpc.client.served_plan import ServedPlan
from gpumpc.deploy.config import ClientConfig
from gpumpc.deploy.signatures import sign
from gpumpc.errors import BadFrame, BadShape, BadValue, ShareError
from gpumpc.nn.plaintext import check_input
from gpumpc.program.integers import encode_input, integer_weights
from gpumpc.program.plan import PlanRecord, Weights, weight_digest
from gpumpc.program.weight_shares import split_weights
from gpumpc.ring.backend import packed_bytes
from gpumpc.shares import SEED_BYTES, split

Array = npt.NDArray[np.float64]

# Bytes that a server is sent in one request: other requests get their turn between two of them.
BYTES_PER_REQUEST = 64 << 20


class Uploads(Connection):
    """A connection to both servers for one plan, as far as it sends shares. See `Client`.

    Attributes:
        plan: what plan.json says.
        batch_size: images a batch, as the servers say.
    """

    def __init__(self, config: ClientConfig, plan: PlanRecord, patience_s: float = 600.0) -> None:
        super().__init__(config, patience_s)
        try:
            self.served = ServedPlan(self, plan)
        except BaseException:
            self.close()
            raise
        self.plan, self.plan_id = plan, self.served.plan_id
        self.batch_size, self.program = self.served.batch_size, self.served.program

    def plan_status(self) -> tuple[m.PlanStatus, m.PlanStatus]:
        """This plan's status at each server. Raises HandshakeMismatch if one does not serve it."""
        return self.served.status()

    @property
    def is_ready(self) -> bool:
        """Whether the servers are connected and have the same weight shares and session."""
        return self.served.is_ready

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the servers are connected and have weights. Raises ShareError."""
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while not self.is_ready:
            if time.monotonic() > deadline:
                why = "its weights are not shared, or the servers are not connected to each other"
                hint = "the model's owner runs `gpumpc share-weights`; see both servers' logs"
                raise ShareError(f"plan '{self.plan.name}' is not ready at the servers", why, hint)
            time.sleep(0.1)

    # the model's owner

    def share_weights(self, weights: Weights) -> None:
        """Split the weights between the servers, and wait until they have opened F.

        Raises BadValue, before anything is sent, for NaN or for weights that are not the plan's.
        """
        sent = split_weights(self.program, integer_weights(self.program, weights), self.backend)
        if weight_digest(weights) != self.plan.weight_digest:
            what = f"the weights are not those of plan '{self.plan.name}'"
            hint = "take the weights.safetensors that was compiled together with this plan.json"
            raise BadValue(what, "their digest differs from the plan's weight_digest", hint)
        self.done_together(self.weights_request(secrets.token_hex(16), sent), sent)

    def weights_request(self, weight_sharing_id: str, sent: tuple[bytes, bytes]) -> m.ShareWeights:
        """The request to share these halves, signed by this party."""
        first, second = (hashlib.sha256(half).hexdigest() for half in sent)
        statement = m.weights_statement(self.plan_id, weight_sharing_id, (first, second))
        signature = sign(self._identity, "weights", statement).hex()
        return m.ShareWeights(self.plan_id, weight_sharing_id, (first, second), signature)

    # inputs at rest

    def share(
        self,
        values: npt.ArrayLike,
        items: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """Split images between the servers, where they stay until `delete`; returns the item ids.

        Args:
            values: (B, *shape of the plan's input), for images (B, H, W, C), within its range.
            items: an id each, 32 hex digits; new random ones unless given. An item that is shared
                already stays.
            progress: counts items.

        Raises BadShape, BadValue, OutOfRange before anything is sent; ShareError if an item did not
        reach both servers.
        """
        x = check_input(self.plan.graph.input, values)
        fresh = [secrets.token_hex(16) for _ in range(len(x))]
        names = fresh if items is None else m.item_ids(items)
        called_back("progress", progress)
        if not names or len(names) != len(x) or len(set(names)) != len(names):
            raise BadShape(
                f"{len(set(names))} ids came for {len(x)} inputs",
                "each input is known by an id of its own, and there is at least one input",
                "give each input an id of its own, or leave `items` out",
            )
        n_bytes = packed_bytes(int(np.prod(x.shape[1:])), self.program.input.bits)
        size = max(1, min(ITEMS_PER_REQUEST, BYTES_PER_REQUEST // n_bytes))
        for start in range(0, len(names), size):
            self._share(x[start : start + size], names[start : start + size])
            if progress:
                progress(min(start + size, len(names)), len(names))
        return names

    def _share(self, x: Array, names: list[str]) -> None:
        """Send one portion, and once more the inputs that `Settle` deleted at one server."""
        missing, row = names, {name: i for i, name in enumerate(names)}
        for _ in range(2):
            self._put(x[[row[name] for name in missing]], missing)
            missing = self._settled(names)
            if not missing:
                return
        what = f"{len(missing)} of {len(names)} inputs did not reach both servers"
        why = f"item {missing[0][:8]} is at one of them alone, or belongs to someone else there"
        raise ShareError(what, why, "share them again")

    def _put(self, x: Array, names: list[str]) -> None:
        bits, cipher, backend = self.program.input.bits, self.plan.params.cipher, self.backend
        seeds, rows = [], []
        for words in encode_input(self.program, x):
            seeds.append(secrets.token_bytes(SEED_BYTES))
            _, share_1 = split(backend, cipher, seeds[-1], backend.upload(words[None]), bits)
            rows.append(bytes(backend.pack(share_1, bits)))
        request = m.Share(self.plan_id, secrets.token_hex(16), names)
        bulks = (b"".join(seeds), b"".join(rows))
        self.both_done(self.ask((request, request), bulks), self.patience_s)

    def _settled(self, names: list[str]) -> list[str]:
        """Have both servers compare what they hold; returns the items that one of them lacks."""
        sequence = self.ask_together(m.Settle(self.plan_id, secrets.token_hex(16), names))
        missing: set[str] = set()
        for party in (0, 1):
            reply, _ = self.answer(party, sequence, self.patience_s)
            if not isinstance(reply, m.Settled):
                raise BadFrame(f"server {party} did not settle", hint="use one version everywhere")
            missing |= {*reply.missing}
        return [name for name in names if name in missing]
