"""Compiled timing-only programs are kept, and made again when anything they depend on changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.assemble import assemble
from isa.program import Program
from programs.program_cache import kept
from tools.warm import PROGRAMS


class Maker:
    """Counts how often it had to make the program."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Program:
        self.calls += 1
        return assemble(PROGRAMS["lpu"])


def test_a_program_is_made_once_for_the_same_sources_and_options(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DECODELAB_CACHE", str(tmp_path / "cache"))
    compiler = tmp_path / "compiler.py"
    compiler.write_text("version = 1\n")
    make = Maker()
    first, second = kept(compiler, "a", make), kept(compiler, "a", make)
    assert make.calls == 1
    assert first.texts[0].words.tolist() == second.texts[0].words.tolist()
    assert first.chip_hash == second.chip_hash
    kept(compiler, "b", make)
    assert make.calls == 2
    compiler.write_text("version = 2\n")
    kept(compiler, "a", make)
    assert make.calls == 3


def test_a_broken_file_is_replaced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DECODELAB_CACHE", str(tmp_path / "cache"))
    compiler = tmp_path / "compiler.py"
    compiler.touch()
    make = Maker()
    kept(compiler, "a", make)
    file = next((tmp_path / "cache" / "programs").iterdir())
    file.write_bytes(b"broken")
    kept(compiler, "a", make)
    kept(compiler, "a", make)
    assert make.calls == 2


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("DECODELAB_CACHE", str(tmp_path / "cache"))
    compiler = tmp_path / "compiler.py"
    compiler.touch()
    make = Maker()
    assert kept(compiler, "a", make).chip == kept(compiler, "a", make).chip
    assert make.calls == 2


@pytest.mark.parametrize("kind", sorted(PROGRAMS))
def test_the_warming_programs_give_what_they_expect(kind: str) -> None:
    """tools.warm compiles the engines with them; a wrong result there would go unseen."""
    from emulator.run import run

    result = run(assemble(PROGRAMS[kind]))
    name = {"lpu": "y", "gpu": "x"}[kind]
    assert (result.outputs[name] == 3.0).all()
