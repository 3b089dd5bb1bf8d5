"""A compiled network on disk: `plan.json`, for all, and `weights.safetensors`, for the owner.

The plan names its weights by a digest over a random salt and all arrays. Every party sees the
digest, so without the salt it must give nothing away: a hiding commitment. The salt lies in the
weights file.
"""

import hashlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from gpumpc.errors import BadShape, BadValue, CorruptPlan, ExposedSecret, MissingFile, PlanError
from gpumpc.nn.graph import Graph, Pair
from gpumpc.offline.secret import file_error
from gpumpc.params import Params
from gpumpc.program.program import Width

FORMAT = 1
PLAN_FILE = "plan.json"
WEIGHTS_FILE = "weights.safetensors"
SALT_BYTES = 32
_SALT_KEY = "salt"

WeightArray = npt.NDArray[np.floating]
Bounds = Literal["certified", "calibrated"]
HexDigest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From pixels in [0, 1] to an input: resize to `size`, then `(255 x - mean) / std` a channel.

    Attributes:
        size: height and width in pixels.
        mean, std: one grey level (0 to 255) a channel.
        window: centre and width, in the file's own units (Hounsfield in CT), that become [0, 1] in
            files of more than 8 bits; None: the file's own window, else its full range.
    """

    size: Pair
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: tuple[float, float] | None = None


class PlanRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the parties must agree on about a network; it holds no secret.

    Attributes:
        name: the model's name, for people.
        weight_digest: SHA-256 over salt and weights, hex.
        preprocessing: of an image, by the client; None: nothing.
        output_bits: bits of the revealed value, sign included; None: as many as the ring has.
        bounds: `certified`: no input in range can leave the ring; `calibrated`: none of the sample
            images did.
        guard_bits: bits above the largest values of the samples (calibrated only).
        widths: of the layers, see `gpumpc.program.program.Width`; any other layer has k bits and
            weights at 2^f.
        classes: names of the indices in the result, if it has any; every party reads them.
        error: largest error of an output entry that was measured, as a part of the outputs' spread
            (see `gpumpc.program.precision`); None: not measured.
    """

    format: int
    name: str
    graph: Graph
    params: Params
    weight_digest: HexDigest
    preprocessing: Preprocessing | None = None
    output_bits: Annotated[int, msgspec.Meta(ge=1, le=62)] | None = None
    bounds: Bounds = "certified"
    guard_bits: int = 0
    widths: dict[str, Width] = {}
    classes: tuple[str, ...] = ()
    error: float | None = None


class Weights(dict[str, WeightArray]):
    """Arrays by name, with the salt of their commitment; printing shows names only."""

    def __init__(self, arrays: Mapping[str, WeightArray], salt: bytes) -> None:
        super().__init__(arrays)
        self.salt = salt

    def __repr__(self) -> str:
        return f"Weights({', '.join(sorted(self))})"


def make_plan(
    name: str,
    graph: Graph,
    weights: Mapping[str, WeightArray],
    params: Params,
    preprocessing: Preprocessing | None = None,
) -> tuple[PlanRecord, Weights]:
    """Commit to the weights, float32 or float64 arrays by name, under a fresh salt.

    Raises:
        BadShape: an array is missing, superfluous or of another shape than the graph says.
        BadValue: an array contains NaN or infinity, or has another type.
    """
    _check_weights(graph, weights, "the weights")
    salted = Weights(weights, secrets.token_bytes(SALT_BYTES))
    return PlanRecord(FORMAT, name, graph, params, weight_digest(salted), preprocessing), salted


def weight_digest(weights: Weights) -> str:
    """Hex SHA-256 over the salt, then each array's name, type, shape and bytes, by name."""
    digest = hashlib.sha256(b"gpumpc weights 1\0" + weights.salt)
    for name in sorted(weights):
        array = weights[name]
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        # JSON delimits the header, so no two sets of arrays give the same stream.
        digest.update(msgspec.json.encode((name, array.dtype.name, array.shape)) + b"\n")
        digest.update(little.data)
    return digest.hexdigest()


