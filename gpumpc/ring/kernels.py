"""The CUDA sources of `kernels/`: found, inlined to one text, parsed, compiled to machine code.

NVRTC is called through ctypes, because it needs neither a driver nor a device: the same call makes
the cubins that a test inspects and those that a GPU loads. A cubin is cached under the hash of
everything it depends on.
"""

import ctypes
import dataclasses
import functools
import hashlib
import importlib.util
import os
import re
import threading
from pathlib import Path

import numpy as np

from gpumpc.errors import ConfigError, MissingExtra

FOLDER = Path(__file__).resolve().parent.parent / "kernels"
CACHE = "GPUMPC_KERNEL_CACHE"
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120")

_INCLUDE = re.compile(r'^#include "([a-z0-9_]+\.cuh)"$', re.MULTILINE)
_KERNEL = re.compile(
    r'extern "C" __global__ void __launch_bounds__\((\d+)(?:, \d+)?\)\s*(\w+)\(([^)]*)\)'
)
_SHARED = re.compile(r"^DYNAMIC_SHARED\((\w+), (\d+)\)$", re.MULTILINE)
_PARAMETER = re.compile(r"(const )?(u8|u32|u64|i64|int)(\*?) (\w+)")
_TYPES = {"u8": np.uint8, "u32": np.uint32, "u64": np.uint64, "i64": np.int64, "int": np.int32}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: a scalar of exactly this type, or a pointer to an array of it."""

    name: str
    dtype: np.dtype
    is_pointer: bool
    is_const: bool
    ctype: str


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An entry point as its source declares it."""

    name: str
    file: str
    threads: int
    shared_bytes: int
    parameters: tuple[Parameter, ...]


def files() -> list[str]:
    """Names of the sources, without their ending."""
    return sorted(path.stem for path in FOLDER.glob("*.cu"))


@functools.cache
def source(file: str) -> str:
    """One source with its headers inlined, as it is compiled and as cubins are cached by it."""
    return inline((FOLDER / f"{file}.cu").read_text(), f"{file}.cu")


def inline(text: str, name: str) -> str:
    """A text with its headers inlined; `#line` keeps the names of the files in messages."""
    seen: set[str] = set()

    def expand(text: str, name: str) -> str:
        parts, line = [f'#line 1 "{name}"'], 0
        for line, row in enumerate(text.splitlines(), 1):
            if found := _INCLUDE.match(row):
                header = found[1]
                if header not in seen:
                    seen.add(header)
                    text = (FOLDER / header).read_text()
                    parts += [expand(text, header), f'#line {line + 1} "{name}"']
            else:
                parts.append("" if row == "#pragma once" else row)
        return "\n".join(parts)

    return expand(text, name) + "\n"


def parse(text: str, file: str) -> list[Kernel]:
    """The kernels of an inlined source. Raises ConfigError for parameters of an unknown type."""
    shared = {name: int(n_bytes) for name, n_bytes in _SHARED.findall(text)}
    kernels = []
    for threads, name, declared in _KERNEL.findall(text):
        parameters = tuple(_parameter(part, f"{file}.{name}") for part in declared.split(","))
        kernels.append(Kernel(name, file, int(threads), shared.get(name, 0), parameters))
    if len(kernels) != text.count("__global__ void"):
        what = f"a kernel of {file}.cu is not declared as the launcher reads it"
        raise ConfigError(what, hint="see docs/kernels.md")
    return kernels


def _parameter(text: str, where: str) -> Parameter:
    found = _PARAMETER.fullmatch(" ".join(text.split()))
    if not found:
        what = f"parameter '{text.strip()}' of {where} has a type that cannot be checked"
        raise ConfigError(what, hint="see docs/kernels.md")
    const, ctype, pointer, name = found.groups()
    return Parameter(name, np.dtype(_TYPES[ctype]), bool(pointer), bool(const), ctype)


@functools.cache
def catalogue() -> dict[str, Kernel]:
    """Every kernel by name."""
    found: dict[str, Kernel] = {}
    for file in files():
        for kernel in parse(source(file), file):
            if kernel.name in found:
                why = f"{file}.cu has the second"
                raise ConfigError(f"two kernels are called {kernel.name}", why, "rename one")
            found[kernel.name] = kernel
    return found


# machine code


@dataclasses.dataclass(frozen=True)
class Resources:
    """Registers and memory of one kernel, from the assembler's log."""

    registers: int
    spill_bytes: int
    shared_bytes: int


