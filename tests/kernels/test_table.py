"""The table of docs/kernels.md is what its command prints."""

import re

import pytest

from bench import kernel_table
from gpumpc.ring import kernels


@pytest.mark.evidence
def test_the_document_holds_what_the_command_prints(capsys):
    assert kernel_table.main([]) == 0
    assert kernel_table.written() == capsys.readouterr().out.strip()


def test_every_kernel_has_a_line_and_every_byte_a_kernel():
    text = kernel_table.written()
    assert re.findall(r"^\| (\w+) \| \d", text, re.MULTILINE) == [
        line.name for line in kernel_table.lines()
    ]
    assert kernel_table.BYTES.keys() <= kernels.catalogue().keys()


def test_it_is_written_between_its_marks(tmp_path, monkeypatch):
    document = tmp_path / "kernels.md"
    document.write_text(f"before\n{kernel_table.BEGIN}\nold\n{kernel_table.END}\nafter\n")
    monkeypatch.setattr(kernel_table, "DOCUMENT", document)
    monkeypatch.setattr(kernel_table, "table", lambda: "new")
    assert kernel_table.main(["--write"]) == 0
    assert document.read_text() == f"before\n{kernel_table.BEGIN}\nnew\n{kernel_table.END}\nafter\n"
