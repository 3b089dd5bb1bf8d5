"""The table of docs/kernels.md is what its command prints."""

import re

import pytest

from bench import kernel_table
from gpumpc.ring import kernels


@pytest.mark.evidence
def test_docs_hold_the_printed_kernel_table(capsys):
    assert kernel_table.main([]) == 0
    assert kernel_table.written() == capsys.readouterr().out.strip()


def test_table_lines_and_byte_counts_name_kernels():
    text = kernel_table.written()
    assert re.findall(r"^\| (\w+) \| \d", text, re.MULTILINE) == [
        line.name for line in kernel_table.lines()
    ]
    assert kernel_table.BYTES.keys() <= kernels.catalogue().keys()


def test_table_is_written_between_its_marks(tmp_path, monkeypatch):
    document = tmp_path / "kernels.md"
    document.write_text(f"before\n{kernel_table.BEGIN}\nold\n{kernel_table.END}\nafter\n")
    monkeypatch.setattr(kernel_table, "DOCUMENT", document)
    monkeypatch.setattr(kernel_table, "table", lambda: "new")
    assert kernel_table.main(["--write"]) == 0
    assert document.read_text() == f"before\n{kernel_table.BEGIN}\nnew\n{kernel_table.END}\nafter\n"
