"""Part `bugs`: bugs that were planted in the protocols and kernels, each with the test that must
catch it.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench.evidence.part import Finding, Part

WANTED = 25
_RESULT = re.compile(r"^(PASSED|FAILED|ERROR) (\S+::\S*caught\S*)", re.MULTILINE)


def judged(output: str) -> Finding:
    """What pytest's report says of each planted bug."""
    results = {test: word for word, test in _RESULT.findall(output)}
    caught = sorted(test for test, word in results.items() if word == "PASSED")
    faults = [f"{test}: not caught" for test, word in results.items() if word != "PASSED"]
    n_protocol = sum(test.startswith("tests/protocols") for test in caught)
    if n_protocol < WANTED:
        faults.append(f"{n_protocol} bugs of protocols were caught, and {WANTED} are wanted")
    counts = {"planted": len(results), "caught": len(caught), "in protocols": n_protocol}
    return Finding({name: float(n) for name, n in counts.items()}, faults, {"caught": caught})


def run(units: Sequence[int]) -> Iterator[Finding]:
    """All planted bugs a unit."""
    command = [sys.executable, "-m", "pytest", "-m", "planted", "-q", "-rA", "--tb=short"]
    for _ in units:
        done = subprocess.run([*command, "tests"], capture_output=True, text=True, check=False)
        yield judged(done.stdout)


PART = Part("bugs", "every planted bug", 1, 0, run)
