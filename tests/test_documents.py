"""The documents name only files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/**/*.md")])
FOLDERS = ("gpumpc", "bench", "tests", "docs", "kernels", "models")
FILES = [str(path) for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
# A path from the root: not the tail of a longer path, an address or a label in quotes.
PATH = re.compile(rf'(?<![\w/."-])(?:{"|".join(FOLDERS)})/[\w./*-]*')
# A file that is named without its folder, or with the last of its folders only.
SHORT_PATH = re.compile(r"`([\w/]+\.(?:py|cu|cuh))`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _missing_paths(text: str) -> list[str]:
    paths = [found.rstrip(".-") for found in PATH.findall(text)]
    short = SHORT_PATH.findall(text)
    return [path for path in paths if not any(ROOT.glob(path))] + [
        path for path in short if not any(file.endswith(f"/{path}") for file in FILES)
    ]


def _missing_links(document: Path, text: str) -> list[str]:
    targets = [target.partition("#")[0] for target in LINK.findall(text) if "://" not in target]
    return [target for target in targets if target and not (document.parent / target).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_paths_and_links_exist(document: Path) -> None:
    text = document.read_text()
    assert not _missing_paths(text) + _missing_links(document, text)


def test_missing_path_is_found_in_text_and_code() -> None:
    here = "`gpumpc/errors.py`, (tests/bench/), bench/test*.toml bench/fig*.toml. `errors.py`"
    assert _missing_paths(here) == ["bench/test*.toml"]
    absent = ["gpumpc/no.py", "wire/no.py", "no.cu"]
    assert _missing_paths("gpumpc/no.py `wire/no.py` `no.cu`") == absent
    assert not _missing_paths('../docs/no.md, out/models/no, x.io/docs/no, "gpumpc/1"')


def test_missing_link_is_found(tmp_path: Path) -> None:
    assert _missing_links(tmp_path / "a.md", "[a](b.md) [c](https://d.e) [f](#g)") == ["b.md"]
