"""Files of revealed features, `.npz` or `.csv`: `extract --out` writes and `evaluate` reads them.

A `.npz` holds `features` (N, d), `items` (N,) ids and, where the places are known, `files` (N,)
names. A `.csv` has the columns `item`, `file` and one a feature. A file from elsewhere may be
damaged or hostile: sizes are checked before anything is unpacked, and nothing inside is ever
executed.
"""

import contextlib
import csv
import io
import math
import os
import re
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, BadValue, ConfigError, MissingFile
from gpumpc.offline.secret import file_error

SUFFIXES = (".npz", ".csv")
MAX_BYTES = 2 << 30
MAX_NAME = 4096
MAX_MEMBERS = 16
MAX_HEADER = 1024
# By version of the format: how the length of the header is written.
_LENGTHS = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}
_SIZES = rb"(?:\d{1,19}, ?)*(?:\d{1,19})?"
_HEADER = re.compile(
    rb"\{'descr': '([<>|][a-zA-Z]\d{1,5})', 'fortran_order': (True|False), 'shape': \(("
    + _SIZES
    + rb")\), \}\s*"
)
_AGAIN = "write it again with `gpumpc extract --out`"
_ITEM, _FILE = "item", "file"
# No clock in the archive: the same features give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    csv.Error,
    ValueError,  # Unicode errors too
    TypeError,  # a type that NumPy does not have
    EOFError,
    KeyError,
    RuntimeError,  # an encrypted member, or a compression that zipfile does not know
)

Floats = npt.NDArray[np.float64]


