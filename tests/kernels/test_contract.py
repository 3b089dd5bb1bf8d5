"""Every operation of the contract, on every device; planted bugs and race checks run them too."""

from tests.kernels.contract import *  # noqa: F403  # every test of the module
