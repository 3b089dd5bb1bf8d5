"""Operations of several steps in one kernel, on every device."""

from tests.kernels.fused import *  # noqa: F403  # every test of the module
