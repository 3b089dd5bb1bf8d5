"""Marks each test by its kind (CONTRIBUTING.md, "Tests: seven kinds"): `pytest -m planted`."""

import importlib.util
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest

# Helper modules whose assertions say what differs, as those of test modules do.
pytest.register_assert_rewrite(
    *(f"tests.kernels.{name}" for name in ("contract", "fused", "three", "vectors")),
    *(f"tests.ring.{name}" for name in ("parity", "parity_products")),
)
TESTS = Path(__file__).resolve().parent
# The files of each kind; a test that is of no kind checks files, commands or messages.
KINDS = {
    "identity": ("ring/test_backends*", "ring/test_limbs*", "ring/test_fixed_point*"),
    "vectors": ("media/test_hostile*", "program/test_plan*", "ring/test_prg*", "wire/test_frames*"),
    "parity": (
        "kernels/test_contract*",
        "kernels/test_fused*",
        "kernels/test_network*",
        "kernels/test_protocols*",
        "kernels/test_shared*",
        "kernels/test_three*",
        "oracle/test_*",
        "protocols/test_backends_agree*",
        "ring/test_parity*",
    ),
    "two_party": (
        "local/test_*",
        "processes/test_path*",
        "processes/test_search*",
        "protocols/test_distances*",
        "protocols/test_exhaustive*",
        "protocols/test_labelled_keys*",
        "protocols/test_pooling*",
        "protocols/test_products*",
        "protocols/test_random*",
        "protocols/test_shuffle*",
        "protocols/test_staircase*",
        "protocols/test_growth*",
        "protocols/test_topk*",
        "protocols/test_vote*",
        "retrieval/test_classify*",
        "retrieval/test_cosine*",
        "retrieval/test_programs*",
    ),
    "statistics": ("protocols/test_statistics*", "ring/test_gaps*", "ring/test_selection*"),
    "cost": ("processes/test_bytes*", "protocols/test_cost*", "test_errors*"),
    "planted": ("*/test_planted*",),
}
# Files that import torch, which only an owner of a model needs.
NEED_TORCH = (
    "nn/test_from_torch.py",
    "oracle/test_oracle.py",
    "program/test_resnet.py",
    "test_readme.py",
)
HAS_TORCH = importlib.util.find_spec("torch") is not None
collect_ignore = [] if HAS_TORCH else [*NEED_TORCH]


def pytest_report_header() -> str:
    """The files that are left out, and why."""
    return "" if HAS_TORCH else f"left out, for torch is not installed: {', '.join(NEED_TORCH)}"


def kinds_of(file: Path) -> list[str]:
    """The kinds of a test file."""
    inside = file.relative_to(TESTS).as_posix() if file.is_relative_to(TESTS) else ""
    return [kind for kind, patterns in KINDS.items() if any(fnmatch(inside, p) for p in patterns)]


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Give each test the markers of its file."""
    for item in items:
        for kind in kinds_of(item.path):
            item.add_marker(kind)
