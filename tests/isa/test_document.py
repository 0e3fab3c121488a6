"""docs/isa.md is what the opcode table says."""

from isa import document
from isa.opcodes import OPS


def test_the_page_is_current():
    assert document.PATH.read_text(encoding="utf-8") == document.document(), "run python -m isa.document"


def test_the_page_has_every_row():
    page = document.document()
    for op in OPS:
        assert f"| 0x{op.code:02x} | `{op.name}" in page
    assert "`LDG.<width> dst, [a + base + offset]`" in page


def test_stale_pages_are_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(document, "PATH", tmp_path / "isa.md")
    assert document.main(["--check"]) == 1
    assert document.main([]) == 0 and document.main(["--check"]) == 0
    (tmp_path / "isa.md").write_text("old")
    assert document.main(["--check"]) == 1
    assert "isa.md is stale: run python -m isa.document" in capsys.readouterr().err
    assert document.main(["--chek"]) == 2
