"""What the reader process takes from itself before it sees a file; nothing gives it back.

Limits of memory, file size, open files and processes; then, where the kernel has them, Landlock
without any path and a seccomp filter of the few system calls that a decoder makes. Both also bind
root.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from typing import NamedTuple

MAX_OPEN_FILES = 16

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CREATE_RULESET, _RESTRICT_SELF, _QUERY_ABI = 444, 446, 1  # Landlock's numbers, on every machine

# Of linux/landlock.h: how many rights over files, over TCP and over other processes an ABI knows.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_SINCE, _SCOPES_SINCE = 4, 6

# No open, connect, fork, exec, kill, fcntl (it can direct signals), sigaction or setrlimit.
_CALLS = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "mmap": 9, "mprotect": 10,
        "munmap": 11, "brk": 12, "rt_sigreturn": 15, "pread64": 17, "readv": 19, "writev": 20,
        "sched_yield": 24, "mremap": 25, "madvise": 28, "getpid": 39, "recvmsg": 47, "exit": 60,
        "gettimeofday": 96, "getrusage": 98, "sigaltstack": 131, "gettid": 186, "futex": 202,
        "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228,
        "clock_getres": 229, "exit_group": 231, "newfstatat": 262, "getrandom": 318,
    },
    "aarch64": {
        "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "mmap": 222,
        "mprotect": 226, "munmap": 215, "brk": 214, "rt_sigreturn": 139, "pread64": 67,
        "readv": 65, "writev": 66, "sched_yield": 124, "mremap": 216, "madvise": 233,
        "getpid": 172, "recvmsg": 212, "exit": 93, "gettimeofday": 169, "getrusage": 165,
        "sigaltstack": 132, "gettid": 178, "futex": 98, "sched_getaffinity": 123,
        "restart_syscall": 128, "clock_gettime": 113, "clock_getres": 114, "exit_group": 94,
        "newfstatat": 79, "getrandom": 278,
    },
}  # fmt: skip
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM

_libc = ctypes.CDLL(None, use_errno=True)


class Protection(NamedTuple):
    """What this kernel gave the reader process.

    Attributes:
        landlock: the ABI of Landlock; 0: it is not there.
        seccomp: 1 if a filter of system calls holds, else 0.
    """

    landlock: int
    seccomp: int


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def end_with_parent() -> None:
    """Have this process killed when the thread that started it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit(memory_bytes: int) -> None:
    """Limit the memory of this process; it can write no file and leave no core."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(kind, (0, 0))


def confine() -> Protection:
    """Give up files, network and processes for good; call it once everything is imported."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # does not bind root
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return Protection(0, 0)
    return Protection(_landlock(), _seccomp())


def _landlock() -> int:
    abi = int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _QUERY_ABI))
    if abi < 1:
        return 0
    files = (1 << _FILE_RIGHTS[min(abi, max(_FILE_RIGHTS))]) - 1
    words = [files, *([3] if abi >= _TCP_SINCE else []), *([3] if abi >= _SCOPES_SINCE else [])]
    rights = struct.pack(f"={len(words)}Q", *words)
    rules = int(_libc.syscall(_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0))
    if rules < 0:
        return 0
    failed = _libc.syscall(_RESTRICT_SELF, rules, 0)
    os.close(rules)
    return 0 if failed else abi


def _seccomp() -> int:
    machine = platform.machine()
    if machine not in _CALLS:
        return 0
    numbers = sorted(_CALLS[machine].values())
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_IF_EQUAL, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (_RETURN, 0, 0, _FAIL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    mode = _SECCOMP_MODE_FILTER
    return int(_libc.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(program), 0, 0) == 0)