@dataclasses.dataclass(frozen=True)
class Cubin:
    """Machine code of one source for one architecture, with the assembler's log."""

    code: bytes
    log: str

    def resources(self) -> dict[str, Resources]:
        """By kernel name; shared memory is the static part."""
        found = {}
        for block in self.log.split("Compiling entry function")[1:]:
            name = re.search(r"'(\w+)'", block)
            registers = re.search(r"Used (\d+) registers", block)
            if not name or not registers:
                why, hint = "another version of NVRTC", "install gpumpc[kernels]"
                raise ConfigError("the assembler's log cannot be read", why, hint)
            spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", block)
            stack = re.search(r"(\d+) bytes stack frame", block)
            shared = re.search(r"(\d+) bytes smem", block)
            spilled = sum(map(int, spills.groups())) if spills else 0
            spilled += int(stack[1]) if stack else 0
            found[name[1]] = Resources(int(registers[1]), spilled, int(shared[1]) if shared else 0)
        return found


def _library_paths() -> list[str]:
    """Where NVRTC may be: wheels first, then a toolkit, then wherever the loader looks."""
    paths: list[Path] = []
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or [] if spec else []:
        paths += sorted(Path(place).glob("*/lib/libnvrtc.so.*"), reverse=True)
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        if root := os.environ.get(variable):
            paths += sorted(Path(root).glob("lib64/libnvrtc.so*"), reverse=True)
    return [str(path) for path in paths] + ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]


class Nvrtc:
    """NVIDIA's run-time compiler. Raises MissingExtra where it is not installed."""

    def __init__(self) -> None:
        for path in _library_paths():
            try:
                self._library = ctypes.CDLL(path)
                break
            except OSError:
                continue
        else:
            hint = "pip install 'gpumpc[kernels]' (or [cuda12], [cuda13])"
            raise MissingExtra("kernels cannot be compiled", "NVRTC is not installed", hint)
        major, minor = ctypes.c_int(), ctypes.c_int()
        status = self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self._check(status, "nvrtcVersion")
        self.version = f"{major.value}.{minor.value}"

    @staticmethod
    def _check(status: int, call: str) -> None:
        if status:
            hint = "install the NVRTC that constraints.txt names"
            raise ConfigError(f"{call} failed with status {status}", hint=hint)

    def compile(self, text: str, name: str, architecture: str) -> Cubin:
        """Machine code of an inlined source. Raises ConfigError, with the log, if it is faulty."""
        library, program = self._library, ctypes.c_void_p()
        options = [option.encode() for option in _options(architecture)]
        created = library.nvrtcCreateProgram(
            ctypes.byref(program), text.encode(), name.encode(), 0, None, None
        )
        self._check(created, "nvrtcCreateProgram")
        try:
            array = (ctypes.c_char_p * len(options))(*options)
            status = library.nvrtcCompileProgram(program, len(options), array)
            log = self._read(program, "ProgramLog").decode(errors="replace").rstrip("\0")
            if status:
                what = f"{name} does not compile for {architecture}"
                raise ConfigError(what, log, "correct the source")
            return Cubin(self._read(program, "CUBIN"), log)
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        read_size = getattr(self._library, f"nvrtcGet{what}Size")
        self._check(read_size(program, ctypes.byref(size)), what)
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer), what)
        return buffer.raw


def _options(architecture: str) -> list[str]:
    # --ptxas-options=-v: registers, spills and shared memory, in the log.
    return [
        f"--gpu-architecture={architecture}",
        "--std=c++17",
        "--ptxas-options=-v",
        "--extra-device-vectorization",
    ]


@functools.cache
def nvrtc() -> Nvrtc:
    """The compiler, loaded once."""
    return Nvrtc()


def cache_folder() -> Path:
    """Where compiled kernels are kept: $GPUMPC_KERNEL_CACHE, or the user's cache."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = Path(os.environ.get(CACHE) or user_cache / "gpumpc" / "kernels")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def cubin_path(file: str, architecture: str) -> Path:
    """The cached machine code of one source file, compiled if it is not there."""
    text, compiler = source(file), nvrtc()
    parts = "\0".join([compiler.version, *_options(architecture), text])
    key = hashlib.sha256(parts.encode()).hexdigest()
    code = cache_folder() / f"{file}-{architecture}-{key[:32]}.cubin"
    if not code.exists():
        cubin = compiler.compile(text, f"{file}.cu", architecture)
        # The code is written last and is there only with its log; a rename is all or nothing.
        for path, content in ((code.with_suffix(".log"), cubin.log.encode()), (code, cubin.code)):
            partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
            partial.write_bytes(content)
            partial.replace(path)
    return code


def compiled(file: str, architecture: str) -> Cubin:
    """Machine code of one source file, from the cache if it is there."""
    path = cubin_path(file, architecture)
    return Cubin(path.read_bytes(), path.with_suffix(".log").read_text())
