"""Kernels of one element a thread, on every device."""

from tests.kernels.three import *  # noqa: F403  # every test of the module
