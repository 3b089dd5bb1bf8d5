"""What a run must satisfy, as functions that raise AssertionError: used on the protocols, and on
planted bugs.

False alarms: each test statistic is compared with a quantile chosen so that all of them together,
over all tests here, fail an honest protocol with probability below 10^-6 for a random seed; the
seeds are fixed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from gpumpc.cost import Cost
from gpumpc.ring.backend import n_lanes
from tests.harness import Cell, Outcome, opened_cells, view_cells

# 255 degrees of freedom; fewer than 5000 lanes are tested: below 5e-7 in all.
CHI_SQUARE_AT_MOST = float(chi2.isf(1e-10, 255))
# A sum of n signs, in standard deviations: 6.4e-14 two-sided; fewer than 5 * 10^6 sums are tested:
# below 5e-7 in all.
DEVIATIONS_AT_MOST = 7.5


def check_uniform(cells: Sequence[Cell]) -> None:
    """Every byte lane is uniform on 0 .. 255."""
    bad = []
    for cell in cells:
        for i, lane in enumerate(cell.byte_lanes):
            counts = np.bincount(lane, minlength=256)
            expected = lane.size / 256
            assert expected >= 8, "too few samples for a chi-square test"
            if ((counts - expected) ** 2 / expected).sum() > CHI_SQUARE_AT_MOST:
                bad.append(f"{cell.label} lane {i}")
    assert cells and not bad, f"not uniform: {', '.join(bad[:8])}"


def check_same_law(first: Sequence[Cell], second: Sequence[Cell]) -> None:
    """Byte lanes of two transcripts are samples of one distribution."""
    assert [(c.label, c.bits, c.n) for c in first] == [(c.label, c.bits, c.n) for c in second]
    bad = []
    for one, other in zip(first, second, strict=True):
        for i, (a, b) in enumerate(zip(one.byte_lanes, other.byte_lanes, strict=True)):
            counts = np.stack([np.bincount(lane, minlength=256) for lane in (a, b)])
            total = counts.sum(axis=0)
            if ((counts[0] - counts[1]) ** 2 / np.maximum(total, 1)).sum() > CHI_SQUARE_AT_MOST:
                bad.append(f"{one.label} lane {i}")
    assert not bad, f"the law depends on the input: {', '.join(bad[:8])}"


def _signs(cells: Sequence[Cell]) -> tuple[list[str], npt.NDArray[np.float32]]:
    labels = [f"{cell.label} bit {i}" for cell in cells for i in range(len(cell.rows))]
    return labels, 1 - 2 * np.concatenate([cell.rows for cell in cells]).astype(np.float32)


def check_independent(seen: Sequence[Cell], secret: Sequence[Cell] = ()) -> None:
    """Every bit seen is unbiased and, pair by pair, independent of all others and of secrets."""
    labels, rows = _signs(seen)
    n = rows.shape[1]
    limit = DEVIATIONS_AT_MOST * np.sqrt(n)
    bias = np.abs(rows.sum(axis=1))
    bad = [labels[i] for i in np.flatnonzero(bias > limit)]
    pairs = np.triu(np.abs(rows @ rows.T), 1)
    bad += [f"{labels[i]} with {labels[j]}" for i, j in np.argwhere(pairs > limit)]
    if secret:
        secret_labels, secret_rows = _signs(secret)
        known = np.abs(rows @ secret_rows.T)
        bad += [
            f"{labels[i]} with the secret {secret_labels[j]}" for i, j in np.argwhere(known > limit)
        ]
    assert not bad, f"dependent: {', '.join(bad[:8])}"


def gray(cell: Cell) -> Cell:
    """Neighbouring bits of a value, added: what the sum of two top bits tells of it."""
    return Cell(
        f"gray code of {cell.label}", cell.bits, cell.n, cell.values ^ (cell.values >> np.uint64(1))
    )


def check_view(outcome: Outcome, party: int, n: int, secret: Sequence[Cell] = ()) -> None:
    """The whole view of one party: openings, draws, what it was dealt; and what it can unmask with
    its own draws.

    Pairs of seen bits, and pairs with secret bits, must be independent. So must sums of two: an
    opened lane and an own mask lane, or an opened lane and its neighbour, against openings and
    secrets.
    """
    check_independent(view_cells(outcome, party, n), secret)
    opened = opened_cells(outcome, party)
    lanes = np.concatenate([cell.values for cell in opened if not cell.bits])
    masks = [
        values
        for (_, _, name), (bits, values) in outcome.drawn[party].items()
        if not bits and not name.startswith("table.") and not name.endswith("products")
    ]
    own = np.concatenate(masks)
    unmasked = (lanes[:, None] ^ own[None]).reshape(-1, lanes.shape[1])
    known = [*secret, *map(gray, (cell for cell in secret if cell.bits))]
    targets = [*known, *opened, *map(gray, (cell for cell in opened if cell.bits))]
    _check_rows_against(Cell("opened ^ own mask", 0, n, unmasked), targets)
    _check_rows_against(Cell("neighbours opened", 0, n, lanes[1:] ^ lanes[:-1]), known)


def _check_rows_against(cell: Cell, targets: Sequence[Cell]) -> None:
    """Every row of the cell is unbiased and independent of every row of the targets."""
    if not len(cell.values) or not targets:
        return
    limit = DEVIATIONS_AT_MOST * np.sqrt(cell.n)
    labels, rows = _signs([cell])
    target_labels, target_rows = _signs(targets)
    bad = [labels[i] for i in np.flatnonzero(np.abs(rows.sum(axis=1)) > limit)]
    known = np.abs(rows @ target_rows.T)
    bad += [f"{labels[i]} with {target_labels[j]}" for i, j in np.argwhere(known > limit)]
    assert not bad, f"dependent: {', '.join(bad[:8])}"


def check_opened(outcome: Outcome) -> None:
    """Openings alone: uniform, and pairwise independent where they have the same size."""
    for party in (0, 1):
        cells = opened_cells(outcome, party)
        check_uniform(cells)
        for n in {cell.n for cell in cells}:
            check_independent([cell for cell in cells if cell.n == n])


def check_cost(outcome: Outcome, declared: Cost) -> None:
    """Declared is measured, and what the channel recorded."""
    sent = [sum(map(len, messages)) for messages in zip(*outcome.sent, strict=True)] or [0, 0]
    recorded = Cost(len(outcome.sent), sent[0], sent[1], len(outcome.corrections))
    assert outcome.cost == declared == recorded


def check_padding(outcome: Outcome) -> None:
    """No padding bit, which belongs to no value, is set in any message."""
    for round_number, messages in enumerate(outcome.sent, 1):
        items = [o for o in outcome.openings[0] if o.round == round_number]
        for party, message in enumerate(messages):
            start = 0
            for item in items:
                start += item.n * (item.bits // 8)
                planes = item.bits % 8 if item.bits else len(item.values)
                lanes = np.frombuffer(message, "<u8", planes * n_lanes(item.n), start).reshape(
                    planes, -1
                )
                start += lanes.nbytes
                keep = np.uint64((1 << (item.n % 64)) - 1)
                assert not item.n % 64 or not (lanes[:, -1] & ~keep).any(), (
                    f"padding of S{party} in round {round_number}"
                )
            assert start == len(message)
