"""Patterns of names on the wire and in files match a whole text, not all but its last line end."""

from pathlib import Path

import msgspec
import pytest

import gpumpc
from gpumpc.messages.codec import Identifier, IndexName, PlanHash
from gpumpc.program.plan import HexDigest

SOURCES = sorted(Path(gpumpc.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    ("kind", "good"),
    [(IndexName, "gallery"), (Identifier, "a" * 32), (PlanHash, "a" * 64), (HexDigest, "a" * 64)],
)
def test_line_end_after_a_name_is_refused(kind: type[str], good: str) -> None:
    assert msgspec.convert(good, kind) == good
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(good + "\n", kind)


def test_no_pattern_of_a_field_ends_in_a_dollar_sign() -> None:
    lines = [line for path in SOURCES for line in path.read_text().splitlines()]
    patterns = [line for line in lines if "pattern=" in line]
    assert len(patterns) > 5
    assert [line for line in patterns if '$"' in line or "$'" in line] == []
