from typing import Any

import pytest

from bench.schema import COMMON, SchemaError, check_row, row
from tests.bench.good_row import GOOD


def test_valid_row_passes() -> None:
    check_row(GOOD)
    more = {"online_bytes_per_image": 6_400_000.0, "layers": {"conv_1": 3}, "seconds_online": None}
    check_row({**GOOD, **more})


@pytest.mark.parametrize("key", COMMON)
def test_missing_key_is_named(key: str) -> None:
    with pytest.raises(SchemaError, match=f"'{key}' is missing"):
        check_row({name: value for name, value in GOOD.items() if name != key})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 4.5}, "'rounds' is 4.5"),
        ({"rounds": True}, "'rounds' is True"),
        ({"online_bytes": "6 MB"}, "'online_bytes' is '6 MB'"),
        ({"offline_bytes": -1}, "from 0 up"),
        ({"seconds_total": float("nan")}, "finite"),
        ({"backend": "cuda"}, "'backend' is 'cuda'"),
        ({"uploaded_bytes": 1.5}, "bytes are whole"),
        ({"online_mb": 6.4}, "seconds or bytes"),
        ({"total_time": 3}, "seconds or bytes"),
        ({"perImage": 3}, "lower snake case"),
        ({"layers": {"Conv": 3}}, "'layers.Conv'"),
    ],
)
def test_invalid_value_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        check_row({**GOOD, **change})


def test_row_fills_absent_fields_with_none() -> None:
    assert row(seconds_total=1.0)["rounds"] is None
    with pytest.raises(SchemaError):
        row(seconds_total="1 s")
