"""A network's weights as shares: the owner splits them once, the servers open F = W - Bm once.

Server 0's share travels as a 32-byte seed, server 1's as packed words. Public weights travel as
packed words to both, and nothing is opened. A server stores its part and F in one safetensors file,
so that F is never opened a second time.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from gpumpc.errors import BadFrame, CorruptPlan
from gpumpc.offline.checksum import CHECKSUM_BYTES, checksum, is_intact
from gpumpc.offline.secret import read_private, write_private
from gpumpc.offline.seeds import SESSION_BYTES, SeedTree
from gpumpc.params import Cipher
from gpumpc.program.integers import Integers
from gpumpc.program.program import Program, WeightSpec
from gpumpc.ring.backend import Backend, Operand, Words, packed_bytes
from gpumpc.session import Session, StaticWeight, Sum
from gpumpc.shares import SEED_BYTES

RawShares = dict[str, tuple[Words, Words]]


def _arrays(program: Program) -> Iterator[tuple[str, str, tuple[int, ...], WeightSpec]]:
    """(layer, part, shape, spec) in the order in which everything here is sent."""
    for layer, spec in program.weights.items():
        yield layer, "weight", spec.shape, spec
        yield layer, "bias", spec.bias_shape, spec


def _expand(backend: Backend, cipher: Cipher, program: Program, seed: bytes) -> Iterator[Words]:
    tree = SeedTree(seed, bytes(SESSION_BYTES), 0)
    for layer, part, shape, spec in _arrays(program):
        yield backend.expand_words(cipher, tree.key(layer, part), shape, spec.bits)


def split_weights(program: Program, integers: Integers, backend: Backend) -> tuple[bytes, bytes]:
    """The owner's messages to server 0 and to server 1.

    Private weights: a seed, and W - PRG(seed) packed. Public weights: W packed, to both.
    """
    cipher = program.params.cipher
    bits = [spec.bits for _, _, _, spec in _arrays(program)]
    # A layer at a time: all of them as words take twice the memory of the float32 weights.
    words = (backend.upload(part) for layer in program.weights for part in integers[layer])
    if program.params.weights == "public":
        packed = b"".join(map(backend.pack, words, bits))
        return packed, packed
    seed = secrets.token_bytes(SEED_BYTES)
    shares = zip(words, _expand(backend, cipher, program, seed), strict=True)
    return seed, b"".join(map(backend.pack, (w - share for w, share in shares), bits))


def receive_weights(program: Program, party: int, sent: memoryview, backend: Backend) -> RawShares:
    """One server's raw shares (weight, bias) by layer.

    Raises BadFrame if the bytes do not fit the program.
    """
    if program.params.weights == "private" and party == 0:
        if len(sent) != SEED_BYTES:
            why, hint = f"it has {SEED_BYTES}", "share the weights again"
            raise BadFrame(f"a weight seed of {len(sent)} bytes came", why, hint)
        words = list(_expand(backend, program.params.cipher, program, bytes(sent)))
    else:
        words = list(_unpack(program, sent, backend))
    return dict(zip(program.weights, zip(words[::2], words[1::2], strict=True), strict=True))


def _unpack(program: Program, sent: memoryview, backend: Backend) -> Iterator[Words]:
    sizes = [packed_bytes(int(np.prod(shape)), spec.bits) for _, _, shape, spec in _arrays(program)]
    if len(sent) != sum(sizes):
        raise BadFrame(
            f"{len(sent)} weight bytes came where {sum(sizes)} were expected",
            "they were made for another plan",
            "share the weights of the plan that the servers run",
        )
    start = 0
    for size, (_, _, shape, spec) in zip(sizes, _arrays(program), strict=True):
        yield backend.unpack(sent[start : start + size], shape, spec.bits)
        start += size


def open_static(session: Session, program: Program, raw: RawShares) -> dict[str, StaticWeight]:
    """Open F = W - Bm of every layer in one round; then W_0 = F + Bm_0 and W_1 = Bm_1.

    The session must be one of `seeds.weight_session`, its name reserved in the ledger: two openings
    under one Bm would give away the difference of two models.
    """
    backend = session.backend
    bits = {layer: spec.bits for layer, spec in program.weights.items()}
    if program.params.weights == "public":
        own = 1 - session.party  # the bias is added once, by server 0
        return {
            layer: StaticWeight(backend.static(w, bits[layer]), None, backend.scale(b, own, 64))
            for layer, (w, b) in raw.items()
        }
    masks, sums = {}, []
    for layer, (w, _) in raw.items():
        session.at(layer)
        masks[layer] = session.words("Bm", program.weights[layer].shape, bits[layer])
        sums.append(Sum(w - masks[layer], bits[layer]))
    static = {}
    for (layer, (_, bias)), opened in zip(raw.items(), session.open_many(*sums), strict=True):
        mask, k = masks[layer], bits[layer]
        part = backend.reduce(mask + opened, k) if session.party == 0 else mask
        static[layer] = StaticWeight(backend.static(part, k), backend.static(opened, k), bias)
    return static


def save_static(path: Path, backend: Backend, static: dict[str, StaticWeight]) -> None:
    """Keep a server's part, mode 0600, all or nothing.

    Raises ConfigError where the disk refuses.
    """
    arrays: dict[str, npt.NDArray[np.uint64]] = {}
    for layer, part in static.items():
        arrays[f"{layer}.weight"] = backend.download(part.weight)
        arrays[f"{layer}.bias"] = backend.download(part.bias)
        if part.opened is not None:
            arrays[f"{layer}.opened"] = backend.download(part.opened)
    data = safetensors.numpy.save(arrays)
    write_private(path, data + checksum(data))


def load_static(path: Path, backend: Backend, program: Program) -> dict[str, StaticWeight]:
    """The inverse of `save_static`. Raises CorruptPlan, MissingFile, ExposedSecret."""
    try:
        stored = read_private(path)
        data, kept = stored[:-CHECKSUM_BYTES], stored[-CHECKSUM_BYTES:]
        if not is_intact(data, kept):
            raise ValueError("its checksum does not match: it was changed or cut on the disk")
        arrays = safetensors.numpy.load(data)

        def loaded(name: str, spec: WeightSpec) -> Operand:
            return backend.static(backend.upload(arrays[name].reshape(spec.shape)), spec.bits)

        is_private = program.params.weights == "private"
        return {
            layer: StaticWeight(
                loaded(f"{layer}.weight", spec),
                loaded(f"{layer}.opened", spec) if is_private else None,
                backend.upload(arrays[f"{layer}.bias"].reshape(spec.bias_shape)),
            )
            for layer, spec in program.weights.items()
        }
    except (SafetensorError, KeyError, ValueError) as error:
        hint = "restore it from this server's backup, or delete it and share the weights again"
        raise CorruptPlan(
            f"the weight shares in {path} cannot be used", str(error), hint
        ) from error
