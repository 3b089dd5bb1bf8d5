"""Files to images, on the client. A confined child process parses each file (`sandbox.py`).

for found in read_images([Path("scans")], LITE0_INPUT):
    if isinstance(found, Refused): print(found)
    else: use(found.pixels)
"""

import contextlib
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gpumpc import version
from gpumpc.errors import BadValue, MissingFile, UnreadableImage
from gpumpc.media.child_messages import (
    DONE,
    HEADER_BYTES,
    MAX_FILE_PIXELS,
    MAX_FRAMES,
    REFUSED,
    Options,
    Request,
    parse_header,
    parse_pixels,
    parse_ready,
    parse_refusal,
)
from gpumpc.media.decode import DICOM, HEAD_BYTES, PICTURES, kind_of
from gpumpc.media.sandbox import Protection
from gpumpc.program.plan import Preprocessing

FloatArray = npt.NDArray[np.float64]

# For a reader process to import its decoders, on a machine that does much else.
_START_S = 60.0


class Item(NamedTuple):
    """One 2-D image.

    Attributes:
        path: its file.
        frame: its number in the file, from 0: page, frame or slice.
        pixels: (H, W, C) in [0, 1].
    """

    path: Path
    frame: int
    pixels: FloatArray


class Refused(NamedTuple):
    """A file that gave no image: all of it is refused, or nothing."""

    path: Path
    cause: str
    hint: str

    def __str__(self) -> str:
        return str(self.error())

    def error(self) -> UnreadableImage:
        """The same as an exception."""
        return UnreadableImage(f"{self.path} is refused", self.cause, self.hint)


class Limits(NamedTuple):
    """What one file may take.

    Attributes:
        memory_bytes: of the reader process, in all.
        silence_s: seconds between two images of a file.
        file_s: seconds, and seconds of processor time, for all images of a file.
    """

    memory_bytes: int = 2 << 30
    silence_s: float = 4.5
    file_s: float = 60.0


DEFAULT_LIMITS = Limits()


def read_images(
    paths: Path | Iterable[Path],
    recipe: Preprocessing | None = None,
    *,
    axis: int = 2,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Item | Refused]:
    """Every image of files and folders, in order of their names; a bad file is only reported.

    PNG, JPEG, TIFF, NIfTI and DICOM, told apart by their content. Images of one file come together,
    once the file was read to its end.

    Args:
        paths: files, and folders that are searched with all below them; names that begin with a dot
            are left out.
        recipe: size, number of channels and window; None: images as they are.
        axis: axis of volumes that slices are cut along: 0 sagittal, 1 coronal, 2 axial.
        limits: what a file may take.

    Raises:
        MissingFile: a path that is not there.
        BadValue: an axis or a recipe that cannot be used.
    """
    options = _options(recipe, axis)
    files = list(_files([paths] if isinstance(paths, Path) else paths))
    return _read_all(files, options, limits)


def _read_all(files: list[Path], options: Options, limits: Limits) -> Iterator[Item | Refused]:
    readers: dict[str, _Reader] = {}
    with contextlib.ExitStack() as stack:
        for path in files:
            kind = _kind(path)
            if kind not in readers:
                readers[kind] = stack.enter_context(contextlib.closing(_Reader(limits, kind)))
            yield from readers[kind].read(path, options)


def read_image(path: Path, recipe: Preprocessing | None = None, *, axis: int = 2) -> list[Item]:
    """The images of one file, see `read_images`. Raises UnreadableImage too."""
    found = list(read_images(path, recipe, axis=axis))
    for item in found:
        if isinstance(item, Refused):
            raise item.error()
    return [item for item in found if isinstance(item, Item)]


def _options(recipe: Preprocessing | None, axis: int) -> Options:
    if axis not in (0, 1, 2):
        hint = "use 0 (sagittal), 1 (coronal) or 2 (axial)"
        raise BadValue(f"a volume has no axis {axis}", hint=hint)
    if recipe is None:
        return Options(axis=axis)
    if len(recipe.mean) not in (1, 3):
        what = f"a recipe of {len(recipe.mean)} channels"
        raise BadValue(what, "images have 1 or 3", "compile the model again")
    if (shown := recipe.window) and not (np.isfinite(shown).all() and shown[1] > 0):
        raise BadValue(f"a window of {shown}", "its width must be above 0", "give (centre, width)")
    return Options((recipe.size[0], recipe.size[1]), len(recipe.mean), recipe.window, axis)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (
                found
                for found in sorted(path.rglob("*"))
                if not found.is_dir()
                and not any(part.startswith(".") for part in found.relative_to(path).parts)
            )
        elif path.exists():
            yield path
        else:
            raise MissingFile(f"there is no file {path}", "the path is wrong", "correct it")


# -P: no module is imported from the current folder.
_CHILD = ("-P", "-m", "gpumpc.media.child")


