"""Freed arrays stay: the page faults of a second array, in a process of its own."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from gpumpc.ring.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(450_000)  # below the size for which NumPy asks for huge pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the settings are those of GNU's C library"
)
def test_reused_array_causes_few_page_faults():
    given_back, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("given back", "kept")
    )
    assert kept < 50 and kept <= given_back
