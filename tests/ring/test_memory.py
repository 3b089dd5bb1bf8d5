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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings are tested")
def test_reused_array_causes_few_page_faults():
    def faults(how):
        command = [sys.executable, "-c", CODE, how]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    kept = faults("kept")
    assert kept < 50 and kept <= faults("given back")
