"""Compiles a source of `kernels/` with g++ and caches it by the hash of all it depends on."""

import functools
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from gpumpc.ring import kernels

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / "out" / "emulator"
# -Bsymbolic: a kernel may be called like a function of the C library.
FLAGS = ["-std=c++17", "-O2", "-g1", "-gdwarf-4", "-fPIC", "-shared", "-Wl,-Bsymbolic", "-Wall"]
FLAGS += ["-Wno-unknown-pragmas", "-Wno-unused-function"]
# -O1 keeps an access where the source has it; the sanitizer's own run time is not linked:
# runtime.cpp stands in for it.
RACE_FLAGS = ["-O1", "-fsanitize=thread"]


class CompilerMissing(RuntimeError):
    """g++ is not installed: an error, never a skip."""


def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        raise CompilerMissing(
            "g++ is missing, which compiles the kernels for the tests: apt-get install g++"
        )
    return found


def _compile(text: str, name: str, flags: Sequence[str], libraries: Sequence[str]) -> Path:
    key = hashlib.sha256("\0".join([text, *FLAGS, *flags, *libraries]).encode()).hexdigest()[:32]
    target = CACHE / f"{name}-{key}.so"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    # Processes and threads may compile one source at a time: each renames a file of its own.
    partial = target.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
    command = [compiler(), *FLAGS, *flags, *["-x", "c++", "-", "-x", "none", "-I"], str(HERE)]
    command += ["-o", str(partial), *libraries]
    done = subprocess.run(command, input=text, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"g++ does not compile {name}:\n{done.stderr}")
    partial.replace(target)
    return target


@functools.cache
def runtime() -> Path:
    """The shared library of the emulator's run time."""
    shim = (HERE / "shim.h").read_text()
    text = (HERE / "runtime.cpp").read_text().replace('#include "shim.h"', shim)
    return _compile(text, "runtime", ["-O3"], [])


def library(text: str, file: str, races: bool = False) -> Path:
    """An inlined source as a shared library: `emu_<kernel>` takes pointers to its arguments."""
    parts = [(HERE / "shim.h").read_text(), text]
    for kernel in kernels.parse(text, file):
        arguments = []
        for i, parameter in enumerate(kernel.parameters):
            star = "*" if parameter.is_pointer else ""
            kind = f"{'const ' if parameter.is_const else ''}{parameter.ctype}{star}"
            arguments.append(f"*({kind}*)arguments[{i}]")
        call = f"{kernel.name}({', '.join(arguments)})"
        parts.append(f'extern "C" void emu_{kernel.name}(void** arguments) {{ {call}; }}')
    # The linker would bring the sanitizer's run time, so these flags keep it out.
    flags = [*RACE_FLAGS, "-nostdlib", "-nodefaultlibs", "-lc"] if races else []
    name = file + ("-races" if races else "")
    return _compile("\n".join(parts) + "\n", name, flags, [str(runtime())])


def line_of(path: Path, offset: int) -> str:
    """file:line of an address in a library."""
    done = subprocess.run(
        ["addr2line", "-e", str(path), hex(offset)], text=True, capture_output=True, check=True
    )
    return Path(done.stdout.split(" ")[0].strip()).name
