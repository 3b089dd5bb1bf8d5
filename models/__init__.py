"""Torch definitions of the networks this project runs, and how their weights are made or loaded."""

from collections.abc import Callable

import torch


def seeded(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """A module in evaluation mode whose initial weights depend on the seed alone.

    These are public test weights, never protocol randomness. Torch's global generator is left as it
    was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()
