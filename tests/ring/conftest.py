"""Hypothesis draws the same examples every time, and keeps no database: a test that fails must fail
again.
"""

from hypothesis import settings

settings.register_profile("gpumpc", deadline=None, derandomize=True)
settings.load_profile("gpumpc")