class Features(NamedTuple):
    """Finite features (N, d), N ids of items, and N names of files (none where not known)."""

    features: Floats
    items: tuple[str, ...]
    files: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names to look labels up by: the files, or the ids where there are none."""
        return self.files or self.items


def write_features(
    path: Path, features: npt.ArrayLike, items: Sequence[str], files: Sequence[str] = ()
) -> None:
    """Write a features file for this user alone (0600), replacing an old one at once.

    Args:
        path: ends in `.npz` or `.csv`.
        features: (N, d).
        items: N ids.
        files: N names, or none.

    Raises:
        ConfigError: another suffix, or a file that cannot be written.
        BadShape, BadValue: features that are not a finite (N, d), or another number of names.
    """
    suffix = check_name(path)
    table = _checked(path, Features(_numbers(path, features), _texts(items), _texts(files)))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                (_write_npz if suffix == ".npz" else _write_csv)(file, table)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise file_error(f"the features cannot be saved in {path}", error) from error


def read_features(path: Path, *, max_bytes: int = MAX_BYTES) -> Features:
    """Read and check a features file.

    Args:
        path: ends in `.npz` or `.csv`.
        max_bytes: of the file, and of its unpacked arrays.

    Raises:
        MissingFile: no such file.
        ConfigError: another suffix, or a file that cannot be read.
        BadShape, BadValue: damaged, hostile, too large, or not a table of features.
    """
    suffix = check_name(path)
    if not path.exists():
        hint = "write one with `gpumpc extract --out`, or correct the path"
        raise MissingFile(f"there is no file {path}", "no features are there", hint)
    if not path.is_file():
        raise _unusable(path, "it is not a plain file")
    try:
        if path.stat().st_size > max_bytes:
            raise _unusable(path, f"it has more than {max_bytes} bytes")
        with open(path, "rb") as file:
            found = _read_npz(path, file, max_bytes) if suffix == ".npz" else _read_csv(path, file)
    except OSError as error:
        raise file_error(f"{path} cannot be read", error) from error
    except _BROKEN as error:
        raise _unusable(path, str(error) or type(error).__name__) from error
    return _checked(path, found)


def check_name(path: Path) -> str:
    """Its suffix. Raises ConfigError for one that names no format of features files."""
    if path.suffix not in SUFFIXES:
        why = f"its name ends in '{path.suffix}', which says nothing about the format"
        hint = f"use {' or '.join(SUFFIXES)}"
        raise ConfigError(f"{path} cannot be the name of a features file", why, hint)
    return path.suffix


def _unusable(path: Path, why: str) -> BadValue:
    return BadValue(f"{path} is not a usable features file", why, _AGAIN)


def _numbers(path: Path, values: npt.ArrayLike) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        what = f"the features for {path} are not an array of numbers"
        raise BadValue(what, str(error), "pass a float array") from error


def _texts(names: Iterable[str]) -> tuple[str, ...]:
    """Names as text that can be printed: bytes of a file name outside UTF-8 become escapes."""
    return tuple(str(name).encode("utf-8", "backslashreplace").decode() for name in names)


def _checked(path: Path, found: Features) -> Features:
    values, items, files = found
    fits = len(items) == len(values) and len(files) in (0, len(items))
    if values.ndim != 2 or not values.size or not fits:
        raise BadShape(
            f"features {values.shape} with {len(items)} items and {len(files)} files for {path}",
            "a features file holds (N, d) numbers, N items and N files or none",
            _AGAIN,
        )
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise BadValue(
            f"{len(rows)} of {len(values)} items in {path} have NaN or infinity as features",
            f"the first is '{items[rows[0]]}'",
            "extract them again",
        )
    for name in (*items, *files):
        if len(name) > MAX_NAME or "\0" in name:
            raise _unusable(path, f"a name has over {MAX_NAME} characters or holds a zero byte")
    return found


# .npz


def _write_npz(file: IO[bytes], table: Features) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {"features": table.features}
    arrays["items"] = np.array(table.items)
    if table.files:
        arrays["files"] = np.array(table.files)
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", _DATE)
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _read_npz(path: Path, file: IO[bytes], max_bytes: int) -> Features:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        # The sizes are the archive's own claims; zipfile reads no byte beyond them.
        if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > max_bytes:
            why = f"it unpacks to more than {max_bytes} bytes or {MAX_MEMBERS} arrays"
            raise _unusable(path, why)
        names = {member.filename for member in members}
        if missing := {"features.npy", "items.npy"} - names:
            raise _unusable(path, f"it has no array '{min(missing).removesuffix('.npy')}'")
        features = _member(path, archive, "features", "fiu").astype(np.float64)
        items = _member(path, archive, "items", "U")
        has_files = "files.npy" in names
        files = _member(path, archive, "files", "U") if has_files else np.empty(0, dtype=np.str_)
    if items.ndim != 1 or files.ndim != 1:
        what = f"items of shape {items.shape}, files of shape {files.shape} in {path}"
        raise BadShape(what, hint="use one axis")
    return Features(features, _strict(items), _strict(files))


def _strict(names: npt.NDArray[Any]) -> tuple[str, ...]:
    """The names. Raises ValueError for code points that are not text, which NumPy lets pass."""
    native = np.ascontiguousarray(names.astype(names.dtype.newbyteorder("=")))
    codes = native[:, None].view(np.uint32)
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise ValueError("a name is not text")
    return tuple(names.tolist())


def _member(path: Path, archive: zipfile.ZipFile, name: str, kinds: str) -> npt.NDArray[Any]:
    """One array of an allowed kind of type, exactly as long as its header says."""
    data = archive.read(f"{name}.npy")
    header = _header(data)
    if header is None:
        raise _unusable(path, f"its array '{name}' has no header of a plain array")
    dtype, is_fortran, shape, start = header
    if dtype.kind not in kinds or not 0 < dtype.itemsize <= (4 * MAX_NAME if "U" in kinds else 8):
        raise _unusable(path, f"its array '{name}' has type {dtype}")
    # Python's integers: a product that wraps would pass.
    count = math.prod(shape)
    if count * dtype.itemsize != len(data) - start:
        raise _unusable(path, f"its array '{name}' does not have the size that its header says")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if is_fortran else "C")


def _header(data: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...], int] | None:
    """Type, order, shape and start of the values; None unless NumPy writes plain arrays so.

    NumPy's own reader gives the header to Python's parser, which raises a dozen kinds of errors.
    """
    if data[:6] != b"\x93NUMPY" or data[6:8] not in _LENGTHS:
        return None
    layout = struct.Struct(_LENGTHS[data[6:8]])
    [length] = layout.unpack_from(data, 8)
    start = 8 + layout.size + length
    match = _HEADER.fullmatch(data[8 + layout.size : start]) if length <= MAX_HEADER else None
    if match is None:
        return None
    kind, order, shape = (part.decode() for part in match.groups())
    sizes = tuple(int(size) for size in shape.split(",") if size.strip())
    return np.dtype(kind), order == "True", sizes, start


# .csv


def _write_csv(file: IO[bytes], table: Features) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    places = table.files or ("",) * len(table.items)
    writer.writerow([_ITEM, _FILE, *(f"f{i}" for i in range(table.features.shape[1]))])
    for item, place, row in zip(table.items, places, table.features.tolist(), strict=True):
        writer.writerow([item, place, *map(repr, row)])
    text.flush()
    text.detach()


def _read_csv(path: Path, file: IO[bytes]) -> Features:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        rows = csv_rows(path, text)
        _, header = next(rows, (0, []))
        if _ITEM not in header:
            raise _unusable(path, f"its first line names no column '{_ITEM}'")
        at = header.index(_ITEM)
        place = header.index(_FILE) if _FILE in header else None
        columns = [i for i in range(len(header)) if i not in (at, place)]
        items: list[str] = []
        files: list[str] = []
        values: list[Floats] = []
        for line, row in rows:
            items.append(row[at])
            files.append("" if place is None else row[place])
            try:
                values.append(np.array([float(row[i]) for i in columns]))
            except ValueError as error:
                raise _unusable(path, f"line {line}: {error}") from error
    features = np.stack(values) if values else np.empty((0, len(columns)))
    return Features(features, tuple(items), tuple(files) if any(files) else ())


def csv_rows(path: Path, text: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of a table whose rows are all as long as the first, without empty lines.

    Raises BadShape for another length; csv.Error, UnicodeDecodeError for anything else than text.
    """
    reader = csv.reader(text, strict=True)
    width: int | None = None
    for row in reader:
        if not row:
            continue
        width = len(row) if width is None else width
        if len(row) != width:
            raise BadShape(
                f"line {reader.line_num} of {path} has {len(row)} columns",
                f"the first line has {width}",
                "write the table again",
            )
        yield reader.line_num, row


@contextlib.contextmanager
def opened_text(path: Path, what: str, *, max_bytes: int = MAX_BYTES) -> Iterator[IO[str]]:
    """A text file that users write, such as labels. Raises MissingFile, ConfigError, BadValue."""
    if not path.exists():
        raise MissingFile(f"there is no file {path}", "the path is wrong", f"give {what}")
    if not path.is_file() or path.stat().st_size > max_bytes:
        why = f"it is not a plain file of up to {max_bytes} bytes"
        raise BadValue(f"{path} cannot be {what}", why, f"give {what}")
    try:
        with open(path, encoding="utf-8-sig", newline="") as text:
            yield text
    except OSError as error:
        raise file_error(f"{path} cannot be read", error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        hint = f"give {what}, in UTF-8"
        raise BadValue(f"{path} is not a table of text", str(error), hint) from error
