"""Hypothesis draws the same examples every time: a test that fails must fail again."""

from hypothesis import settings

settings.register_profile("gpumpc", deadline=None, derandomize=True)
settings.load_profile("gpumpc")