def plan_hash(plan: PlanRecord) -> bytes:
    """SHA-256 (32 bytes) over the plan's canonical JSON: keys sorted, no white space."""
    return hashlib.sha256(b"gpumpc plan 1\0" + msgspec.json.encode(plan, order="sorted")).digest()


def save(plan: PlanRecord, weights: Weights, folder: Path) -> None:
    """Write both files, each atomically; the weights (0600) first, so that no plan lacks them.

    Raises BadShape, BadValue for weights that are not those of the plan.
    """
    _check_weights(plan.graph, weights, "the weights")
    if weight_digest(weights) != plan.weight_digest:
        raise BadValue(
            f"the weights are not those of plan '{plan.name}'",
            "their digest differs from the plan's weight_digest",
            "make the plan again from these weights",
        )
    folder.mkdir(parents=True, exist_ok=True)
    stored: dict[str, npt.NDArray[Any]]
    stored = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    stored[_SALT_KEY] = np.frombuffer(weights.salt, dtype=np.uint8)
    _write(folder / WEIGHTS_FILE, safetensors.numpy.save(stored), 0o600)
    text = msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"
    _write(folder / PLAN_FILE, text, 0o644)


def load(folder: Path) -> PlanRecord:
    """Read and check `plan.json`.

    Raises:
        MissingFile: there is none.
        CorruptPlan: damaged, foreign, inconsistent, or of another format version.
    """
    path = folder / PLAN_FILE
    data = _read(path)
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("format")
        if version != FORMAT:
            raise _corrupt(path, f"it has format {version}, this gpumpc reads format {FORMAT}")
        plan = msgspec.json.decode(data, type=PlanRecord)
        plan.graph.input, plan.graph.weight_shapes()
    except (msgspec.DecodeError, PlanError, RecursionError) as error:
        if isinstance(error, CorruptPlan):
            raise
        raise _corrupt(path, str(error)) from error
    return plan


def load_weights(folder: Path, plan: PlanRecord) -> Weights:
    """Read `weights.safetensors` and check it against the plan.

    Raises:
        MissingFile: there is none.
        ExposedSecret: private weights that other users of the machine can read.
        CorruptPlan: damaged, or not the weights of this plan.
        BadShape, BadValue: arrays that do not fit the graph, or NaN or infinity inside.
    """
    path = folder / WEIGHTS_FILE
    data = _read(path)
    if plan.params.weights == "private" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        why = "private weights are a secret"
        raise ExposedSecret(f"{path} can be read by other users", why, f"chmod 600 {path}")
    try:
        arrays = safetensors.numpy.load(data)
        salt = arrays.pop(_SALT_KEY).tobytes()
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise _corrupt(path, f"it is not a weights file of gpumpc ({error})") from error
    _check_weights(plan.graph, arrays, str(path))
    weights = Weights(arrays, salt)
    if len(salt) != SALT_BYTES or weight_digest(weights) != plan.weight_digest:
        raise _corrupt(path, f"its digest is not the one in {PLAN_FILE}: the weights are others")
    return weights


def _check_weights(graph: Graph, weights: Mapping[str, npt.NDArray[np.generic]], what: str) -> None:
    expected = graph.weight_shapes()
    found = {name: array.shape for name, array in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise BadShape(
                f"'{name}' in {what} has shape {found.get(name)}",
                f"the plan's graph asks for {expected.get(name)} (None: no such array)",
                "compile the model again",
            )
        if weights[name].dtype.name not in ("float32", "float64"):
            found_type = weights[name].dtype
            raise BadValue(
                f"'{name}' in {what} has type {found_type}", hint="use float32 or float64"
            )
        if not np.isfinite(weights[name]).all():
            hint = "train or load the model again"
            raise BadValue(f"'{name}' in {what} contains NaN or infinity", hint=hint)


def _corrupt(path: Path, why: str) -> CorruptPlan:
    hint = "compile the model again, or copy the file again"
    return CorruptPlan(f"{path} cannot be used", why, hint)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(
            f"there is no file {path}",
            "a plan is a folder that `gpumpc compile` or `Plan.save` has written",
            "give the path of such a folder",
        ) from error
    except OSError as error:
        raise file_error(f"{path} cannot be read", error) from error


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file at once: a reader sees the old one or the new one, never with another mode."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
