"""Archives of packages: downloaded by their ordinary clients, opened without running any code."""

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
from typing import IO

from gpumpc.datasets.sources import DataFile, Source
from gpumpc.errors import ConfigError

TIMEOUT_S = 900
WANTED = "wanted.txt"

# pip asks a source archive's build system for its name and version before it hands the archive
# over, which runs code of the package. This stands in for that build system and reads both from the
# archive's own PKG-INFO instead.
_STAND_IN = """
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
"""


def download(source: Source, folder: Path) -> None:
    """Put the archive into the folder. Raises ConfigError with the client's last words."""
    if source.kind == "deb":
        _run(["apt-get", "download", f"{source.package}={source.version}"], folder=folder)
    elif source.kind == "sdist":
        _pip_sdist(source, folder)
    else:
        _pip(["--only-binary=:all:", f"{source.package}=={source.version}"], folder)


def found(source: Source, folder: Path) -> list[Path]:
    """The archives of a source that lie in the folder."""
    pattern = {
        "wheel": f"{source.package.replace('-', '_')}-{source.version}-*.whl",
        # with dashes or underscores in its name, as its maker pleased
        "sdist": f"*-{source.version}.tar.gz",
        "deb": f"{source.package}_*.deb",
    }
    return list(folder.glob(pattern[source.kind]))


@contextlib.contextmanager
def opened(path: Path, source: Source) -> Iterator[Callable[[DataFile], bytes]]:
    """A function that reads one file of an archive, at most a byte more than its pinned size.

    Raises ConfigError for an archive with another digest, and, from the function, for a file that
    is not inside.
    """
    if source.sha256 and _sha256(path) != source.sha256:
        what = f"{path.name} is not the expected archive"
        hint = "do not use it; fetch again, from a package index that you trust"
        raise ConfigError(what, "its SHA-256 differs from the pinned one", hint)
    if source.kind == "wheel":
        with zipfile.ZipFile(path) as wheel:
            yield lambda file: _content(wheel.open, file)
        return
    # dpkg-deb gives a package's files as one tar, without installing and without root.
    unpacked = ["dpkg-deb", "--fsys-tarfile", str(path)]
    stream = io.BytesIO(_run(unpacked)) if source.kind == "deb" else None
    with tarfile.open(None if stream else path, fileobj=stream) as tar:
        yield lambda file: _content(tar.extractfile, file)


def _content(opener: Callable[[str], IO[bytes] | None], file: DataFile) -> bytes:
    try:
        stream = opener(file.inside)
    except KeyError:
        stream = None
    if stream is None:  # also what tarfile says of a folder
        what = f"the archive does not contain {file.inside}"
        raise ConfigError(what, hint="report it to the project")
    with stream:
        return stream.read(file.n_bytes + 1)


def _pip(arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    options = ["--no-deps", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    _run([sys.executable, "-m", "pip", "download", *options, *arguments], environment=environment)


def _pip_sdist(source: Source, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        stand_in = Path(scratch, "setuptools")
        stand_in.mkdir()
        (stand_in / "__init__.py").write_text("")
        (stand_in / "build_meta.py").write_text(_STAND_IN)
        # With a digest, pip checks the archive before it even unpacks it.
        wanted = Path(scratch, WANTED)
        wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
        environment = {**os.environ, "PYTHONPATH": scratch, "SETUPTOOLS_USE_DISTUTILS": "stdlib"}
        options = ["--no-binary=:all:", "--no-build-isolation", "--use-pep517", "--require-hashes"]
        _pip([*options, "-r", str(wanted)], folder, environment)


def _run(
    command: list[str], *, folder: Path | None = None, environment: dict[str, str] | None = None
) -> bytes:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
        )
    except FileNotFoundError as error:
        what = f"the program {command[0]} is missing"
        raise ConfigError(what, "it belongs to Debian", "go on without it") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        words = [line for line in lines if line.startswith(("ERROR", "E:"))]
        why = words[-1] if words else f"code {done.returncode}"
        wanted = "the source archive" if command[-1].endswith(WANTED) else command[-1]
        raise ConfigError(f"{wanted} could not be had", why, "check the network, then fetch again")
    return done.stdout


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