class _Reader:
    """One child process at a time, for files of one kind; a new one after each that died or had to
    be ended.
    """

    def __init__(self, limits: Limits, kind: str = DICOM) -> None:
        self._limits, self._kind = limits, kind
        self._child: subprocess.Popen[bytes] | None = None
        self._line: socket.socket
        self._thread: threading.Thread
        self._protection: Protection

    def read(self, path: Path, options: Options) -> list[Item] | list[Refused]:
        """All images of a file, or its refusal."""
        try:
            file = _open(path)
        except PermissionError:
            hint = "check the permissions of the file and its folder"
            return [Refused(path, "it may not be read by this user", hint)]
        except OSError as error:
            cause = f"it cannot be opened ({error.strerror})"
            return [Refused(path, cause, "copy it again from where it came from")]
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return [Refused(path, "it is not a plain file", "copy its content into one")]
            return self._converse(path, file, options)
        except _Refusal as refusal:
            return [Refused(path, *refusal.args)]
        except TimeoutError:
            self.close()
            limits = f"{self._limits.silence_s:g} s an image or {self._limits.file_s:g} s in all"
            hint = "it is damaged or made to waste time: export it again, smaller"
            return [Refused(path, f"it took more than {limits}", hint)]
        except (EOFError, ConnectionError):
            hint = "it is damaged or hostile: export it again, smaller"
            return [Refused(path, self._cause_of_death(), hint)]
        except ValueError:
            self.close()
            hint = "the file may be hostile: do not open it elsewhere"
            return [Refused(path, "the answer of the reader process makes no sense", hint)]
        finally:
            os.close(file)

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)  # its group has its number
            self._child.wait()
            self._line.close()
            self._child = None

    def _converse(self, path: Path, file: int, options: Options) -> list[Item]:
        child = self._start()
        _limit_cpu(child.pid, max(int(self._limits.file_s), 1))
        self._line.settimeout(self._limits.silence_s)
        socket.send_fds(self._line, [msgspec.json.encode(Request(options))], [file])
        last = time.monotonic() + self._limits.file_s
        items: list[Item] = []
        n_pixels = 0
        while True:
            header = parse_header(self._receive(HEADER_BYTES, last), options)
            if header.kind == DONE:
                return _all(items)
            payload = self._receive(header.payload_bytes, last)
            if header.kind == REFUSED:
                raise _Refusal(*parse_refusal(payload))
            n_pixels += header.height * header.width
            _check_flood(len(items), n_pixels)
            items.append(Item(path, len(items), parse_pixels(header, payload)))

    def start(self) -> Protection:
        """Start the child process; what this kernel confines it with."""
        self._start()
        return self._protection

    def _start(self) -> subprocess.Popen[bytes]:
        # The child ends with the thread that started it.
        if self._child is not None and self._thread is threading.current_thread():
            return self._child
        self.close()
        self._thread = threading.current_thread()
        self._line, theirs = socket.socketpair()
        # Only the variables that Python needs to start; one thread, since each reserves memory.
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": _package_root(),
            "OPENBLAS_NUM_THREADS": "1",
        }
        with theirs:
            self._child = child = subprocess.Popen(
                [sys.executable, *_CHILD, str(self._limits.memory_bytes), self._kind],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        ready = self._receive(HEADER_BYTES, time.monotonic() + _START_S, _START_S)
        self._protection = Protection(*parse_ready(ready))
        return child

    def _receive(self, n_bytes: int, last: float, silence_s: float | None = None) -> bytearray:
        """Exactly so many bytes. Raises TimeoutError, EOFError."""
        silence = self._limits.silence_s if silence_s is None else silence_s
        until = min(time.monotonic() + silence, last)
        data = bytearray(n_bytes)
        view, filled = memoryview(data), 0
        while filled < n_bytes:
            # A timeout of 0 would mean "do not wait at all" and raise another error.
            self._line.settimeout(max(until - time.monotonic(), 1e-3))
            got = self._line.recv_into(view[filled:])
            if not got:
                raise EOFError
            filled += got
        return data

    def _cause_of_death(self) -> str:
        """Why the child died; the next file gets a new one."""
        child = self._child
        if child is None:
            return "the reader process did not start"
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1.0)
        code = child.poll()
        self.close()
        if code == -signal.SIGXCPU:
            return f"reading it took more than {self._limits.file_s:g} s of processor time"
        if code is not None and code < 0:
            return f"it ended the reader process by {signal.Signals(-code).name}"
        return f"it ended the reader process with code {code}"


class _Refusal(Exception):
    """The child's refusal of a file: cause and hint."""


def reader_protection() -> Protection:
    """Start a reader process and say what this kernel confines it with. Raises OSError, EOFError
    if none can be started.
    """
    with contextlib.closing(_Reader(DEFAULT_LIMITS, PICTURES)) as reader:
        return reader.start()


def _open(path: Path) -> int:
    """A descriptor for reading; a pipe is not waited for."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def _kind(path: Path) -> str:
    """The kind of a file by its first bytes; any for one that cannot be read: it is refused."""
    with contextlib.suppress(OSError):
        file = _open(path)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                return kind_of(os.pread(file, HEAD_BYTES, 0))
        finally:
            os.close(file)
    return DICOM


def _limit_cpu(pid: int, cpu_s: int) -> None:
    """So many more seconds of processor time; the child can neither change nor catch that."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        ticks = sum(map(int, file.read().rpartition(b")")[2].split()[11:13]))
    _, hard = resource.prlimit(pid, resource.RLIMIT_CPU)
    limit = ticks // os.sysconf("SC_CLK_TCK") + 1 + cpu_s
    resource.prlimit(pid, resource.RLIMIT_CPU, (limit, hard))


def _all(items: list[Item]) -> list[Item]:
    if not items:
        raise _Refusal("there is no image in it", "share the file that holds the images")
    return items


def _check_flood(n_items: int, n_pixels: int) -> None:
    if n_items >= MAX_FRAMES or n_pixels > MAX_FILE_PIXELS:
        raise ValueError("more images than a file may have")


def _package_root() -> str:
    return str(Path(version.__file__).resolve().parent.parent)
