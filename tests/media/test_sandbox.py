"""Hostile code in a decoder's place, in the real reader process: what it tries is refused."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gpumpc.media import read, sandbox
from gpumpc.media.child_messages import Options
from gpumpc.media.read import Item, Limits, Refused, read_images

PROTECTION = read.reader_protection()
pytestmark = pytest.mark.skipif(
    not (PROTECTION.landlock and PROTECTION.seccomp), reason="the kernel lacks what is tested"
)

# Each leaves a trace, or its pixel says that it worked.
ESCAPES = {
    "reads another file": "open(FOLDER + '/secret.toml').read()",
    "lists a folder": "os.listdir(FOLDER)",
    "writes a file": "open(FOLDER + '/new', 'x')",
    "deletes a file": "os.unlink(FOLDER + '/secret.toml')",
    "makes a link": "os.symlink('a', FOLDER + '/new')",
    "renames a file": "os.rename(FOLDER + '/secret.toml', FOLDER + '/new')",
    "makes a folder": "os.mkdir(FOLDER + '/new')",
    "changes a mode": "os.chmod(FOLDER + '/secret.toml', 0o777)",
    "changes the mode of its file": "os.fchmod(file.fileno(), 0o777)",
    "empties its file": "os.ftruncate(file.fileno(), 0)",
    "opens its file again": "open(f'/proc/self/fd/{file.fileno()}', 'r+b')",
    "connects": "socket.create_connection(('127.0.0.1', PORT), 1.0)",
    "makes a UNIX socket": "socket.socket(socket.AF_UNIX)",
    "makes a pair of sockets": "socket.socketpair()",
    "forks": "os.fork() or os._exit(0)",
    "starts a thread": "threading.Thread(target=int).start()",
    "starts a program": "os.execv('/bin/true', ['true'])",
    "kills its parent": "os.kill(os.getppid(), 9)",
    "raises its limits": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "ignores a signal": "signal.signal(signal.SIGXCPU, signal.SIG_IGN)",
    "directs a signal": "fcntl.fcntl(file.fileno(), fcntl.F_SETOWN, 1)",
    "traces its parent": "CALL(101, 16, os.getppid(), 0, 0)",
    "opens by another way": "CALL(437, -100, FOLDER.encode(), bytes(24), 24)",
    "makes an io_uring": "CALL(425, 1, bytes(120))",
}


def take_over(monkeypatch: pytest.MonkeyPatch, bodies: list[str], folder: Path, port: int) -> None:
    """The real reader process, in which `bodies` run in the place of every decoder.

    A pixel for each says whether it worked: 1, or was refused: 0.
    """
    attempts = "".join(
        f"""
    try:
        {body}
    except (OSError, RuntimeError, ValueError):
        yield np.zeros((1, 1, 1))
    else:
        yield np.ones((1, 1, 1))
"""
        for body in bodies
    )
    script = f"""
import ctypes, fcntl, os, resource, signal, socket, threading, time
import numpy as np
from gpumpc.media import child
FOLDER, PORT = {str(folder)!r}, {port}
libc = ctypes.CDLL(None, use_errno=True)
def CALL(*words):
    if libc.syscall(*words) < 0:
        raise OSError(ctypes.get_errno(), 'refused')
def evil(file, options):
{attempts}
child.images_of = evil
child.main()
"""
    monkeypatch.setattr(read, "_CHILD", ("-P", "-c", script))


def hostile(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with a secret, and a file beside it whose reader is taken over."""
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "secret.toml").write_text("secret")
    (tmp_path / "evil.png").write_text("evil")
    return folder, tmp_path / "evil.png"


def test_hostile_decoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, path = hostile(tmp_path)
    allowed = "assert file.read() == b'evil'"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        take_over(monkeypatch, [allowed, *ESCAPES.values()], folder, port)
        found = list(read_images(path))
        assert all(isinstance(item, Item) for item in found), found
        pixels = [item.pixels.max() for item in found if isinstance(item, Item)]
        assert [name for name, pixel in zip(ESCAPES, pixels[1:], strict=True) if pixel] == []
        assert pixels[0] == 1
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert [file.name for file in folder.iterdir()] == ["secret.toml"]
    assert path.read_text() == "evil"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("while True: pass", "processor time|took more than"),
        ("bytearray(3 << 30)", "more memory"),
    ],
)
def test_hostile_decoder_cannot_exhaust_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    folder, path = hostile(tmp_path)
    take_over(monkeypatch, [body], folder, 1)
    (found,) = read_images(path, limits=Limits(silence_s=10.0, file_s=1.0))
    assert isinstance(found, Refused) and re.search(words, str(found)), found


def test_processor_time_is_limited_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = hostile(tmp_path)
    take_over(monkeypatch, ["while True: pass"], folder, 1)
    limit_cpu = read._limit_cpu
    monkeypatch.setattr(read, "_limit_cpu", lambda pid, _: limit_cpu(pid, 1))
    (found,) = read_images(path, limits=Limits(silence_s=60.0, file_s=60.0))
    assert isinstance(found, Refused) and "processor time" in str(found)


def test_landlock_alone_refuses_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    pid = os.fork()
    if pid == 0:
        refused = 1
        try:
            sandbox._libc.prctl(sandbox._PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            sandbox._landlock()
            open(tmp_path / "secret").close()
        except PermissionError:
            refused = 0
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_reader_lives_through_a_change_of_thread(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no picture")
    reader = read._Reader(read.DEFAULT_LIMITS)
    causes: list[str] = []

    def once() -> None:
        causes.extend(str(refused) for refused in reader.read(tmp_path / "a", Options()))

    for _ in range(2):
        thread = threading.Thread(target=once)
        thread.start()
        thread.join()
    once()
    reader.close()
    assert len(causes) == 3 and all("not PNG" in cause for cause in causes)


@pytest.mark.parametrize(
    ("kind", "absent"),
    [("pictures", {"pydicom", "nibabel"}), ("volumes", {"numba"}), ("dicom", {"nibabel"})],
)
def test_reader_has_the_decoders_of_one_kind(kind: str, absent: set[str]) -> None:
    """And nothing of sockets or keys: what is not there, a hostile file cannot use."""
    script = "import sys; from gpumpc.media import child; child.import_decoders(sys.argv[1]); "
    script += "print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", script, kind]
    found = {*subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()}
    assert "PIL" in found and not found & (absent | {"zmq", "cryptography"})
