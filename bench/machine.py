"""Which machine and which revision a figure was measured on."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, Any]:
    """Processor, cores, memory, vector multiplies, and the revision of this checkout."""
    about = Path("/proc/cpuinfo")
    fields = _cpu_fields(about.read_text() if about.exists() else "")
    flags = fields.get("flags", "").split()
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "vector_multiply_64": "avx512dq" in flags,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "revision": revision(),
    }


def machine_name() -> str:
    """One word a machine class: figures of machines of one kind are compared."""
    found = machine()
    words = "".join(c if c.isalnum() else " " for c in found["processor"]).split()
    vector = "avx512" if found["vector_multiply_64"] else "plain"
    return "-".join([*words, f"{found['cores']}cores", vector]).lower()


def revision() -> str:
    """The commit of this checkout, with a mark if files differ from it; empty without git."""
    ask = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        told = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()


def _cpu_fields(text: str) -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo."""
    first = text.split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
