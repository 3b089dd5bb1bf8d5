"""Fetching without a network: tiny archives made here, from a stub and from pip --find-links."""

import hashlib
import io
import shutil
import subprocess
import tarfile

import pytest

from gpumpc.datasets import archives
from gpumpc.datasets.fetch import SOURCES, DataFile, Source, fetch, paths
from gpumpc.errors import ConfigError, MissingFile
from tests.datasets.phantoms import CONTENT, Stub, source, write_wheel


def fetched(wanted, folder, table, download=archives.download):
    return fetch(wanted, folder, sources=table, download=download, say=lambda line: None)


def test_only_listed_files_are_unpacked_and_fetched_once(tmp_path):
    stub, table = Stub(), {"toy": source()}
    lines: list[str] = []
    first = fetch(["toy", "toy"], tmp_path, sources=table, download=stub, say=lines.append)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["a.png", "b.nii.gz"]
    assert [path.read_bytes() for path in first.files["toy"]] == list(CONTENT.values())
    assert not first.missing
    assert "0.0 MB in all" in lines[0] and "toy-images 1.0" in lines[1]
    again = fetch(["toy"], tmp_path, sources=table, download=stub, say=lines.append)
    assert again == first and stub.calls == ["toy-images"] and len(lines) == 2


def test_missing_source_is_reported_and_the_rest_fetched(tmp_path):
    table = {"gone": source("gone"), "toy": source()}
    lines: list[str] = []
    stub = Stub(broken=("gone",))
    got = fetch(["gone", "toy"], tmp_path, sources=table, download=stub, say=lines.append)
    assert list(got.files) == ["toy"] and "no such package" in got.missing["gone"]
    assert any(line.startswith("skipped gone") for line in lines)
    with pytest.raises(MissingFile, match="data fetch gone"):
        paths("gone", tmp_path, table)


def test_interrupted_fetch_resumes_from_the_download(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    write_wheel(folder)  # the download had ended, the unpacking had not
    (folder / "a.png").write_bytes(b"half a pic")
    stub = Stub()
    got = fetched(["toy"], tmp_path, {"toy": source()}, stub)
    assert stub.calls == [] and got.files["toy"][0].read_bytes() == CONTENT["toy/data/a.png"]


def test_broken_wheel_is_deleted_and_fetched_again(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy_images-1.0-py3-none-any.whl").write_bytes(b"PK half a wheel")
    stub, table = Stub(), {"toy": source()}
    assert "toy" in fetched(["toy"], tmp_path, table, stub).missing
    assert "toy" in fetched(["toy"], tmp_path, table, stub).files


def test_file_with_a_wrong_hash_is_not_kept(tmp_path):
    got = fetched(["toy"], tmp_path, {"toy": source(content=b"what was pinned")}, Stub())
    assert "SHA-256" in got.missing["toy"] and not list((tmp_path / "toy").iterdir())


def test_a_wheel_without_the_file_is_reported(tmp_path):
    table = {"toy": source()._replace(files=(DataFile("toy/none.png", "0" * 64, 3),))}
    assert "does not contain" in fetched(["toy"], tmp_path, table, Stub()).missing["toy"]


def test_empty_download_is_reported(tmp_path):
    got = fetched(["toy"], tmp_path, {"toy": source()}, lambda wanted, folder: None)
    assert "no wheel" in got.missing["toy"]


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no data source 'mri'"):
        fetch(["mri"], tmp_path)


@pytest.fixture
def links(tmp_path, monkeypatch):
    """The only folder from which pip takes packages."""
    (tmp_path / "links").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    return tmp_path / "links"


def test_pip_itself_downloads_from_a_folder(links, tmp_path):
    write_wheel(links)
    got = fetched(["toy"], tmp_path / "cache", {"toy": source()})
    assert got.files["toy"][1].read_bytes() == CONTENT["toy/data/b.nii.gz"]
    with pytest.raises(ConfigError, match="absent==1.0"):
        archives.download(source("absent"), tmp_path)


def test_every_real_source_is_pinned():
    for entry in SOURCES.values():
        assert entry.version[0].isdigit() and entry.download_bytes > 0
        assert all(len(file.sha256) == 64 and file.n_bytes > 0 for file in entry.files)
        assert entry.kind == "wheel" or len(entry.sha256) == 64
        names = [file.inside.rsplit("/", 1)[-1] for file in entry.files]
        assert len(set(names)) == len(names)


def write_sdist(folder):
    """A source archive whose own set-up must never run."""
    path = folder / "toy-images-1.0.tar.gz"
    parts = {
        **CONTENT,
        "PKG-INFO": b"Metadata-Version: 2.1\nName: toy-images\nVersion: 1.0\n",
        "setup.py": b"open('/' + 'nowhere/at/all')",
    }
    with tarfile.open(path, "w:gz") as archive:
        for inside, data in parts.items():
            entry = tarfile.TarInfo(f"toy-images-1.0/{inside}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def inner(prefix, **changed):
    files = source(**changed).files
    return tuple(file._replace(inside=f"{prefix}/{file.inside}") for file in files)


def test_a_source_archive_is_downloaded_without_running_it(links, tmp_path):
    digest = write_sdist(links)
    entry = Source("toy-images", "1.0", 9, inner("toy-images-1.0"), "sdist", digest)
    got = fetched(["toy"], tmp_path / "cache", {"toy": entry})
    assert [path.read_bytes() for path in got.files["toy"]] == list(CONTENT.values()), got.missing
    assert {path.name for path in (tmp_path / "cache/toy").iterdir()} == {"a.png", "b.nii.gz"}
    foreign = entry._replace(sha256="0" * 64)
    refused = fetched(["toy"], tmp_path / "other", {"toy": foreign})
    assert "source archive could not be had" in refused.missing["toy"]


def test_archive_with_a_wrong_digest_is_not_opened(tmp_path):
    entry = Source("toy-images", "1.0", 9, inner("toy-images-1.0"), "sdist", "0" * 64)
    got = fetched(["toy"], tmp_path, {"toy": entry}, lambda wanted, folder: write_sdist(folder))
    assert "not the expected archive" in got.missing["toy"]
    assert not list((tmp_path / "toy").iterdir())


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")
def test_a_debian_package_is_unpacked_without_root(tmp_path):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True, mode=0o755)
    (tree / "DEBIAN").chmod(0o755)
    about = "Package: toy-images\nVersion: 1.0\nArchitecture: all\nDescription: toy\n"
    (tree / "DEBIAN" / "control").write_text(f"{about}Maintainer: Nobody <no@localhost>\n")
    for inside, data in CONTENT.items():
        path = tree / "usr" / "share" / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "cache" / "toy").mkdir(parents=True)
    package = tmp_path / "cache" / "toy" / "toy-images_1.0_all.deb"
    build = ["dpkg-deb", "--build", "--root-owner-group", tree, package]
    subprocess.run(build, check=True, capture_output=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    entry = Source("toy-images", "1.0", 9, inner("./usr/share"), "deb", digest)
    got = fetched(["toy"], tmp_path / "cache", {"toy": entry})
    assert [path.read_bytes() for path in got.files["toy"]] == list(CONTENT.values()), got.missing


def test_a_missing_program_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="apt-get is missing"):
        archives.download(source()._replace(kind="deb"), tmp_path)
