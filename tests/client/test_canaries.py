"""Canaries: the file, where they are put among items, and what counts as wrong."""

import stat
from pathlib import Path

import numpy as np
import pytest

from gpumpc.client.canaries import Canaries, Mixture, mixed
from gpumpc.errors import BadValue, ConfigError, MissingFile, PeerLost, WrongResult

ITEMS = [f"{i:032x}" for i in range(98)]


def canaries(fraction: float = 0.02, n: int = 3) -> Canaries:
    results = np.arange(2.0 * n).reshape(n, 2)
    inputs = np.arange(4.0 * n).reshape(n, 4)
    return Canaries("a" * 64, "a" * 64, inputs, results, np.full((n, 2), 0.25), fraction)


def test_saved_canaries_are_read_back(tmp_path: Path) -> None:
    path, made = tmp_path / "new" / "canaries.npz", canaries()
    made.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = Canaries.load(path, 0.1)
    assert (read.plan_id, read.result_plan_id) == (made.plan_id, made.result_plan_id)
    assert read.fraction == 0.1 and "0.1" in repr(read)
    for name in ("inputs", "results", "bounds"):
        assert (getattr(read, name) == getattr(made, name)).all()
    with pytest.raises(ConfigError, match="there already"):
        made.save(path)


def test_bad_files_and_fractions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="gpumpc canaries"):
        Canaries.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", inputs=np.zeros(3))
    for name in ("text.npz", "other.npz"):
        with pytest.raises(ConfigError, match="not a file of canaries"):
            Canaries.load(tmp_path / name)
    for fraction in (0.0, -0.1, 0.51, float("nan")):
        with pytest.raises(BadValue, match="fraction"):
            canaries(fraction)
    with pytest.raises(BadValue, match="shape"):
        Canaries("a", "a", np.zeros((1, 1)), np.zeros((1, 2)), np.zeros((1, 3)))


@pytest.mark.parametrize(("fraction", "n"), [(0.02, 2), (0.001, 1), (0.5, 98)])
def test_so_many_canaries_stand_at_random_positions(fraction: float, n: int) -> None:
    seen = set()
    for _ in range(20):
        mixture = Mixture(ITEMS, canaries(fraction))
        assert len(mixture.drawn) == n and len({*mixture.names}) == len(ITEMS) + n
        assert [name for name in mixture.names if name not in mixture.drawn] == ITEMS
        assert mixture.inputs.shape == (n, 4)
        assert mixture.items_of(np.arange(float(len(mixture.names)))).shape == (len(ITEMS),)
        assert mixture.canaries_of(mixture.names) == mixture.drawn
        seen.add(tuple(mixture.names.index(name) for name in mixture.drawn))
    assert len(seen) > 5
    assert not Mixture([], canaries(fraction)).drawn and not Mixture(ITEMS, None).drawn


@pytest.mark.parametrize("change", [0.26, -1e9, np.nan])
def test_result_beyond_its_bound_is_wrong(change: float) -> None:
    mixture = Mixture(ITEMS, canaries(0.5))
    known = canaries()
    rows = np.stack([known.results[int(x[0]) // 4] for x in mixture.inputs])
    mixture.check(mixture.drawn, rows + 0.25, 10)
    rows[7, 1] += change
    batch = mixture.names.index(mixture.drawn[7]) // 10
    with pytest.raises(WrongResult, match=rf"1 of 98 canaries .* in batch {batch},"):
        mixture.check(mixture.drawn, rows, 10)


def test_check_names_a_few_of_many() -> None:
    mixture = Mixture(ITEMS, canaries(0.5))
    with pytest.raises(WrongResult, match="98 of 98 canaries .* and 90 more"):
        mixture.check(mixture.names, np.full((len(mixture.names), 2), 1e6), 10)


def test_canaries_are_deleted_whatever_happens() -> None:
    shared, deleted = list[list[str]](), list[list[str]]()
    arguments = ITEMS, canaries(), lambda _, names: shared.append(names), deleted.append
    with mixed(*arguments) as mixture:
        assert shared == [mixture.drawn] and not deleted
    assert deleted == shared

    def lost(_: list[str]) -> None:
        deleted.append([])
        raise PeerLost("the server is gone")

    with pytest.raises(ZeroDivisionError), mixed(*arguments[:3], lost):
        raise ZeroDivisionError
    assert deleted[-1] == []
