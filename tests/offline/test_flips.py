"""One bit changed, or a file cut, at many places: the right values or an error, never others."""

import secrets
from pathlib import Path

import numpy as np
import pytest

import gpumpc.program.weight_shares as ws
from gpumpc.errors import CorrelationsMissing, CorruptPlan
from gpumpc.offline.checksum import CHECKSUM_BYTES, checksum, is_intact
from gpumpc.offline.pool import Pool
from gpumpc.program.compiler import program_of
from gpumpc.ring.choose import choose_backend
from gpumpc.session import StaticWeight
from tests.offline.pools import A, put
from tests.processes.cluster import tiny


def spoiled(data: bytes, every: int) -> list[bytes]:
    """Copies with one bit flipped, and copies that were cut or have bytes behind."""
    flipped = []
    for at in range(0, len(data), every):
        copy = bytearray(data)
        copy[at] ^= 1 << (at % 8)
        flipped.append(bytes(copy))
    return [*flipped, data[:-1], data[: len(data) // 2], b"", data + b"\0"]


def test_spoiled_batch_of_a_pool_is_refused_and_dropped(tmp_path: Path) -> None:
    data = secrets.token_bytes(1000)
    with_pool = Pool(tmp_path, 1 << 20)
    put(with_pool, A, 0, data)
    [path] = tmp_path.glob("*.corr")
    stored = path.read_bytes()
    with_pool.close()
    for copy in spoiled(stored, 13):
        path.write_bytes(copy)
        pool = Pool(tmp_path, 1 << 20)
        with pytest.raises(CorrelationsMissing, match=rf"{path.name}.*checksum.*dealer deals"):
            pool.take(A, 0, 0.0)
        assert not path.exists() and not pool.ahead(A, 0)
        pool.close()
    path.write_bytes(stored)
    pool = Pool(tmp_path, 1 << 20)
    assert pool.take(A, 0, 0.0).read(1000) == data
    pool.close()


def test_spoiled_weight_shares_are_refused(tmp_path: Path) -> None:
    plan, backend = tiny(), choose_backend("numpy")
    program, path = program_of(plan.record, 2), tmp_path / "weights.safetensors"
    rng, static = np.random.default_rng(3), {}
    for layer, spec in program.weights.items():
        weight, opened = (
            backend.static(backend.upload(rng.integers(0, 99, spec.shape, np.uint64)), spec.bits)
            for _ in range(2)
        )
        bias = backend.upload(rng.integers(0, 99, spec.bias_shape, np.uint64))
        static[layer] = StaticWeight(weight, opened, bias)
    ws.save_static(path, backend, static)
    stored = path.read_bytes()
    assert {*ws.load_static(path, backend, program)} == {*static}
    for copy in spoiled(stored, 37):
        path.write_bytes(copy)
        with pytest.raises(CorruptPlan, match=rf"{path.name}.*checksum.*share the weights again"):
            ws.load_static(path, backend, program)


def test_checksum_covers_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumpc.offline.checksum._CHUNK_BYTES", 16)
    data = bytes(range(48))
    kept = checksum(data)
    assert is_intact(data, kept) and len(kept) == CHECKSUM_BYTES
    for other in (data[16:] + data[:16], data[:32], data + bytes(1), bytes(48)):
        assert not is_intact(other, kept)
