"""Hypothesis draws the same examples every time, and keeps no database: a test that fails must fail
again.
"""

import pytest
from hypothesis import settings

settings.register_profile("gpumpc", deadline=None, derandomize=True)
settings.load_profile("gpumpc")

# Their assertions say what differs, as those of test modules do.
pytest.register_assert_rewrite(
    "tests.ring.adopted", "tests.ring.parity", "tests.ring.parity_products", "tests.ring.primitives"
)
